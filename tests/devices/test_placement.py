"""DevicePlacement: parts that wait in host memory, parts on different devices, what is planned, logged and reported."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import rece_lightning.evaluation.generation
from rece_lightning import RECE, ConceptData
from rece_lightning.callbacks import DevicePlacement, Report
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices import memory
from rece_lightning.devices.offload import Waiting, WaitingEncoder, _away
from rece_lightning.devices.placement import PLACED_PARTS, Placement, decide
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling, prompt_arguments
from rece_lightning.models.text import PromptEncoder
from tests.helpers.models import make_checkpoint

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here: not run")
META = torch.device("meta")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return find_base("emoji")


@pytest.fixture
def encoder(base: BaseModel) -> PromptEncoder:
    return load_encoder(base)


def trainer(folder: Path, *callbacks: Any, logger: Any = False, epochs: int = 2) -> Trainer:
    return Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, callbacks=list(callbacks),
    )  # fmt: skip


# Waiting in host memory


def state(module: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    """Every tensor: which one it is, and its content."""
    return {name: (id(value), value.detach().clone()) for name, value in module.state_dict(keep_vars=True).items()}


def test_a_module_is_on_its_device_within_the_block_alone(encoder: PromptEncoder) -> None:
    """The device ``meta`` keeps no content: what is there afterwards was in host memory all the time."""
    module = encoder.text_encoder
    before, waiting = state(module), Waiting(META, module)
    with waiting.at_work():
        assert {value.device.type for value in [*module.parameters(), *module.buffers()]} == {"meta"}
        assert module.device == META
        with waiting.at_work():
            pass
        assert module.device == META  # the outer block is still open
    after = state(module)
    assert {name: place for name, (place, _) in after.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(value, before[name][1]) for name, (_, value) in after.items())


def test_it_comes_back_from_an_error_too(encoder: PromptEncoder) -> None:
    waiting = Waiting(META, encoder.text_encoder)
    with pytest.raises(KeyError), waiting.at_work():
        raise KeyError
    assert encoder.device.type == "cpu"


@pytest.mark.parametrize("inference", [False, True])
def test_what_was_changed_on_the_device_is_written_back(inference: bool) -> None:
    """Edited projections are put into a U-Net that may be at work. Here the device is a copy in host memory."""
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    module["b"].weight = module["a"].weight  # tied
    untouched, kept = module["a"].bias.detach().clone(), module["a"].weight
    with torch.inference_mode(inference), torch.no_grad(), _away(module, torch.device("cpu")):
        assert module["a"].weight is not kept
        assert module["a"].weight is module["b"].weight
        module["a"].weight.copy_(torch.full((2, 3), 7.0))
        assert not torch.equal(kept, torch.full((2, 3), 7.0))
    assert module["a"].weight is kept
    assert module["b"].weight is kept
    assert torch.equal(kept, torch.full((2, 3), 7.0))
    assert torch.equal(module["a"].bias, untouched)


def test_a_waiting_encoder_encodes_on_its_device_and_goes_back(base: BaseModel, encoder: PromptEncoder) -> None:
    expected = load_encoder(base).encode(["bomb", ""]).embeddings
    waiting = WaitingEncoder(encoder, META)
    found = waiting.encode(["bomb", ""]).embeddings
    assert found.device == META
    assert found.shape == expected.shape
    assert waiting.device.type == "cpu"
    waiting.stay()
    waiting.encode(["bomb"])
    assert waiting.device == META
    waiting.rest()
    assert waiting.device.type == "cpu"
    torch.testing.assert_close(WaitingEncoder(waiting, "cpu").encode(["bomb", ""]).embeddings, expected)


def test_epoch_0_moves_the_encoder_once_and_leaves_the_algebra_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = []
    real = _away

    def counted(module: nn.Module, device: torch.device) -> Any:
        moves.append(device)
        return real(module, torch.device("cpu"))  # what it encodes is needed

    monkeypatch.setattr("rece_lightning.devices.offload._away", counted)
    module = RECE(tune="off")
    module.placement = Placement(waiting=frozenset({"text_encoder"}))
    inside = []
    edit = RECE._edit

    def edited(self: RECE) -> None:
        inside.append(self.session.encoder.waiting._inside)  # type: ignore[attr-defined]
        edit(self)

    monkeypatch.setattr(RECE, "_edit", edited)
    monkeypatch.setattr(Placement, "device_of", lambda self, part, default: META if part == "text_encoder" else default)
    trainer(tmp_path).fit(module, ConceptData(concepts=["bomb", "axe"], preserve=["dog", "cat"], batch_size=1))
    assert moves == [META]
    assert inside == [0, 0]
    monkeypatch.undo()
    plain = RECE(tune="off")
    trainer(tmp_path).fit(plain, ConceptData(concepts=["bomb", "axe"], preserve=["dog", "cat"], batch_size=1))
    assert torch.equal(module.maps["text"].of_layer(0), plain.maps["text"].of_layer(0))


def test_unet_and_autoencoder_are_on_their_device_only_while_pictures_are_made(
    base: BaseModel, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Placement(unet="meta", autoencoder="meta", waiting=frozenset({"unet", "autoencoder"}))
    maker = PictureMaker.load(base, WaitingEncoder(encoder, META), places, torch.device("cpu"))
    unet, vae = maker.pipeline.unet, maker.pipeline.vae
    seen = []

    def generate(pipeline: Any, requests: Any, *_: Any) -> torch.Tensor:
        seen.append((pipeline.unet.device, pipeline.vae.device, pipeline.text_encoder.device.type))
        return torch.zeros(len(requests), 3, 1, 1)

    monkeypatch.setattr(rece_lightning.evaluation.generation, "generate", generate)
    maker.make([EvaluationPrompt("a bomb", "bomb")], [0], Sampling())
    assert seen == [(META, META, "cpu")]
    assert (unet.device.type, vae.device.type) == ("cpu", "cpu")
    with maker.at_work():
        assert {unet.device, vae.device, maker.encoder.device} == {META}
    # Edited projections are exchanged while the U-Net waits.
    name = next(iter(base.projections))
    maker.use([(name, torch.full(base.projections[name], 2.0))])
    assert torch.equal(unet.get_parameter(name), torch.full(base.projections[name], 2.0))


def test_the_pipeline_has_the_makers_text_encoder_and_no_second_one(base: BaseModel, encoder: PromptEncoder) -> None:
    maker = PictureMaker.load(base, encoder, Placement(), torch.device("cpu"))
    assert maker.pipeline.text_encoder is encoder.text_encoder


# Parts on different devices


def test_a_pipeline_works_where_its_unet_lies_and_hands_latents_to_the_autoencoder(
    base: BaseModel, encoder: PromptEncoder
) -> None:
    """The autoencoder on ``meta`` tells whether what it is given follows it there: real latents would be refused."""
    maker = PictureMaker.load(base, encoder, Placement(autoencoder="meta"), torch.device("cpu"))
    request, empty = maker.embed(["a bomb", ""])
    made = maker.pipeline(
        **prompt_arguments(maker.pipeline, [request], empty),
        num_inference_steps=1,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    assert made.device == META
    assert made.shape == (1, 3, 32, 32)
    latents = maker.pipeline.vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean
    assert latents.device == META


def test_a_pipeline_on_one_device_is_left_as_it_is(base: BaseModel, encoder: PromptEncoder) -> None:
    maker = PictureMaker.load(base, encoder, Placement(autoencoder="cpu"), torch.device("cpu"))
    assert "decode" not in vars(maker.pipeline.vae)


@NO_CUDA
@pytest.mark.parametrize(
    "settings",
    [
        {"unet": "cuda:0", "autoencoder": "cpu", "text_encoder": "cpu", "algebra": "cpu"},
        {"unet": "cuda:0", "autoencoder": "cuda:0", "text_encoder": "cuda:0", "algebra": "cuda:0"},
    ],
)
@pytest.mark.parametrize("waiting", [(), ("unet", "autoencoder", "text_encoder")])
def test_on_cuda_every_placement_draws_what_the_cpu_draws(
    base: BaseModel, settings: dict[str, str], waiting: tuple[str, ...]
) -> None:
    waits = frozenset(part for part in waiting if settings[part] != "cpu")
    places = Placement(**settings, waiting=waits)  # type: ignore[arg-type]

    def drawn(places: Placement) -> torch.Tensor:
        encoder: PromptEncoder = load_encoder(base)
        device = places.device_of("text_encoder", torch.device("cpu"))
        if places.waits("text_encoder"):
            encoder = WaitingEncoder(encoder, device)
        elif device.type == "cuda":
            encoder = load_encoder(base, device)
        maker = PictureMaker.load(base, encoder, places, torch.device("cpu"))
        return maker.make([EvaluationPrompt("a bomb", "bomb")], [0], Sampling(steps=4, guidance_scale=4.0))

    before = torch.cuda.memory_allocated()
    made = drawn(places)
    if waits:
        assert torch.cuda.memory_allocated() - before < 20 << 20  # nothing of the model stayed
    assert torch.cuda.max_memory_allocated() > before
    torch.testing.assert_close(made, drawn(Placement()), atol=0.02, rtol=0)


# What is free, and what was taken


def test_the_hosts_peak_grows_with_what_is_taken() -> None:
    before = memory.peaks_in_megabytes()["cpu"]
    resident = psutil.Process().memory_info().rss / 1e6
    assert before >= 0.9 * resident
    taken = torch.ones(int((before - resident + 100) * 1e6) // 4)
    assert memory.peaks_in_megabytes()["cpu"] >= before + 50
    del taken


def test_free_host_memory_is_shared_by_processes_and_limited_by_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = memory.free_memory(["cpu"])["cpu"]
    assert 0 < alone < psutil.virtual_memory().total
    assert memory.free_memory(["cpu"], processes=4)["cpu"] < 0.3 * alone
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    ) if Path("/proc/self/cgroup").exists() else None  # fmt: skip
    if own is None:
        pytest.skip("this system has no control groups of version 2")
    group = tmp_path / own.strip().lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 50"),
    ):
        (group / name).write_text(content)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.available_on_host() == 150
    (group / "memory.max").write_text("max")
    assert memory.available_on_host() > 1000


# Deciding


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A machine with two cards, as far as planning asks: nothing is loaded. Bytes free; what was looked at is kept."""
    free = {"cuda:0": 10**12, "cuda:1": 10**12, "cpu": 10**12}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def look(devices: Iterator[str], *, processes: int = 1) -> Mapping[str, int]:
        return {device: free[device] for device in devices}

    monkeypatch.setattr("rece_lightning.devices.placement.free_memory", look)
    return free


def decided(base: BaseModel, asked: Placement, **settings: Any) -> Any:
    home = torch.device("cuda:0")
    arguments = {"home": home, "needed": PLACED_PARTS, "batch_size": 4, **settings}
    return decide(asked, base, list(base.projections), **arguments)


def test_another_card_is_looked_at_only_where_the_first_has_no_room(base: BaseModel, two_cards: dict[str, int]) -> None:
    """To look at a card takes memory there."""
    roomy = decided(base, Placement())
    assert list(roomy.plan.free) == ["cuda:0", "cpu"]
    assert set(roomy.placement.given.values()) == {"cuda:0"}
    assert roomy.placement.gram == ()
    two_cards["cuda:0"] = 20 * 10**6
    crowded = decided(base, Placement())
    assert list(crowded.plan.free) == ["cuda:0", "cuda:1", "cpu"]
    assert crowded.placement.unet == "cuda:0" or crowded.placement.unet == "cuda:1"
    assert {row.device for row in crowded.plan.rows} == {"cuda:0", "cuda:1"}
    # The Gram's layers go to both.
    assert set(crowded.placement.gram) == {"cuda:0", "cuda:1"}
    assert crowded.placement.gram[0] == crowded.placement.algebra
    # A process beside others leaves their cards alone.
    one_of_two = decided(base, Placement(), processes=2)
    assert "cuda:1" not in one_of_two.plan.free


def test_a_device_in_yaml_wins_and_offload_is_followed(base: BaseModel, two_cards: dict[str, int]) -> None:
    found = decided(base, Placement(autoencoder="cpu", algebra="cuda:1", gram=("cuda:1", "cpu")), offload=True)
    assert found.placement.autoencoder == "cpu"
    assert found.placement.algebra == "cuda:1"
    assert found.placement.gram == ("cuda:1", "cpu")
    assert found.placement.waiting == {"unet", "text_encoder"}
    assert [row.why for row in found.plan.rows if row.given] == ["given", "given"]


def test_parts_that_a_run_does_not_need_take_no_room(base: BaseModel, two_cards: dict[str, int]) -> None:
    two_cards |= {"cuda:0": 30 * 10**6}
    found = decided(base, Placement(), needed={"text_encoder", "algebra"})
    assert [(row.part, row.device, row.waits) for row in found.plan.rows] == [
        ("text_encoder", "cuda:0", False),
        ("algebra", "cuda:0", False),
    ]
    assert found.placement.unet == "cuda:0"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"offload": "yes"}, ["DevicePlacement.offload: 'yes'", "true, false"]),
        ({"gram": []}, ["DevicePlacement.gram: []", "list of devices"]),
        ({"gram": "cpu"}, ["DevicePlacement.gram: 'cpu'", "list of devices"]),
        ({"gram": ["cpu", "gpux"]}, ["DevicePlacement.gram: 'gpux'", "no device"]),
        ({"unet": "cuda:7"}, ["DevicePlacement.unet: 'cuda:7'", "auto"]),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        DevicePlacement(**settings)
    assert all(part in str(refused.value) for part in named)


def test_a_card_that_is_not_there_is_refused_by_its_number(two_cards: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"'cuda:2', but torch sees 2 CUDA devices; .*cuda:1"):
        DevicePlacement(unet="cuda:2")


# In a run


def test_the_plan_and_the_peaks_are_logged_and_in_the_report(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    placement, logger = DevicePlacement(offload=True), CSVLogger(tmp_path, name="", version="run")
    module = RECE(pretrained=str(model), tune="off")
    data = ConceptData(concepts=["bomb"], preserve=["dog"])
    trainer(tmp_path, placement, Report(), logger=logger).fit(module, data)
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        peaks = [float(row["memory/peak_mb/cpu"]) for row in csv.DictReader(stream) if row["memory/peak_mb/cpu"]]
    assert peaks == [placement.peaks["cpu"]]
    assert 100 < peaks[0] < psutil.virtual_memory().total / 1e6
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    section = page.split("<h2>Devices</h2>")[1].split("<h2>")[0]
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section))
    assert "text encoder cpu" in text
    assert "U-Net cpu – not needed by this run" in text
    assert f"{placement.peaks['cpu']:,.0f}" in text
    assert "device of" not in page  # it is told once
    # On the CPU nothing waits, and where parts lie changes no bit.
    assert placement.decided is not None
    assert placement.decided.placement.waiting == frozenset()
    plain = RECE(pretrained=str(model), tune="off")
    trainer(tmp_path).fit(plain, ConceptData(concepts=["bomb"], preserve=["dog"]))
    assert torch.equal(module.maps["text"].of_layer(0), plain.maps["text"].of_layer(0))


def test_one_plan_serves_the_verbs_that_it_covers(tmp_path: Path) -> None:
    module, placement = RECE(pretrained=str(make_checkpoint(tmp_path / "model")), tune="off"), DevicePlacement()
    data = ConceptData(concepts=["bomb"], preserve=["dog"])
    own = trainer(tmp_path, placement)
    own.fit(module, data)
    first = placement.decided
    own.fit(module, data)
    assert placement.decided is first
    own.validate(module, data, verbose=False)
    # Pictures may be asked for now.
    assert placement.decided is not None
    assert placement.decided.needed == set(PLACED_PARTS)


def test_where_nothing_has_room_a_warning_says_so_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rece_lightning.devices.placement.free_memory", lambda devices, processes: {"cpu": 10**5})
    module, placement = RECE(pretrained=str(make_checkpoint(tmp_path / "model")), tune="off"), DevicePlacement()
    trainer(tmp_path, placement).fit(module, ConceptData(concepts=["bomb"], preserve=["dog"]))
    assert "Warning: text encoder: nothing has room for it: it needs" in capsys.readouterr().err
    assert len(module.history) == 2
    devices = placement.devices()
    assert devices is not None
    assert [row.fits for row in devices.parts] == [False, False, True, True]


@NO_CUDA
def test_a_run_on_cuda_with_offload_gives_the_cpus_map_to_rounding(tmp_path: Path) -> None:
    def fitted(accelerator: str, *callbacks: Any) -> RECE:
        module = RECE(tune="off")
        Trainer(
            max_epochs=2, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=list(callbacks),
        ).fit(module, ConceptData(concepts=["bomb"], preserve=["dog"]))  # fmt: skip
        return module

    placement = DevicePlacement(offload=True)
    found, plain = fitted("gpu", placement), fitted("cpu")
    assert placement.decided is not None
    assert placement.decided.placement.waiting == {"text_encoder"}
    assert placement.peaks["cuda:0"] > 0
    torch.testing.assert_close(
        found.maps["text"].of_layer(0).cpu(), plain.maps["text"].of_layer(0), atol=1e-3, rtol=1e-3
    )
