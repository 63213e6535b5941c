"""Files from strangers: refused by name, at once; nothing in them is executed and nothing is written."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rece_lightning
from rece_lightning import RECE, ConfigurationError
from rece_lightning.core.errors import ReceError
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.finished import finished_session
from rece_lightning.erasure.state import fault, former_layout
from rece_lightning.erasure.transfer import transfer
from rece_lightning.exports.map import EmbeddingMap
from rece_lightning.exports.record import file_metadata
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from tests.cli.test_bad_input import Malice, assert_names, change_tensor, message_of
from tests.helpers.command import run_command, write_config
from tests.helpers.models_original import make_original

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
TO_K = "attn2.to_k.weight"
SECONDS = 10
VERBS = ("fit", "export", "apply")
GIB = 1 << 30

Change = Callable[[Path], object]
"""Damages a copy of the model."""


class Scene:
    """An empty working folder with a finished run beside it; every refusal in it is looked at from all sides."""

    def __init__(self, folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.run, self.capsys = folder, run, capsys
        self.tiny = run.parents[1] / "tiny"
        """The model that the run is of."""
        self.mark = folder.parent / f"{folder.name}-executed"

    def command(self, *arguments: str | Path) -> str:
        """The message that a command must end with."""
        before, started = tree(self.folder), time.monotonic()
        outcome = run_command(self.capsys, *arguments)
        took = time.monotonic() - started
        message = message_of(outcome.code, outcome.out, outcome.err)
        assert took < SECONDS
        assert not self.mark.exists(), "code in a file was executed"
        assert tree(self.folder) == before
        return message

    def base(self, place: Path | str, verb: str = "apply", *more: str) -> str:
        """What a verb says to a base model. The cheapest one stands for all where all open it in the same way."""
        if verb == "fit":
            own = [f"--model.{more[0].removeprefix('--')}", *more[1:]] if more else []
            return self.command("fit", "--config", self.config(place), *own)
        format = ("--format", "delta") if verb == "export" else ()
        given = ("--ckpt_path", self.run, "--pretrained", place, "--output", "out.safetensors")
        return self.command(verb, *given, *format, *more)

    def checkpoint(self, place: Path | str, verb: str = "export") -> str:
        """What a verb says to a checkpoint."""
        if verb == "fit":
            return self.command("fit", "--config", self.config(self.tiny, max_epochs=3), "--ckpt_path", place)
        format = ("--format", "lora") if verb == "export" else ()
        given = ("--ckpt_path", place, "--pretrained", self.tiny, "--output", "out.safetensors")
        return self.command(verb, *given, *format)

    def config(self, pretrained: Path | str, data: dict[str, Any] | None = None, **trainer: Any) -> Path:
        """A configuration that lies beside the folder."""
        place = self.folder.parent / "config"
        place.mkdir(exist_ok=True)
        return write_config(place, pretrained, data=data, trainer=trainer)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below, with what would change if it were written to."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = Path(place, name).lstat()
            found[str(Path(place, name))] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the model, which lies beside it."""
    place = tmp_path_factory.mktemp("finished")
    model = shutil.copytree(tiny_model, place / "tiny")
    config = write_config(place, model, trainer={"default_root_dir": str(place / "runs")})
    rece_lightning.__main__.main(["fit", "--config", str(config)])
    return place / "runs" / "version_0"


@pytest.fixture
def scene(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Scene:
    run = tmp_path / "theirs" / "runs" / "version_0"
    shutil.copytree(finished, run)
    shutil.copytree(finished.parents[1] / "tiny", tmp_path / "theirs" / "tiny")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Scene(tmp_path / "here", run, capsys)


@pytest.fixture
def model(tmp_path: Path, scene: Scene) -> Path:
    """A copy of the model, to damage."""
    return shutil.copytree(scene.tiny, tmp_path / "model")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file in the original layout. Copy it before changing it."""
    return make_original(tmp_path_factory.mktemp("original") / "model.safetensors", "sd1")


# Headers


def with_header(file: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    header += b" " * (-len(header) % 8)
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    return json.dumps({f"a.{TO_K}": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def many_tensors(file: Path) -> None:
    names = {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(25_000)}
    with_header(file, json.dumps(names).encode())


HEADERS: dict[str, Change] = {
    "petabytes": lambda file: with_header(file, b"{}", 1 << 50),
    "negative": lambda file: with_header(file, b"{}", (1 << 64) - 8),
    "200 MB announced": lambda file: with_header(file, b"{}", 200_000_000),
    "30 MB there": lambda file: with_header(file, b'{"a":"' + b"x" * 30_000_000 + b'"}'),
    "nested": lambda file: with_header(file, b'{"a":' + b"[" * 1_000_000),
    "a list": lambda file: with_header(file, b"[1, 2]"),
    "no text": lambda file: with_header(file, bytes(range(200, 256))),
    "many tensors": many_tensors,
    "negative shape": lambda file: with_header(file, entry([-1, 4], [0, 16]), data=bytes(16)),
    "shape beyond 64 bits": lambda file: with_header(file, entry([1 << 62, 1 << 62], [0, 16]), data=bytes(16)),
    "shape without its bytes": lambda file: with_header(file, entry([1 << 40, 24], [0, 16]), data=bytes(16)),
    "offsets beyond the end": lambda file: with_header(file, entry([2, 2], [0, 1 << 40]), data=bytes(16)),
    "offsets backwards": lambda file: with_header(file, entry([2, 2], [16, 0]), data=bytes(16)),
    "unknown dtype": lambda file: with_header(file, entry([2, 2], [0, 16], "F1024"), data=bytes(16)),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies(scene: Scene, model: Path, tmp_path: Path, original: Path, change: Change) -> None:
    single, mapping = shutil.copy(original, tmp_path / "single.safetensors"), tmp_path / "map.safetensors"
    mapping.touch()
    for file in (model / UNET, single, mapping):
        change(file)
    assert_names(scene.base(model), "model.pretrained", str(model / UNET), "fetch")
    assert_names(scene.base(single), "model.pretrained", str(single))
    with pytest.raises(ConfigurationError, match=r"EmbeddingMap: .*map\.safetensors"):
        EmbeddingMap.load(mapping)


# Dtypes, shapes and values


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_a_dtype_that_no_weights_have(scene: Scene, model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    name = change_tensor(model / UNET, TO_K, lambda weight: weight.to(dtype))
    message = scene.base(model)
    assert_names(message, "model.pretrained", UNET, name, "quantized format", "float16, bfloat16 or float32")
    save_file({"map": torch.eye(4).to(dtype)}, tmp_path / "map.safetensors")
    with pytest.raises(ConfigurationError, match=r"EmbeddingMap: .* is stored as .* export it anew"):
        EmbeddingMap.load(tmp_path / "map.safetensors")


@pytest.mark.parametrize(
    ("part", "ending", "change", "parts"),
    [
        ("unet", "attn2.to_q.weight", lambda weight: weight.new_zeros(()), ["attn2", "shapes"]),
        ("unet", "attn2.to_q.weight", lambda weight: weight[:0], ["attn2", "shapes"]),
        ("unet", TO_K, lambda weight: weight[None], ["attn2", "shapes"]),
        ("text_encoder", "token_embedding.weight", lambda weight: weight.to(torch.int8), ["token_e", "quantized"]),
        ("text_encoder", "fc1.weight", lambda weight: weight[:, :5], ["fc1.weight", "shape", "copy"]),
        ("text_encoder", "position_embedding.weight", lambda weight: weight[0], ["position_embedding", "copy"]),
    ],
)
def test_tensors_that_cannot_be(
    scene: Scene, model: Path, part: str, ending: str, change: Any, parts: list[str]
) -> None:
    change_tensor(next((model / part).glob("*.safetensors")), ending, change)
    assert_names(scene.base(model), "model.pretrained", str(model / part), *parts)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_projections_that_are_no_numbers(
    scene: Scene, model: Path, tmp_path: Path, original: Path, verb: str, value: float
) -> None:
    """Found by what a verb reads in any case, and before it writes."""
    file = Path(shutil.copy(original, tmp_path / "single.safetensors"))
    for place, tensors in ((model, model / UNET), (file, file)):
        name = change_tensor(
            tensors, "attn2.to_v.weight", lambda weight: weight.index_fill(1, torch.tensor([3]), value)
        )
        message = scene.base(place, verb)
        assert_names(message, "model.pretrained", str(tensors), "to_v.weight", "NaN or infinite", "fetch")
        assert place == file or name in message


def test_a_text_encoder_of_nan_leaves_no_run_behind(scene: Scene, model: Path) -> None:
    """It is found when the encoder is loaded, after the run's folder was made: that goes again."""
    change_tensor(model / TEXT, "fc2.weight", lambda weight: weight * math.nan)
    for verb in ("fit", "apply"):
        assert_names(scene.base(model, verb), "model.pretrained", TEXT, "fc2.weight", "NaN or infinite", "fetch")
    (scene.folder / "mine").mkdir()
    (scene.folder / "mine" / "notes.txt").write_text("kept")
    for place in ("mine", "new/folder"):
        config = scene.config(model, logger=False, default_root_dir=place)
        # A probe is made in the folder and removed, which changes its time.
        outcome = run_command(scene.capsys, "fit", "--config", config)
        assert_names(message_of(outcome.code, outcome.out, outcome.err), "NaN or infinite")
    assert [path.name for path in (scene.folder / "mine").iterdir()] == ["notes.txt"]
    assert not (scene.folder / "new").exists()


@pytest.mark.parametrize(
    "change", [lambda weight: weight * math.nan, lambda weight: weight.index_fill(0, torch.tensor([0]), math.inf)]
)
def test_a_live_pipeline_with_values_that_are_no_numbers(tiny_model: Path, change: Any) -> None:
    pipeline = load_pipeline(find_base(str(tiny_model)))
    name = next(name for name, _ in pipeline.unet.named_parameters() if name.endswith(TO_K))
    parameter = pipeline.unet.get_parameter(name)
    with torch.no_grad():
        parameter.copy_(change(parameter))
    before = {key: value.clone() for key, value in pipeline.unet.state_dict().items()}
    with pytest.raises(ReceError, match="NaN or infinity"):
        rece_lightning.erase(pipeline, "bomb", tune="off")
    after = pipeline.unet.state_dict()
    assert all(torch.equal(value.view(torch.uint8), after[key].view(torch.uint8)) for key, value in before.items())


# Pickles


def as_pickle(file: Path, content: Any, **options: Any) -> Path:
    """Put a pickle where a safetensors file was, under the name that its format has there."""
    name = "pytorch_model.bin" if file.name == "model.safetensors" else file.name.replace(".safetensors", ".bin")
    file.unlink()
    torch.save(content, file.with_name(name), **options)
    return file.with_name(name)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("how", ["whole", "shards", "old format", "plain pickle", "named safetensors"])
def test_a_pickle_with_code_in_a_folder(scene: Scene, model: Path, part: str, how: str) -> None:
    file = next((model / part).glob("*.safetensors"))
    content = {"weight": torch.zeros(1), "more": Malice(scene.mark)}
    place = as_pickle(file, content, _use_new_zipfile_serialization=how != "old format")
    if how == "plain pickle":
        place.write_bytes(pickle.dumps(content))
    elif how == "shards":
        index = place.with_name(f"{place.name}.index.json")
        index.write_text(json.dumps({"weight_map": {"x": place.rename(place.with_name("a.bin")).name}}))
    elif how == "named safetensors":
        place.rename(file)
    for verb in VERBS if how == "whole" else VERBS[1:2]:
        message = scene.base(model, verb)
        assert_names(message, "model.pretrained", str(model / part), "etch")
        assert how == "named safetensors" or "nothing in it was executed" in message


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return content


@pytest.mark.parametrize(
    ("how", "ending"),
    [("code", ".bin"), ("code", ".pt")]
    + [(how, ".ckpt") for how in ("code", "old format", "cut", "compressed", "itself", "repeated", "meta", "list")],
)
def test_a_single_file_of_pytorch(scene: Scene, tmp_path: Path, original: Path, how: str, ending: str) -> None:
    file, tensors = tmp_path / f"model{ending}", load_file(original)
    contents = {
        "itself": holding_itself(),
        "repeated": {**tensors, f"a.{TO_K}": torch.zeros(1).expand(1 << 40)},
        "meta": {**tensors, f"a.{TO_K}": torch.empty(1 << 40, device="meta")},
        "list": [1, 2],
    }
    torch.save(contents.get(how, {"state_dict": {**tensors, "x": Malice(scene.mark)}}), file)
    if how == "old format":
        torch.save({"x": Malice(scene.mark)}, file, _use_new_zipfile_serialization=False)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    if how == "compressed":
        # A gigabyte of pickle in a megabyte.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("model/data.pkl", bytes(50 << 20))
    for verb in VERBS if ending == ".ckpt" and how == "code" else VERBS[1:2]:
        message = scene.base(file, verb)
        assert_names(message, "model.pretrained", str(file))
        assert any(word in message for word in ("etch", "give a whole checkpoint", "give a checkpoint of a model"))
        assert how not in ("code", "old format") or "nothing in it was executed" in message


# Names and places


def edit_json(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **entries}))


def shard_index(model: Path, *names: str) -> None:
    (model / UNET).unlink()
    (model / f"{UNET}.index.json").write_text(json.dumps({"weight_map": {f"x{i}": n for i, n in enumerate(names)}}))


PLACES: dict[str, tuple[Change, list[str]]] = {
    **{
        f"shard {name[:12]}": (lambda model, name=name: shard_index(model, name), ["unet"])
        for name in ("../vae/x.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors", "x" * 4000, "a\0b")
    },
    "shards that are no text": (lambda model: shard_index(model, {"a": 1}, 5), ["unet"]),  # type: ignore[arg-type]
    "part outside": (
        lambda model: edit_json(model / "model_index.json", **{"../../x": ["diffusers", "UNet2DConditionModel"]}),
        ["model_index.json", "'../../x'", "refused"],
    ),
    "other library": (
        lambda model: edit_json(model / "model_index.json", unet=["os", "system"]),
        ["model_index.json", "'os'", "refused"],
    ),
    "own module": (
        lambda model: (
            (model / "unet" / "mine.py").write_text("open('executed', 'w')"),
            edit_json(model / "model_index.json", unet=["mine", "Net"]),
        ),
        ["model_index.json", "'mine'", "refused"],
    ),
    "own pipeline": (
        lambda model: edit_json(model / "model_index.json", _class_name=["pipeline", "Mine"]),
        ["model_index.json", "_class_name", "refused"],
    ),
    "class that is none": (
        lambda model: edit_json(model / "model_index.json", vae=["diffusers", {"a": 1}]),
        ["model_index.json", "vae", "refused"],
    ),
    "orders to the terminal": (
        lambda model: edit_json(model / "model_index.json", **{"\x1b[2Jx": ["diffusers", "X"]}),
        ["model_index.json", "refused"],
    ),
    "an adapter": (
        lambda model: (model / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "/x"}'),
        ["text_encoder/adapter_config.json", "take it out"],
    ),
    **{
        key: (lambda model, key=key, part=part: edit_json(model / part, **{key: {"x": "y"}}), [part, key, "refused"])
        for key, part in {
            "auto_map": "text_encoder/config.json",
            "attn_implementation": "text_encoder/config.json",
            "quantization_config": "unet/config.json",
            "transformers_weights": "text_encoder/config.json",
        }.items()
    },
}


@pytest.mark.parametrize(("change", "parts"), PLACES.values(), ids=PLACES)
def test_a_folder_that_leads_elsewhere(scene: Scene, model: Path, change: Change, parts: list[str]) -> None:
    (model.parent / "vae").mkdir()
    shutil.copy(model / UNET, model.parent / "vae" / "x.safetensors")
    change(model)
    message = scene.base(model)
    assert_names(message, "model.pretrained", *parts)
    assert any(word in message for word in ("etch", "copy", "Give", "take", "Take"))
    assert "\x1b" not in message


def test_configurations_of_a_single_file_that_ask_for_code(
    scene: Scene, model: Path, original: Path, tmp_path: Path
) -> None:
    (scene.folder / "mine.py").write_text(f"open({str(scene.mark)!r}, 'w')")
    edit_json(model / "model_index.json", vae=["mine", "Net"])
    for verb in ("fit", "apply"):
        assert_names(scene.base(original, verb, "--config", str(model)), "model_index.json", "'mine'", "refused")


def test_links_that_bring_other_files_into_a_copy_are_refused(scene: Scene, model: Path, tmp_path: Path) -> None:
    """A folder that is published must not hold what a link of the base model pointed to."""
    (tmp_path / "secret").write_text("private")
    (model / "tokenizer" / "notes.txt").symlink_to(tmp_path / "secret")
    given = ("--ckpt_path", scene.run, "--pretrained", model, "--output", "out", "--format", "pipeline")
    assert_names(scene.command("export", *given), "tokenizer/notes.txt", "leads out", "Put the file itself there")


# Links that lead to themselves, and what may not be read


def loop(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    return path


@pytest.mark.parametrize("part", ["", "model_index.json", "unet", "unet/config.json", UNET, TEXT, "tokenizer"])
def test_a_link_to_itself_in_a_model(scene: Scene, model: Path, part: str) -> None:
    loop(model / part)
    message = scene.base(model)
    assert_names(message, "model.pretrained", str(model))
    assert any(word in message for word in ("Give", "give", "copy", "fetch"))


def test_a_link_to_itself_everywhere_else(scene: Scene, tmp_path: Path) -> None:
    link = loop(tmp_path / "loop")
    for place in (link, link / "version_0", loop(tmp_path / "loop.ckpt")):
        for verb in VERBS:
            assert_names(scene.checkpoint(place, verb), "--ckpt_path", str(place), "give a")
    for verb in VERBS:
        place = loop(tmp_path / "loop.safetensors")
        assert_names(scene.base(place, verb), "model.pretrained", str(place), "give the model itself")
    with pytest.raises(ConfigurationError, match=r"EmbeddingMap: .*loop\.safetensors"):
        EmbeddingMap.load(tmp_path / "loop.safetensors")
    given = ("export", "--ckpt_path", scene.run, "--pretrained", scene.tiny, "--output")
    for output, format in ((link / "x.safetensors", "delta"), (tmp_path / "loop.safetensors", "delta"), (link, "lora")):
        assert_names(scene.command(*given, output, "--format", format), "--output", str(link)[:-4], "choose another")
    config = scene.config(scene.tiny, default_root_dir=str(link))
    assert_names(scene.command("fit", "--config", config), "trainer.default_root_dir", str(link), "another folder")
    assert_names(scene.command("fit", "--config", loop(tmp_path / "loop.yaml")), "--config", "loop.yaml")
    config = scene.config(scene.tiny, data={"concepts": str(loop(tmp_path / "loop.csv"))})
    assert_names(scene.command("fit", "--config", config), "data.concepts", "loop.csv", "give a path")


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user to whom permissions apply: root lets go of its privileges for a while."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root of this machine cannot become another user, and permissions do not bind it")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed(model: Path) -> Iterator[Path]:
    """The model in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = shutil.copytree(model, Path(place) / "model")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield folder
        for path in (folder, *(path for path in folder.rglob("*") if not path.is_symlink())):
            path.chmod(0o755)


@pytest.mark.parametrize("part", ["", "model_index.json", "unet", "unet/config.json", UNET, TEXT, "tokenizer"])
def test_what_may_not_be_read(closed: Path, part: str) -> None:
    with without_privileges():
        assert find_base(str(closed)).width == 24
    (closed / part).chmod(0)
    with without_privileges(), pytest.raises(ReceError) as caught:
        find_base(str(closed))
    assert_names(str(caught.value), "model.pretrained", str(closed / part), "Permission denied")


@pytest.mark.parametrize("verb", ["fit", "export", "apply"])
def test_the_command_names_what_may_not_be_read(
    scene: Scene, closed: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything lies where everybody may go, but for one file each time."""
    home = Path(rece_lightning.__file__).resolve().parent
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in (home, *home.parents)):
        pytest.skip("the package lies where root alone may go, so that nobody else can start it")
    run = shutil.copytree(scene.run, closed.parent / "run")
    config = write_config(closed.parent, closed)
    (closed.parent / "here").mkdir()
    for path in (run, *run.rglob("*"), config, closed.parent / "here"):
        path.chmod(0o777)
    monkeypatch.chdir(closed.parent / "here")
    scene.folder, scene.mark = closed.parent / "here", closed.parent / "executed"
    # What is imported late may lie where only root can go.
    for late in (closed.parent / "none", scene.folder):
        scene.base(late, verb)
    given = ["--ckpt_path", str(run), "--pretrained", str(closed), "--output", "out.safetensors"]
    arguments = {
        "fit": ["--config", str(config), "--ckpt_path", str(run)],
        "export": [*given, "--format", "delta"],
        "apply": given,
    }[verb]
    for path, field in ((closed, "model.pretrained"), (run, "--ckpt_path"), (run / "checkpoints", "--ckpt_path")):
        path.chmod(0)
        with without_privileges():
            message = scene.command(verb, *arguments)
        path.chmod(0o777)
        assert_names(message, field, str(path))
    if verb != "fit":
        scene.folder.chmod(0o555)
        with without_privileges():
            assert_names(scene.command(verb, *arguments), "cannot be written", "choose another")


# Configurations


def config_with(part: str, **entries: Any) -> Change:
    return lambda model: edit_json(model / part, **entries)


def huge(file: Path) -> None:
    """Ten gigabytes that take no room."""
    with file.open("r+b") as stream:
        stream.truncate(10 * GIB)


TEXT_CONFIG, UNET_CONFIG, INDEX = "text_encoder/config.json", "unet/config.json", "model_index.json"
TOKENIZER = "tokenizer/tokenizer.json"
CONFIGS: dict[str, tuple[Change, list[str]]] = {
    **{
        f"{what} {file}": (lambda model, file=file, make=make: make(model / file), [file])
        for file in (INDEX, UNET_CONFIG, TEXT_CONFIG, TOKENIZER)
        for what, make in {
            "huge": huge,
            "nested": lambda path: path.write_text('{"a":' + "[" * 200_000),
            "a list": lambda path: path.write_text("[1]"),
            "no text": lambda path: path.write_bytes(bytes(range(128, 256))),
        }.items()
        if file != TOKENIZER or what == "huge"
    },
    "a pipe": (lambda model: ((model / INDEX).unlink(), os.mkfifo(model / INDEX)), ["model_index.json"]),
    **{
        f"width {value!r}": (config_with(UNET_CONFIG, cross_attention_dim=value), ["unet/config.json", "width"])
        for value in ("24", True, -24, 0, 1e99, 24.0, [24], None, {"a": 1}, 10**30)
    },
    **{
        f"hidden size {value!r}": (config_with(TEXT_CONFIG, hidden_size=value), ["wide", "different models"])
        for value in ("24", True, [24], None)
    },
    "a width beyond reason": (
        lambda model: (
            edit_json(model / UNET_CONFIG, cross_attention_dim=10**7),
            edit_json(model / TEXT_CONFIG, hidden_size=10**7),
        ),
        ["cross_attention_dim", "8192"],
    ),
    "a billion layers": (config_with(TEXT_CONFIG, num_hidden_layers=10**9), [TEXT_CONFIG, "num_hidden_layers"]),
    "more layers than there are": (config_with(TEXT_CONFIG, num_hidden_layers=7), [TEXT_CONFIG, "num_hidden_layers"]),
    "a billion tokens": (config_with(TEXT_CONFIG, vocab_size=10**9), [TEXT_CONFIG, "vocab_size"]),
    "no heads": (config_with(TEXT_CONFIG, num_attention_heads=0), [TEXT_CONFIG, "num_attention_heads"]),
    "a text of heads": (config_with(TEXT_CONFIG, num_attention_heads="two"), [TEXT_CONFIG, "num_attention_heads"]),
    "a billion blocks": (config_with(UNET_CONFIG, layers_per_block=10**9), [UNET_CONFIG, "layers_per_block"]),
    "a thousand blocks": (config_with(UNET_CONFIG, block_out_channels=[8] * 5000), [UNET_CONFIG, "block_out_channels"]),
    **{
        f"second encoder {value!r}": (config_with(INDEX, text_encoder_2=value), ["model_index.json", "text_encoder_2"])
        for value in ([], [1], ["transformers"], ["transformers", 5])
    },
    "an index of no files": (lambda model: shard_index(model), ["weight_map"]),
}


@pytest.mark.parametrize(("change", "parts"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_cannot_be(scene: Scene, model: Path, change: Change, parts: list[str]) -> None:
    change(model)
    message = scene.base(model)
    assert_names(message, "model.pretrained", *parts)
    assert any(word in message for word in ("etch", "copy", "give", "Give"))


@pytest.mark.parametrize("entry", [{"hidden_act": "none such"}, {"layer_norm_eps": "small"}, {"hidden_act": [1]}])
def test_a_configuration_that_only_its_library_refuses(scene: Scene, model: Path, entry: dict[str, Any]) -> None:
    edit_json(model / TEXT_CONFIG, **entry)
    assert_names(scene.base(model, "fit"), "model.pretrained", str(model), "cannot be loaded", "copy the model anew")


def test_a_tokenizer_that_knows_more_than_the_encoder(scene: Scene, model: Path) -> None:
    content = json.loads((model / TOKENIZER).read_text())
    content["model"]["vocab"]["zzz</w>"] = 10**6
    (model / TOKENIZER).write_text(json.dumps(content))
    assert_names(scene.base(model, "fit"), "model.pretrained", "tokenizer", "1000001 tokens", "different models")


def test_a_yaml_without_end(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 100_000)
    assert_names(scene.command("fit", "--config", tmp_path / "deep.yaml"), "--config", "deep.yaml", "nested too deeply")


@pytest.mark.parametrize("how", ["pickle", "cell", "header", "huge", "folder"])
def test_a_table_that_is_none(scene: Scene, tmp_path: Path, how: str) -> None:
    table = tmp_path / "prompts.csv"
    table.write_bytes(pickle.dumps(Malice(scene.mark)))
    if how == "cell":
        table.write_text("prompt\nbomb\n" + "x" * 200_000)
    elif how == "header":
        table.write_text("x" * 200_000 + "\nbomb")
    elif how == "huge":
        huge(table)
    elif how == "folder":
        table.unlink()
        table.mkdir()
    keys = ("concepts", "preserve", "validation")
    for key in keys if how == "pickle" else keys[-1:]:
        config = scene.config(scene.tiny, data={"concepts": ["bomb"], key: str(table)})
        assert_names(scene.command("fit", "--config", config), f"data.{key}", str(table))
    with pytest.raises(ConfigurationError, match=r"data\.concepts: .*prompts\.csv"):
        rece_lightning.erase(None, str(table), tune="off")


# Checkpoints


@pytest.mark.parametrize("how", ["code", "old format", "plain pickle", "cut", "compressed", "a list", "safetensors"])
def test_a_checkpoint_with_code_or_damage(scene: Scene, how: str) -> None:
    file = scene.run / "checkpoints" / "last.ckpt"
    for other in file.parent.glob("epoch*"):
        other.unlink()
    content = torch.load(file, weights_only=True)
    if how == "code":
        torch.save({**content, "more": Malice(scene.mark)}, file)
    elif how == "old format":
        torch.save({**content, "more": Malice(scene.mark)}, file, _use_new_zipfile_serialization=False)
    elif how == "plain pickle":
        file.write_bytes(pickle.dumps(Malice(scene.mark)))
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif how == "compressed":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("last/data.pkl", bytes(50 << 20))
    elif how == "a list":
        torch.save([content], file)
    else:
        save_file({"map": torch.eye(3)}, file)
    for verb in VERBS if how in ("code", "cut") else VERBS[1:2]:
        for place in (scene.run, file):
            message = scene.checkpoint(place, verb)
            assert_names(message, "--ckpt_path", str(file), "give a checkpoint that RECE wrote")


def put(*keys: str | int, value: Any) -> Callable[[Any], None]:
    """Replace an entry of a checkpoint's content; ``KeyError`` takes it out."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        if value is KeyError:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value(content[keys[-1]]) if callable(value) else value

    return change


def in_statistics(name: str, value: Any) -> Callable[[Any], None]:
    """Replace a tensor of what the prompts of the first text space say."""
    return put("rece", "statistics", "spaces", "text", name, value=value)


def as_moments(content: Any) -> None:
    """The checkpoint of many prompts: moments in place of rows, with every kind of what a robust loop joins."""
    eye = torch.eye(24, dtype=torch.float64)
    parts = {f"{name}.{part}": eye.clone() for name in ("first", "whole") for part in ("erased", "cross", "target")}
    space = content["rece"]["statistics"]["spaces"]["text"]
    rows = {name.removeprefix("erased."): value for name, value in space.items() if name.startswith("erased.")}
    kinds: dict[str, dict[str, Any]] = {"erased": {"count": torch.tensor(1), **parts}, "words": rows, "found": rows}
    kinds["found"] = {"count": torch.tensor(9), **parts}
    kinds |= {kind: {"count": torch.tensor(5), "moments": eye.clone()} for kind in ("preserved", "held_out")}
    kinds["neighbours"] = {"count": torch.tensor(2), "rows": torch.ones(2, 16, 24)}
    space.clear()
    space |= {f"{kind}.{name}": value for kind, own in kinds.items() for name, value in own.items()}
    space["invariants"] = torch.ones(16, 24)


def moments_with(name: str, value: Any) -> Callable[[Any], None]:
    """The same, with one of its tensors replaced."""

    def change(content: Any) -> None:
        as_moments(content)
        in_statistics(name, value)(content)

    return change


def square(size: int = 24, value: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.full((size, size), value, dtype=dtype)


MAP = ("rece", "erasers", "text", "map")
EDITOR = ("rece", "method", "editor")
NOWHERE = torch.empty((), dtype=torch.int64, device="meta")
FORMS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no erasers": (put("rece", "erasers", value={}), "rece.erasers"),
    "erasers as a list": (put("rece", "erasers", value=[]), "rece.erasers"),
    "an eraser as text": (put("rece", "erasers", "text", value="x"), "another kind"),
    "an eraser without a map": (put(*MAP, value=KeyError), "map"),
    "map of nan": (put(*MAP, value=lambda matrix: matrix * math.nan), "rece.erasers.text.map"),
    "map of int": (put(*MAP, value=lambda matrix: matrix.long()), "rece.erasers.text.map"),
    "map of a list": (put(*MAP, value=[[1.0]]), "rece.erasers.text.map"),
    "map not square": (put(*MAP, value=lambda matrix: matrix[1:]), "rece.erasers.text.map"),
    "map of another width": (put(*MAP, value=lambda matrix: matrix[1:, 1:].clone()), "rece.statistics"),
    "map without width": (put(*MAP, value=lambda matrix: matrix[:0, :0].clone()), "rece.erasers.text.map"),
    "map beyond reason": (put(*MAP, value=torch.zeros(1).double().expand(10**5, 10**5)), "rece.erasers.text.map"),
    "map without values": (
        put(*MAP, value=torch.empty(24, 24, dtype=torch.float64, device="meta")),
        "rece.erasers.text.map",
    ),
    "map of few values": (put(*MAP, value=lambda matrix: matrix.to_sparse()), "rece.erasers.text.map"),
    "another space's eraser": (
        lambda content: content["rece"]["erasers"].update(pooled={"map": square(), "epoch": 2}),
        "of the text spaces",
    ),
    "epochs of an eraser": (put("rece", "erasers", "text", "epoch", value=3), "rece.erasers.text.epoch"),
    "epochs of an eraser as tensors": (put("rece", "erasers", "text", "epoch", value=torch.ones(3)), "another kind"),
    "a billion epochs": (
        lambda content: (
            put("rece", "epochs", value=10**9)(content),
            put("rece", "erasers", "text", "epoch", value=10**9)(content),
        ),
        "rece.epochs",
    ),
    "no epochs": (
        lambda content: (
            put("rece", "epochs", value=0)(content),
            put("rece", "history", value=[])(content),
            put("rece", "erasers", "text", "epoch", value=0)(content),
        ),
        "rece.epochs",
    ),
    "epochs as text": (put("rece", "epochs", value="2"), "rece.epochs"),
    "epochs that are true": (put("rece", "epochs", value=True), "rece.epochs"),
    "no history": (put("rece", "history", value=KeyError), "rece.history"),
    "history of text": (put("rece", "history", 0, value={"x": "y"}), "rece.history"),
    "a figure beyond reason": (put("rece", "history", 0, "map_rank", value=10**20), "rece.history"),
    "history of lists": (put("rece", "history", 0, value=[1.0]), "another kind"),
    "no statistics": (put("rece", "statistics", value={}), "rece.statistics"),
    "statistics as a list": (put("rece", "statistics", value=[]), "rece.statistics"),
    "statistics of no space": (put("rece", "statistics", "spaces", value={}), "of the text spaces"),
    "statistics of names alone": (put("rece", "statistics", "spaces", value=["text"]), "rece.statistics"),
    "a space as a tensor": (put("rece", "statistics", "spaces", "text", value=torch.ones(3, 2)), "rece.statistics"),
    "no probe": (put("rece", "statistics", "probe", value={}), "rece.statistics"),
    "a probe that is none": (put("rece", "statistics", "probe", value=None), "probe is missing"),
    "a probe of no text": (put("rece", "statistics", "probe", "prompt", value=5), "probe.prompt"),
    "a probe of another width": (put("rece", "statistics", "probe", "embedding", value=torch.ones(16, 5)), "probe"),
    "a probe of nan": (put("rece", "statistics", "probe", "embedding", value=torch.ones(16, 24) * math.nan), "probe"),
    "nothing erased": (put("rece", "statistics", "spaces", "text", value={}), "erases nothing"),
    "more in a pair": (in_statistics("erased.more", torch.ones(1)), "nothing reads"),
    "more kinds": (in_statistics("others.rows", torch.ones(1)), "nothing reads"),
    "names that are none": (in_statistics(5, torch.ones(1)), "rece.statistics"),  # type: ignore[arg-type]
    "a position outside": (in_statistics("erased.last", torch.tensor([99])), "position"),
    "a position below zero": (in_statistics("erased.target_last", torch.tensor([-1])), "position"),
    "positions of float": (in_statistics("erased.last", torch.tensor([1.0])), "position"),
    "positions without values": (in_statistics("erased.last", NOWHERE[None]), "rece.statistics"),
    "too many positions": (in_statistics("erased.last", torch.tensor([1, 1])), "position"),
    "a weight below zero": (in_statistics("erased.weight", torch.tensor([-1.0]).double()), "weight"),
    "a weight of inf": (in_statistics("erased.weight", torch.tensor([math.inf]).double()), "weight"),
    "weights of float32": (in_statistics("erased.weight", torch.tensor([1.0])), "weight"),
    "embeddings of inf": (in_statistics("erased.concept", lambda rows: rows / 0), "rece.statistics.text.erased"),
    "embeddings of bytes": (in_statistics("erased.concept", lambda rows: rows.char()), "rece.statistics.text.erased"),
    "embeddings of one prompt": (in_statistics("erased.concept", lambda rows: rows[0]), "holds no rows"),
    "embeddings as a list": (in_statistics("erased.concept", [1.0]), "holds no rows"),
    "embeddings without targets": (in_statistics("erased.target", KeyError), "rece.statistics"),
    "targets of another number": (in_statistics("erased.target", lambda rows: rows[:, 1:]), "text.erased"),
    "no number of prompts": (in_statistics("erased.count", KeyError), "rece.statistics"),
    "a billion prompts": (in_statistics("erased.count", torch.tensor(10**9)), "erased.count"),
    "fewer prompts than rows": (in_statistics("erased.count", torch.tensor(0)), "erased.count"),
    "a negative number of prompts": (in_statistics("erased.count", torch.tensor(-1)), "erased.count"),
    "half a prompt": (in_statistics("erased.count", torch.tensor(0.5)), "erased.count"),
    "several numbers of prompts": (in_statistics("erased.count", torch.tensor([1, 1])), "erased.count"),
    "a number that is text": (in_statistics("erased.count", "1"), "erased.count"),
    "a number without a value": (in_statistics("erased.count", NOWHERE), "rece.statistics"),
    "a number that is true": (in_statistics("erased.count", torch.tensor(True)), "erased.count"),
    "more prompts than are named": (moments_with("erased.count", torch.tensor(2)), "rece.concepts"),
    "preserved rows too wide": (in_statistics("preserved.rows", torch.zeros(1, 3, 99)), "preserved"),
    "preserved rows of one prompt": (in_statistics("preserved.rows", torch.zeros(16, 24)), "preserved"),
    "preserved rows of nan": (in_statistics("preserved.rows", lambda rows: rows * math.nan), "preserved"),
    "preserved rows that are gone": (in_statistics("preserved.rows", KeyError), "preserved.count"),
    "moments of another width": (moments_with("erased.first.cross", square(23)), "erased.first.cross"),
    "moments of nan": (moments_with("erased.whole.target", square(value=math.nan)), "erased.whole.target"),
    "moments of float32": (moments_with("erased.whole.erased", square(dtype=torch.float32)), "erased.whole.erased"),
    "moments that are missing": (moments_with("erased.first.target", KeyError), "erased.first.target"),
    "preserved moments of inf": (moments_with("preserved.moments", square(value=math.inf)), "preserved.moments"),
    "held-out moments of another width": (moments_with("held_out.moments", square(5)), "held_out.moments"),
    "held-out moments as a list": (moments_with("held_out.moments", [1.0]), "held_out.moments"),
    "words at a position outside": (moments_with("words.last", torch.tensor([99])), "position"),
    "words of another width": (moments_with("words.concept", torch.ones(1, 16, 23)), "text.words"),
    "found moments of nan": (moments_with("found.first.erased", square(value=math.nan)), "found.first.erased"),
    "neighbours of another width": (moments_with("neighbours.rows", torch.ones(2, 16, 23)), "neighbours.rows"),
    "invariants of another width": (moments_with("invariants", torch.ones(16, 23)), "invariants"),
    "invariants of nan": (moments_with("invariants", torch.ones(16, 24) * math.nan), "invariants"),
    "invariants as a number": (moments_with("invariants", 5), "rece.statistics"),
    "method as a list": (put("rece", "method", value=[]), "rece.method"),
    "no method": (put("rece", "method", value=KeyError), "rece.method"),
    "a method without an editor": (put(*EDITOR, value=KeyError), "rece.method.editor"),
    "an editor as text": (put(*EDITOR, value="UCE"), "rece.method.editor"),
    "an editor of no class": (put(*EDITOR, value={"init_args": {}}), "class_path"),
    "an editor that is a number": (put(*EDITOR, "class_path", value=5), "rece.method.editor"),
    "an editor's settings as text": (put(*EDITOR, "init_args", value="x"), "rece.method.editor"),
    "a first editor as a list": (put("rece", "method", "first_editor", value=[1]), "rece.method.first_editor"),
    "a derivation as a number": (put("rece", "method", "derivation", value=5), "derivation"),
    "a derivation of nan": (put("rece", "method", "derivation", "scale", value=math.nan), "derivation.scale"),
    "a robust loop as a number": (put("rece", "method", "robust", value=5), "robust"),
    "an unknown choice": (put("rece", "method", "tokens", value="x"), "tokens"),
    "an unknown setting": (put("rece", "method", "more", value=1), "more"),
    "a method with a tensor": (put(*EDITOR, "init_args", "lamb", value=torch.ones(2)), "rece.method"),
    "fingerprint as text": (put("rece", "fingerprint", value="x"), "rece.fingerprint"),
    "a base that is a number": (put("rece", "base", value=5), "rece.base"),
    "concepts as text": (put("rece", "concepts", value={"erased": "bomb"}), "another kind"),
    "concepts of numbers": (put("rece", "concepts", "erased", 0, "prompt", value=5), "rece.concepts.erased"),
    "targets of numbers": (put("rece", "concepts", "erased", 0, "target", value=5), "rece.concepts.erased"),
    "concepts without weights": (put("rece", "concepts", "erased", 0, "weight", value=KeyError), "weight"),
    "concepts of negative weight": (put("rece", "concepts", "erased", 0, "weight", value=-1.0), "rece.concepts.erased"),
    "concepts that are not counted": (
        put("rece", "concepts", "erased", value=lambda rows: rows * 2),
        "rece.concepts",
    ),
    "preserved prompts of numbers": (put("rece", "concepts", "preserved", value=[5]), "rece.concepts.preserved"),
    "no preserved prompts": (put("rece", "concepts", "preserved", value=KeyError), "preserved"),
    "concepts with a tensor": (put("rece", "concepts", "more", value=torch.ones(2)), "rece.concepts"),
    "no hyper-parameters": (put("hyper_parameters", value=KeyError), "hyper_parameters"),
    "a model that is a number": (put("hyper_parameters", "pretrained", value=5), "hyper_parameters.pretrained"),
    "an attacker of text": (put("hyper_parameters", "attacker_scale", value="x"), "hyper_parameters.attacker_scale"),
    "loops as a list": (put("loops", value=[]), "loops"),
    "loops without batches": (put("loops", "fit_loop", value={}), "another kind"),
    "callbacks as numbers": (put("callbacks", value={"x": 1}), "callbacks"),
}


@pytest.mark.parametrize(("change", "part"), FORMS.values(), ids=FORMS)
def test_a_checkpoint_of_another_form(scene: Scene, tmp_path: Path, change: Callable[[Any], None], part: str) -> None:
    file = tmp_path / "theirs.ckpt"
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    change(content)
    torch.save(content, file)
    for verb in VERBS if part == "rece.epochs" else VERBS[1:2]:
        message = scene.checkpoint(file, verb)
        assert_names(message, "--ckpt_path", str(file), part, "give a checkpoint that RECE wrote")


def test_the_forms_depart_from_checkpoints_that_are_taken(scene: Scene, tmp_path: Path) -> None:
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, change in (("rows", lambda content: None), ("moments", as_moments)):
        change(content)
        torch.save(content, tmp_path / f"{name}.ckpt")
        given = ("--ckpt_path", tmp_path / f"{name}.ckpt", "--pretrained", scene.tiny, "--format", "delta")
        outcome = run_command(scene.capsys, "export", *given, "--output", f"{name}.safetensors")
        assert outcome.code == 0, outcome.err


def test_a_checkpoint_without_end(scene: Scene, tmp_path: Path) -> None:
    """What is nested beyond reason would end the program that writes it down again."""
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    nested: list[Any] = []
    for _ in range(2000):
        nested = [nested]
    for keys in (("concepts", "more"), ("method", "layers"), ("fingerprint", "more")):
        changed = {**content, "rece": {**content["rece"], keys[0]: {**content["rece"][keys[0]], keys[1]: nested}}}
        assert (fault(changed) or "").startswith(f"rece.{keys[0]} holds more than plain values"), keys


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("rece", value={"map": torch.eye(24), "settings": {}, "epoch": 2}), "rece-lightning 0.1.0"),
        (put("rece", "format", value=KeyError), "layout None"),
        (put("rece", "format", value=3), "layout 3"),
        (put("rece", "format", value="2"), "layout '2'"),
    ],
)
def test_a_checkpoint_of_another_layout(scene: Scene, tmp_path: Path, change: Callable[[Any], None], part: str) -> None:
    """Said as such, with what reads it, before anything else of it is looked at."""
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "theirs.ckpt")
    for verb in VERBS:
        message = scene.checkpoint(tmp_path / "theirs.ckpt", verb)
        assert_names(message, "--ckpt_path", str(tmp_path / "theirs.ckpt"), part, "erase anew")


ANYTHING: list[Any] = [
    None, True, -1, 10**20, math.nan, "x", "", [], [1], {}, {"x": 1}, NOWHERE, torch.ones(3),
    torch.ones(24, 24), square(value=math.nan), torch.ones(0, 24, 24), torch.ones(2, 24, 24).double(),
]  # fmt: skip


def entries(content: Any, *before: Any) -> Iterator[tuple[Any, ...]]:
    """Keys of everything within."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*before, key)
        yield from entries(value, *before, key)


def with_entry(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """The same with another value; what holds it is copied."""
    if not keys:
        return value
    other = content.copy()
    other[keys[0]] = with_entry(content[keys[0]], keys[1:], value)
    return other


@pytest.mark.parametrize("moments", [False, True], ids=["rows", "moments"])
@pytest.mark.filterwarnings("ignore")
def test_whatever_stands_in_a_checkpoint_it_is_refused_or_used(scene: Scene, moments: bool) -> None:
    """Every entry in turn is replaced by whatever there may be; nothing ends in another error than ours."""
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    if moments:
        as_moments(content)
    naming = (str(scene.tiny), None, None, None)
    used, refused, wrong = 0, 0, list[Any]()
    for keys in entries(content["rece"]):
        if moments and keys[0] != "statistics":
            continue  # the same as where rows are held
        for value in ANYTHING:
            changed = {**content, "rece": with_entry(content["rece"], keys, value)}
            if former_layout(changed["rece"]) or fault(changed):
                refused += 1
                continue
            try:
                session = finished_session(changed, naming, "theirs")
                erasure = session.erasure()
                assert all(bool(weight.isfinite().all()) for _, weight in erasure.weights()), keys
                file_metadata(erasure.description, "delta")
                certificates(erasure, session.erased_prompts, session.pairs, [1.0])
                transfer(changed, naming)
            except ReceError:
                refused += 1
            except Exception as error:
                wrong.append((keys, value, error))
            else:
                used += 1
    assert not wrong
    assert refused > 5 * used > 0


THEIRS = """
from dataclasses import dataclass
from pathlib import Path

from rece_lightning.core import UCE

Path({mark!r}).touch()


@dataclass(frozen=True)
class Edits(UCE):
    pass
"""


@pytest.fixture
def theirs(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that is installed and not imported; importing it leaves a mark."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "editors_of_theirs.py").write_text(THEIRS.format(mark=str(scene.mark)))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield "editors_of_theirs"
    sys.modules.pop("editors_of_theirs", None)


@pytest.mark.parametrize("path", ["editors_of_theirs.Edits", "editors_of_theirs.missing", "os.system", "Edits", ""])
@pytest.mark.parametrize("key", ["editor", "first_editor"])
def test_an_editor_that_a_checkpoint_names_is_not_imported(
    scene: Scene, theirs: str, tmp_path: Path, path: str, key: str
) -> None:
    """What runs no epoch shows and exports it; what would run it says how it is imported."""
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    named = {"class_path": path, "init_args": {"lamb": 0.1}}
    for method in (content["rece"]["method"], content["hyper_parameters"]["method"]):
        method[key] = named
    file = tmp_path / "theirs.ckpt"
    torch.save(content, file)
    given = ("--ckpt_path", file, "--pretrained", scene.tiny)
    outputs = ("theirs.safetensors", "ours.safetensors")
    for source, output in zip((file, scene.run), outputs, strict=True):
        format = ("--format", "delta", "--output", output)
        assert run_command(scene.capsys, "export", "--ckpt_path", source, "--pretrained", scene.tiny, *format).code == 0
    first, second = (load_file(output) for output in outputs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], weight) for name, weight in second.items())
    with safe_open(outputs[0], framework="pt") as opened:
        assert json.loads(opened.metadata()["rece.method"])[key] == named  # as it was named
    for verb in ("test", "validate"):
        outcome = run_command(scene.capsys, verb, "--certificate", *given)
        assert outcome.code == 0, outcome.err
        assert "bomb" in outcome.out
    for output in outputs:
        Path(output).unlink()
    assert_names(scene.command("apply", *given, "--output", "out.safetensors"), f"method.{key}", path, "ditor")
    data = {"concepts": ["bomb"], "validation": ["bomb"]}
    for verb in ("fit", "validate", "test", "predict"):
        config = scene.config(scene.tiny, data=data, max_epochs=3)
        message = scene.command(verb, "--config", config, "--ckpt_path", file)
        assert_names(message, "ckpt_path", f"model.method.{key}", "other settings")
    with pytest.raises(
        ConfigurationError, match=rf"model\.method\.{key}: .*{re.escape(repr(path) if '.' not in path else path)}"
    ):
        RECE.load_from_checkpoint(file, weights_only=True)
    assert theirs not in sys.modules
    assert not scene.mark.exists()


def test_an_editor_is_imported_where_the_user_names_it(scene: Scene, theirs: str, tmp_path: Path) -> None:
    """So the mark above would be there."""
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    content["rece"]["method"]["editor"]["class_path"] = f"{theirs}.Edits"
    torch.save(content, tmp_path / "theirs.ckpt")
    given = ("--ckpt_path", tmp_path / "theirs.ckpt", "--pretrained", scene.tiny, "--output", "out.safetensors")
    message = scene.command("apply", *given, "--editor", "os.system")
    assert_names(message, "--editor", "os.system", "no subclass")
    outcome = run_command(scene.capsys, "apply", *given, "--editor", f"{theirs}.Edits")
    assert outcome.code == 0, outcome.err
    assert scene.mark.exists()


def test_the_class_that_a_checkpoint_asks_for_is_not_made(scene: Scene, tmp_path: Path) -> None:
    """Lightning knows an entry that names what makes the module: it is passed over, and the export is as ever."""
    (scene.folder / "mine.py").write_text(f"open({str(scene.mark)!r}, 'w')")
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    content["hyper_parameters"] |= {"_instantiator": "mine.make", "_class_path": "mine.Net", "unknown": 1}
    torch.save(content, tmp_path / "theirs.ckpt")
    given = ("--pretrained", scene.tiny, "--format", "delta", "--output")
    for file, output in ((tmp_path / "theirs.ckpt", "a.safetensors"), (scene.run, "b.safetensors")):
        assert run_command(scene.capsys, "export", "--ckpt_path", file, *given, output).code == 0
    assert not scene.mark.exists()
    theirs, ours = load_file("a.safetensors"), load_file("b.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())


def test_a_checkpoint_does_not_choose_what_is_deleted(scene: Scene, tmp_path: Path) -> None:
    """The best checkpoints that it remembers are files of its choice; Lightning deletes what falls out of them."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    place = "runs/run/version_0/checkpoints"
    path = f"{place}/../../../../../victim"
    monitored = {"monitor": "regeneration_residual", "mode": "max"}
    key = next(iter(content["callbacks"])).replace("None", "'regeneration_residual'", 1).replace("'min'", "'max'")
    state = {**next(iter(content["callbacks"].values())), **monitored, "dirpath": place, "best_k_models": {path: -1e9}}
    state |= {"kth_best_model_path": path, "kth_value": torch.tensor(-1e9), "best_model_path": path}
    content["callbacks"] = {key: state}
    torch.save(content, tmp_path / "theirs.ckpt")
    callbacks = [{"class_path": "ErasureCheckpoint", "init_args": monitored}]
    config = scene.config(scene.tiny, max_epochs=4, callbacks=callbacks)
    outcome = run_command(scene.capsys, "fit", "--config", config, "--ckpt_path", tmp_path / "theirs.ckpt")
    assert outcome.code == 0, outcome.err
    assert Path(place, "last.ckpt").is_file()
    assert victim.read_text() == "kept"


def test_a_checkpoint_of_another_width_than_its_fingerprint_says(scene: Scene, tmp_path: Path) -> None:
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    state = content["rece"]
    state["erasers"]["text"]["map"] = torch.eye(7, dtype=torch.float64)
    statistics = state["statistics"]
    statistics["probe"]["embedding"] = torch.ones(16, 7)
    rows = {"erased.concept": torch.ones(1, 16, 7), "erased.target": torch.zeros(1, 16, 7)}
    statistics["spaces"]["text"] |= {**rows, "preserved.rows": torch.ones(1, 16, 7)}
    torch.save(content, tmp_path / "theirs.ckpt")
    for verb in VERBS:
        message = scene.checkpoint(tmp_path / "theirs.ckpt", verb)
        assert_names(message, "ckpt_path", "[7, 7]", "24 wide", "give the checkpoint")


@pytest.mark.parametrize("editor", ["TensorUCE", "of.theirs"])
@pytest.mark.parametrize("layers", [0, 1, 9])
def test_a_checkpoint_of_other_layers_than_its_fingerprint_says(
    scene: Scene, tmp_path: Path, editor: str, layers: int
) -> None:
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    content["rece"]["erasers"]["text"]["map"] = torch.eye(24, dtype=torch.float64).repeat(layers, 1, 1)
    content["rece"]["method"]["editor"] = {"class_path": editor, "init_args": {}}
    torch.save(content, tmp_path / "theirs.ckpt")
    assert_names(scene.checkpoint(tmp_path / "theirs.ckpt"), "ckpt_path", f"[{layers}, 24, 24]", "8 layers")


def test_a_checkpoint_that_measured_nothing_is_put_on_a_model(scene: Scene, tmp_path: Path) -> None:
    content = torch.load(scene.run / "checkpoints" / "last.ckpt", weights_only=True)
    content["rece"]["history"] = [{}, {}]
    torch.save(content, tmp_path / "theirs.ckpt")
    given = ("--ckpt_path", tmp_path / "theirs.ckpt", "--pretrained", scene.tiny, "--output", "out.safetensors")
    outcome = run_command(scene.capsys, "apply", *given)
    assert outcome.code == 0, outcome.err
    assert "nan" in outcome.out


def test_what_else_lies_in_a_run(scene: Scene) -> None:
    """The table of its measurements, its configuration, and the base model's card."""
    given = ("--ckpt_path", scene.run, "--pretrained", scene.tiny, "--output", "out.safetensors", "--format", "lora")
    for content in (b"a,b\n1,2\n", b"detected,column,role\n1,rece," + b"x" * 200_000, bytes(range(128, 256))):
        (scene.run / "evaluation.csv").write_bytes(content)
        outcome = run_command(scene.capsys, "export", *given, "--overwrite")
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("\n") == 1
        assert_names(outcome.err, "Warning: what was measured, in the card, is missing", "evaluation.csv", "damaged")
    Path("out.safetensors").unlink()
    Path("out.md").unlink()
    (scene.run / "evaluation.csv").unlink()
    (scene.run / "config.yaml").write_text("a: " + "[" * 100_000)
    (scene.tiny / "README.md").write_text("---\nlicense: " + "[" * 50_000 + "\n---\n")
    assert run_command(scene.capsys, "export", *given).code == 0


# The map


@pytest.mark.parametrize(
    "tensors",
    [
        {"map": torch.eye(4) * math.nan},
        {"map": torch.eye(4) / 0},
        {"map": torch.ones(4, 5)},
        {"map": torch.ones(4)},
        {"map": torch.ones(0, 0)},
        {"other": torch.eye(4)},
    ],
)
def test_a_map_that_is_none(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "map.safetensors")
    with pytest.raises(ConfigurationError, match=r"EmbeddingMap: .*map\.safetensors"):
        EmbeddingMap.load(tmp_path / "map.safetensors")


def test_a_map_in_a_pickle(tmp_path: Path) -> None:
    torch.save({"map": torch.eye(4), "more": Malice(tmp_path / "executed")}, tmp_path / "map.safetensors")
    with pytest.raises(ConfigurationError, match="no whole safetensors file"):
        EmbeddingMap.load(tmp_path / "map.safetensors")
    assert not (tmp_path / "executed").exists()


# Large files


def grow(file: Path, size: int) -> None:
    """Add a tensor of zeros that takes no room on the disk, as a checkpoint of gigabytes has others."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    first = len(content) - end
    header["model_ema.x"] = {"dtype": "U8", "shape": [size], "data_offsets": [first, first + size]}
    with_header(file, json.dumps(header).encode(), data=content[end:])
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + size)


@pytest.mark.parametrize("how", ["int8", "nan", "code", "map"])
def test_a_refusal_does_not_read_gigabytes(scene: Scene, tmp_path: Path, original: Path, how: str) -> None:
    file = tmp_path / ("model.ckpt" if how == "code" else "model.safetensors")
    if how == "map":
        with_header(
            file, json.dumps({"map": {"dtype": "F64", "shape": [1 << 15] * 2, "data_offsets": [0, 8 * GIB]}}).encode()
        )
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size + 8 * GIB)
    elif how == "code":
        with torch.serialization.skip_data():
            torch.save({"x": torch.empty(8 * GIB, dtype=torch.uint8), "y": {scene.mark: 1}}, file)
    else:
        shutil.copy(original, file)
        change_tensor(file, TO_K, (lambda w: w.to(torch.int8)) if how == "int8" else (lambda w: w * math.nan))
        grow(file, 8 * GIB)
    assert file.stat().st_size > 8 * GIB
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if how == "map":
        with pytest.raises(ConfigurationError, match="holds no map"):
            EmbeddingMap.load(file)
    else:
        assert_names(scene.base(file, "fit"), "model.pretrained", str(file))
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < GIB >> 10
