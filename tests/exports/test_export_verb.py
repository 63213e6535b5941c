"""``rece export``: a run in, a file out; a mistake is one message before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.cli.checkpoint import load_session
from rece_lightning.exports import FORMATS
from rece_lightning.exports.fitting import readers_of
from tests.helpers.command import run_command


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that can be moved away."""
    return shutil.copytree(tiny_model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, ``runs/bombs/version_0``, in a folder of its own."""
    folder = tmp_path_factory.mktemp("work") / "runs" / "bombs" / "version_0"
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[ErasureCheckpoint()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(RECE(str(base), tune="off"), ConceptData(["bomb"], preserve=[" ", "rocket"]))
    return folder


def edited(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_session(str(run))[1].weights())


@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_format_says_path_bytes_and_error(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / ("out" if FORMATS[kind].place != "file" else "out.safetensors")
    result = run_command(capsys, "export", "--ckpt_path", run, "--format", kind, "--output", output)
    assert result.code == 0, result.err
    size = sum(file.stat().st_size for file in ([output] if output.is_file() else output.rglob("*")) if file.is_file())
    said = "".join(result.out.split())
    assert f"{size:,}" in said
    assert str(output) in said.replace("│", "")
    assert kind in said
    assert "theexactedit" in said
    assert ("edited.safetensors,rounded" in said) == (kind != "map")
    *_, where, last = result.out.splitlines()
    assert where == f"written: {output}"
    assert last == f"for {readers_of(kind, load_session(str(run))[1])}"
    # Who has another tool is told what to take.
    assert kind == "single-file" or any(f"write {other}" in last for other in FORMATS) or "reads it too" in last


@pytest.mark.parametrize("given", ["run", "checkpoint", "last"])
def test_run_checkpoint_and_last_mean_the_same(
    given: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[2])
    value = {"run": run, "checkpoint": run / "checkpoints" / "epoch=1.ckpt", "last": "last"}[given]
    output = tmp_path / "delta.safetensors"
    assert run_command(capsys, "export", "--ckpt_path", value, "--format", "delta", "--output", output).code == 0
    written = load_file(output)
    assert all(torch.equal(written[name], weight) for name, weight in edited(run).items())


def test_an_earlier_epoch_is_another_erasure(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "delta.safetensors"
    first = run / "checkpoints" / "epoch=0.ckpt"
    assert run_command(capsys, "export", "--ckpt_path", first, "--format", "delta", "--output", output).code == 0
    written = load_file(output)
    assert not any(torch.equal(written[name], weight) for name, weight in edited(run).items())


def test_rank_is_written_with_its_error(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lora.safetensors"
    arguments = ("export", "--ckpt_path", run, "--format", "lora", "--output", output)
    result = run_command(capsys, *arguments, "--rank", "2")
    assert result.code == 0, result.err
    assert "rank 2" in result.out
    assert {len(tensor) for name, tensor in load_file(output).items() if "lora_A" in name} == {2}
    assert run_command(capsys, *arguments).code == 2
    assert run_command(capsys, *arguments, "--overwrite").code == 0


def test_a_base_that_moved_is_found_with_pretrained(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, moved = edited(run), base.with_name("moved")
    output = tmp_path / "delta.safetensors"
    arguments = ("export", "--ckpt_path", run, "--format", "delta", "--output", output)
    base.rename(moved)
    try:
        gone = run_command(capsys, *arguments)
        found = run_command(capsys, *arguments, "--pretrained", moved)
    finally:
        moved.rename(base)
    assert gone.code == 2
    assert str(base) in gone.err
    assert "say where it is now with --pretrained" in gone.err
    assert found.code == 0, found.err
    written = load_file(output)
    assert all(torch.equal(written[name], weight) for name, weight in wanted.items())


def test_another_base_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "delta.safetensors"
    result = run_command(
        capsys, "export", "--ckpt_path", run, "--format", "delta", "--output", output, "--pretrained", "emoji"
    )
    assert result.code == 2
    assert "differ" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "output", "more", "says"),
    [
        ("loras", "x", (), "unknown format 'loras'; did you mean 'lora'?"),
        ("delta", "x", (), "delta is one file; give a name that ends in .safetensors"),
        ("kohya", "x.ckpt", (), "kohya is one file"),
        ("pipeline", "x.safetensors", (), "pipeline is a folder"),
        ("delta", "x.safetensors", ("--rank", "4"), "--rank: delta has no rank"),
        ("lora", "x.safetensors", ("--rank", "0"), "--rank: 0; give a whole number of 1 or more"),
        ("lora", "x.safetensors", ("--rank", "few"), "argument --rank: invalid int value: 'few'"),
        ("lora", "x.safetensors", ("--ranks", "4"), "unknown option --ranks; did you mean '--rank'?"),
        ("delta", "taken.safetensors", (), "taken.safetensors exists; choose another name, or give --overwrite"),
        ("lora", "taken", (), "taken exists; choose another place, or give --overwrite"),
        ("lora", "taken", ("--overwrite",), "holds something other than an export"),
        ("lora", "carded.safetensors", (), "carded.md exists"),
        ("delta", "taken.safetensors/x.safetensors", (), "taken.safetensors is no folder"),
    ],
)
def test_a_mistake_is_one_message(
    format: str,
    output: str,
    more: tuple[str, ...],
    says: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken").mkdir()
    for name in ("taken/mine.txt", "taken.safetensors", "carded.md"):
        (tmp_path / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = run_command(capsys, "export", "--ckpt_path", run, "--format", format, "--output", tmp_path / output, *more)
    assert result.code == 2
    assert says in result.err
    assert "Traceback" not in result.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export",), "the following arguments are required: --ckpt_path, --output, --format"),
        (("export", "--ckpt_path", "nowhere", "--format", "delta", "--output", "x.safetensors"), "nowhere is no check"),
        (("export", "--ckpt_path", "last", "--format", "delta", "--output", "x.safetensors"), "no run of fit"),
        (("exprot",), "unknown command 'exprot'; did you mean 'export'?"),
    ],
)
def test_what_is_missing_is_named(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_command(capsys, *arguments)
    assert result.code == 2
    assert says in result.err


def test_a_pickle_with_code_is_never_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    torch.save({"rece": {"epoch": 1, "bomb": Bomb()}}, tmp_path / "evil.ckpt")
    options = ("--format", "delta", "--output", tmp_path / "x.safetensors")
    result = run_command(capsys, "export", "--ckpt_path", tmp_path / "evil.ckpt", *options)
    assert result.code == 2
    assert "could execute code" in result.err
    assert {path.name for path in tmp_path.iterdir()} == {"evil.ckpt"}


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_command(capsys, "export", "--help")
    assert result.code == 0
    said = "".join(result.out.split())
    assert all(f"{name}:{kind.description.replace(' ', '')}" in said for name, kind in FORMATS.items())


def test_overview_names_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "export" in run_command(capsys, "--help").out
