"""Whatever leaves a training with ``Erase`` in it is erased, by whichever way, in whatever order callbacks stand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rece_lightning import ConfigurationError, Method, erase
from rece_lightning.callbacks import Erase
from rece_lightning.core import UCE
from tests.helpers.models import make_checkpoint
from tests.helpers.trainings import Snapshots, SomebodysModule, projections, same, train, way_left

ERASED, LEFT = 0.3, 0.7
"""Shares of the way from a concept to its target that are left, at most and at least, once the weights have moved."""
RATE = 0.02
HOW: dict[str, Any] = {"preserve": [" ", "dog"], "method": Method(UCE(preserve_scale=1.0)), "epochs": 1}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that the empty prompt's rows leave an edit something to read."""
    return make_checkpoint(tmp_path_factory.mktemp("model") / "wide", width=48, seed=8)


@pytest.fixture(scope="module")
def original(wide: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(wide, safety_checker=None)


def bomb(**settings: Any) -> Erase:
    return Erase(**{"concepts": ["bomb"], **HOW, **settings})


Weights = Mapping[str, Tensor]


def copies(saved: Any, where: str = "") -> Iterator[tuple[str, Weights]]:
    """Every dictionary in what was saved that holds the U-Net's projections, under the U-Net's own names."""
    if isinstance(saved, Mapping):
        found = {str(key).split("unet.")[-1].removeprefix("_orig_mod."): value for key, value in saved.items()}
        if any("attn2.to_v" in name for name in found):
            yield where, {name: value.float() for name, value in found.items() if isinstance(value, Tensor)}
        for key, value in saved.items():
            yield from copies(value, f"{where}/{key}")


def read(file: Path) -> Any:
    return torch.load(file, weights_only=True)


class SavesEverywhere(Callback):
    """A user's callback that keeps the model in every way that there is, at every hook where one would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def save(self, trainer: Trainer, module: LightningModule, hook: str) -> None:
        unet, start = module.unet, self.folder / f"{hook}-{trainer.global_step}"
        torch.save(module.state_dict(), f"{start}-module.pt")
        torch.save(unet.state_dict(), f"{start}-unet.pt")
        torch.save(copy.deepcopy(unet).half().state_dict(), f"{start}-half.pt")
        torch.save({"unet": copy.deepcopy(module).state_dict()}, f"{start}-copy.pt")
        unet.save_pretrained(f"{start}-pretrained")
        written = UNet2DConditionModel.from_pretrained(f"{start}-pretrained").state_dict()
        torch.save(written, f"{start}-pretrained.pt")
        trainer.save_checkpoint(f"{start}-whole.pt")
        trainer.save_checkpoint(f"{start}-weights.pt", weights_only=True)
        own = {f"unet.{name}": weight.detach().clone() for name, weight in unet.named_parameters()}
        trainer.strategy.save_checkpoint({"state_dict": own}, f"{start}-strategy.pt")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        self.save(trainer, module, "batch")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, module, "epoch")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, module, "end")

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, module, "fit")


@pytest.mark.parametrize("first", [True, False], ids=["before Erase", "after Erase"])
def test_everything_that_is_saved_is_erased_and_the_training_goes_on_untouched(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path, first: bool
) -> None:
    plain, taken = Snapshots(), Snapshots()
    torch.manual_seed(0)
    train(SomebodysModule(wide, RATE), tmp_path / "plain", plain)
    module = SomebodysModule(wide, RATE)
    saves = SavesEverywhere(tmp_path / "files")
    more: list[Callback] = [saves, bomb()] if first else [bomb(), saves]
    keep = ModelCheckpoint(
        tmp_path / "kept", save_weights_only=True, every_n_train_steps=1, save_top_k=-1, save_last=True, monitor=None
    )
    torch.manual_seed(0)
    trainer = train(module, tmp_path, *more, taken, keep)
    assert all(same(one, other) for one, other in zip(plain.taken, taken.taken, strict=True))
    trainer.save_checkpoint(tmp_path / "files" / "after-weights.pt", weights_only=True)
    torch.save(module.state_dict(), tmp_path / "files" / "after-module.pt")
    files = [*(tmp_path / "files").glob("*.pt"), *(tmp_path / "kept").glob("*.ckpt"), tmp_path / "saved.ckpt"]
    assert len(files) == 5 * 8 + 2 + 3 + 1
    ways = {file.name: [way_left(original, weights, "bomb") for _, weights in copies(read(file))] for file in files}
    assert all(ways.values())
    assert {name: way for name, way in ways.items() if max(way) > ERASED} == {}
    assert way_left(original, taken.taken[-1], "bomb") > LEFT
    # The weights of that moment, not the last ones.
    steps = [read(tmp_path / "files" / f"batch-{step}-unet.pt")["conv_in.weight"] for step in (1, 2)]
    assert not torch.equal(*steps)
    # Erased once, not twice: each way holds the same bits.
    one = read(tmp_path / "files" / "epoch-2-unet.pt")
    for way in ("module", "pretrained", "copy", "whole", "weights", "strategy"):
        [(_, weights)] = copies(read(tmp_path / "files" / f"epoch-2-{way}.pt"))
        assert all(torch.equal(weights[name], one[name]) for name in one), way
    assert same(projections(module.unet), one)


class OwnAverage(Callback):
    """An average of a user's own, as many write it: a copy, a state beside Lightning's, put back at the end."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.average = copy.deepcopy(module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        # Written through state_dict(), which must be the average's own weights.
        for mine, theirs in zip(self.average.state_dict().values(), module.state_dict().values(), strict=True):
            mine.copy_(0.5 * mine + 0.5 * theirs)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = {f"shadow.{name}": weight for name, weight in self.average.state_dict().items()}

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.load_state_dict(self.average.state_dict())


AVERAGES: dict[str, Callable[[], Callback]] = {
    "EMA": lambda: EMAWeightAveraging(decay=0.5),
    "SWA": lambda: StochasticWeightAveraging(swa_lrs=RATE, swa_epoch_start=1),
    "own": OwnAverage,
}
KEPT = {
    "EMA": {"/state_dict", "/current_model_state"},
    "SWA": {"/state_dict", "/callbacks/StochasticWeightAveraging/average_model_state"},
    "own": {"/state_dict", "/average"},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_averages_are_erased_in_any_order(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path, kind: str
) -> None:
    """Every copy in the checkpoint, and what is live after the last epoch: the average, erased."""
    ends = []
    for place in (0, 1):
        folder, module, raw = tmp_path / str(place), SomebodysModule(wide, RATE), Snapshots()
        more = [raw, AVERAGES[kind]()]
        more.insert(2 * place, bomb())
        torch.manual_seed(0)
        train(module, folder, *more, max_epochs=2)
        assert way_left(original, raw.taken[-1], "bomb") > LEFT
        found = dict(copies(read(folder / "saved.ckpt")))
        assert found.keys() == KEPT[kind]
        left = {name: way_left(original, weights, "bomb") for name, weights in found.items()}
        assert max(left.values()) < ERASED, left
        ends.append(module.state_dict())
    assert way_left(original, {n.removeprefix("unet."): w for n, w in ends[0].items()}, "bomb") < ERASED
    if kind != "own":  # which reads the weights it averages out of a state_dict: erased ones, while Erase is there
        assert same(*ends)


def test_an_average_of_a_trained_text_encoder_is_erased_by_its_own_rows(wide: Path, tmp_path: Path) -> None:
    """As if the average had been a model of its own: with the live encoder's rows it would be another edit."""

    class Trains(SomebodysModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.text_encoder.requires_grad_(True)
            return torch.optim.SGD(self.parameters(), lr=1.0)

    class Peeks(Callback):
        """The average as it is in the checkpoint before anything of it is erased."""

        def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
            self.average = copy.deepcopy(checkpoint["state_dict"])
            self.live = copy.deepcopy(module.text_encoder.state_dict())

    peeks = Peeks()
    module = Trains(wide, 0.0)
    train(module, tmp_path, EMAWeightAveraging(decay=0.9), peeks, bomb(), steps=3)
    # The last one that Lightning wrote is of the last batch: the training's encoder comes back as it was.
    saved = read(tmp_path / "saved.ckpt")["state_dict"]
    wanted, other = (StableDiffusionPipeline.from_pretrained(wide, safety_checker=None) for _ in range(2))
    for pipeline in (wanted, other):
        pipeline.unet.load_state_dict(part(peeks.average, "unet."))
        pipeline.text_encoder.load_state_dict(part(peeks.average, "text_encoder."))
    other.text_encoder.load_state_dict(peeks.live)
    for pipeline in (wanted, other):
        erase(pipeline, ["bomb"], **HOW)
    assert same(projections(wanted.unet), part(saved, "unet."))
    assert not same(projections(other.unet), part(saved, "unet."))
    assert not same(peeks.live, part(saved, "text_encoder."))


def part(state: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def test_two_erasures_compose_around_an_average(wide: Path, original: StableDiffusionPipeline, tmp_path: Path) -> None:
    ends, kept = [], Raw()
    for callbacks in (
        [EMAWeightAveraging(decay=0.5), kept, bomb(), bomb(concepts=["axe"], preserve=[" ", "bomb"])],
        [bomb(), EMAWeightAveraging(decay=0.5), bomb(concepts=["axe"], preserve=[" ", "bomb"])],
        [bomb(), bomb(concepts=["axe"], preserve=[" ", "bomb"]), EMAWeightAveraging(decay=0.5)],
    ):
        torch.manual_seed(0)
        module = SomebodysModule(wide, RATE)
        train(module, tmp_path / str(len(ends)), *callbacks)
        for weights in (
            projections(module.unet),
            *dict(copies(read(tmp_path / str(len(ends)) / "saved.ckpt"))).values(),
        ):
            assert max(way_left(original, weights, concept) for concept in ("bomb", "axe")) < ERASED
        ends.append(projections(module.unet))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
    # The later on the earlier one, of the average itself.
    expected = StableDiffusionPipeline.from_pretrained(wide, safety_checker=None)
    expected.unet.load_state_dict(kept.weights)
    erase(expected, ["bomb"], **HOW)
    erase(expected, ["axe"], **{**HOW, "preserve": [" ", "bomb"]})
    assert same(projections(expected.unet), ends[0])


class Raw(Callback):
    """The U-Net's weights at the end of the training, before a later callback edits them."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in module.unet.named_parameters()}


# Denoisers that are elsewhere than in an attribute from the start


class BuiltInSetup(SomebodysModule):
    """Builds its parts when the trainer says so; Lightning calls it more than once."""

    def build(self, folder: Path) -> None:
        self.folder = folder

    def build_now(self) -> None:
        if not hasattr(self, "unet"):
            super().build(self.folder)

    def setup(self, stage: str) -> None:
        self.build_now()


class BuiltInConfigureModel(BuiltInSetup):
    def setup(self, stage: str) -> None:
        pass

    def configure_model(self) -> None:
        self.build_now()


class BuiltAnew(SomebodysModule):
    """Once more, as Lightning warns against: the denoiser that was there first is not the one that is trained."""

    def configure_model(self) -> None:
        self.build(self.folder)

    def build(self, folder: Path) -> None:
        self.folder = folder
        super().build(folder)


class InAPipeline(SomebodysModule):
    """In an attribute that is no module: nothing of it is in a checkpoint but what the module puts there itself."""

    def build(self, folder: Path) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)

    unet = property(lambda self: self.pipe.unet)
    text_encoder = property(lambda self: self.pipe.text_encoder)
    tokenizer = property(lambda self: self.pipe.tokenizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["pipe"] = self.pipe.unet.state_dict()


class Compiled(SomebodysModule):
    def build(self, folder: Path) -> None:
        super().build(folder)
        self.unet = torch.compile(self.unet, backend="eager", disable=True)  # type: ignore[assignment]


class SavesWhatItTrains(SomebodysModule):
    """Has a state dict of its own, past the U-Net's."""

    def build(self, folder: Path) -> None:
        super().build(folder)
        self.unet.requires_grad_(False)
        self.unet.up_blocks.requires_grad_(True)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.unet.named_parameters("unet") if weight.requires_grad}


class TwoNames(SomebodysModule):
    """Lies in it twice, once inside another module."""

    def build(self, folder: Path) -> None:
        super().build(folder)
        self.model = nn.ModuleDict({"unet": self.unet})


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (BuiltInSetup, {}),
        (BuiltInConfigureModel, {}),
        (BuiltAnew, {}),
        (InAPipeline, {role: f"pipe.{role}" for role in ("unet", "text_encoder", "tokenizer")}),
        (Compiled, {}),
        (SavesWhatItTrains, {}),
        (TwoNames, {}),
        (TwoNames, {"unet": "model.unet"}),
    ],
)
def test_wherever_the_denoiser_lies_what_is_saved_is_erased(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path, kind: Any, parts: dict[str, str]
) -> None:
    raw, module = Snapshots(), kind(wide, RATE)
    train(module, tmp_path, bomb(**parts), raw, save_weights_only=True)
    saved = read(tmp_path / "saved.ckpt")
    found = dict(copies(saved))
    assert len(found) == 1
    if kind is SavesWhatItTrains:
        assert {name.split(".")[0] for name in found["/state_dict"]} == {"up_blocks"}
        read_text = [name for name in found["/state_dict"] if name in projections(module.unet)]
        assert len(read_text) == 4
        assert all(torch.equal(saved["state_dict"][f"unet.{n}"], module.unet.get_parameter(n)) for n in read_text)
        return
    for weights in (*found.values(), clean(projections(module.unet))):
        assert way_left(original, weights, "bomb") < ERASED
    assert all(way_left(original, clean(weights), "bomb") > LEFT for weights in raw.taken)
    if kind is TwoNames:
        state = saved["state_dict"]
        assert same(part(state, "model.unet."), part(state, "unet."))


def clean(weights: Weights) -> dict[str, Tensor]:
    return {name.removeprefix("_orig_mod."): weight for name, weight in weights.items()}


@pytest.mark.parametrize("kind", [BuiltInSetup, BuiltInConfigureModel])
def test_a_part_that_is_never_built_is_named_before_training(wide: Path, tmp_path: Path, kind: Any) -> None:
    taken = Snapshots()
    with pytest.raises(ConfigurationError, match=rf"Erase.unet: {kind.__name__} has no 'denoiser'"):
        train(kind(wide, RATE), tmp_path, bomb(unet="denoiser"), taken)
    assert taken.taken == []


# Stops, and what comes after


class Stops(Callback):
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("the power went out")


def test_a_training_that_fails_saves_erased_weights_and_the_next_one_starts_afresh(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path
) -> None:
    module = SomebodysModule(wide, RATE)
    stopped = OnExceptionCheckpoint(tmp_path, "stopped")
    with pytest.raises(RuntimeError, match="the power"):
        train(module, tmp_path, stopped, Stops(), bomb(), steps=3)
    assert way_left(original, dict(copies(read(tmp_path / "stopped.ckpt")))["/state_dict"], "bomb") < ERASED
    # Nobody edited the live weights; what is kept of them by hand is erased all the same.
    assert way_left(original, projections(module.unet), "bomb") > LEFT
    assert way_left(original, module.unet.state_dict(), "bomb") < ERASED
    train(module, tmp_path / "next", bomb(concepts=["axe"]), steps=1)
    for weights in (projections(module.unet), module.unet.state_dict()):
        assert way_left(original, weights, "axe") < ERASED
        assert way_left(original, weights, "bomb") > LEFT - 0.2
    assert same(projections(module.unet), module.unet.state_dict())


def test_after_the_training_state_dict_is_the_modules_own(wide: Path, tmp_path: Path) -> None:
    module = SomebodysModule(wide, RATE)
    train(module, tmp_path, bomb())
    module.unet.load_state_dict(before := {n: torch.zeros_like(w) for n, w in module.unet.state_dict().items()})
    assert same(module.unet.state_dict(), before)
    pickle.dumps(module.unet)


def test_a_trainer_that_only_validates_saves_erased_weights(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path
) -> None:
    class Validates(BuiltInSetup):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            pass

    trainer = Trainer(
        logger=False, accelerator="cpu", callbacks=[bomb()], enable_progress_bar=False, default_root_dir=tmp_path
    )
    module = Validates(wide, RATE)
    trainer.validate(module, DataLoader(torch.randn(1, 4, 4, 4)), verbose=False)
    for name, weights_only in (("whole", False), ("weights", True)):
        trainer.save_checkpoint(tmp_path / name, weights_only=weights_only)
        [(_, weights)] = copies(read(tmp_path / name))
        assert way_left(original, weights, "bomb") < ERASED
    assert way_left(original, module.unet.state_dict(), "bomb") == 1.0


def test_the_tuner_goes_back_to_the_weights_of_the_training(wide: Path, tmp_path: Path) -> None:
    module = SomebodysModule(wide, RATE)
    before = copy.deepcopy(module.state_dict())
    trainer = Trainer(
        max_epochs=1, logger=False, accelerator="cpu", callbacks=[bomb()], enable_progress_bar=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loader = DataLoader(torch.randn(3, 4, 4, 4), batch_size=1)
    Tuner(trainer).lr_find(module, loader, num_training=2, update_attr=False)
    assert same(before, module.state_dict())


def test_an_average_goes_on_from_a_checkpoint(wide: Path, original: StableDiffusionPipeline, tmp_path: Path) -> None:
    train(SomebodysModule(wide, RATE), tmp_path, bomb(), EMAWeightAveraging(decay=0.5))
    module = SomebodysModule(wide, RATE)
    on = tmp_path / "on"
    train(module, on, EMAWeightAveraging(decay=0.5), bomb(), max_epochs=2, resume=tmp_path / "saved.ckpt")
    assert all(way_left(original, weights, "bomb") < ERASED for _, weights in copies(read(on / "saved.ckpt")))
    assert way_left(original, projections(module.unet), "bomb") < ERASED


def test_checkpoints_written_in_the_background_are_erased(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path
) -> None:
    module = SomebodysModule(wide, RATE)
    train(module, tmp_path, EMAWeightAveraging(decay=0.5), bomb(), plugins=[AsyncCheckpointIO()])
    assert all(way_left(original, weights, "bomb") < ERASED for _, weights in copies(read(tmp_path / "saved.ckpt")))


# What a state dict is good for while the training runs


class Asks(Callback):
    """Runs a function on the module in the middle of a training."""

    def __init__(self, question: Callable[[Any], object]) -> None:
        self.question = question

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        self.answer = self.question(module)


def ask(wide: Path, folder: Path, question: Callable[[Any], object]) -> object:
    asks = Asks(question)
    train(SomebodysModule(wide, RATE), folder, bomb(), asks, steps=1)
    return asks.answer


def test_a_write_into_it_is_refused_not_lost(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Inplace update"):
        ask(wide, tmp_path, lambda module: [weight.zero_() for weight in module.unet.state_dict().values()])


def test_parameters_are_given_where_parameters_are_asked_for(wide: Path, tmp_path: Path) -> None:
    def question(module: Any) -> bool:
        asked = module.unet.state_dict(keep_vars=True)
        return all(asked[name] is weight for name, weight in module.unet.named_parameters())

    assert ask(wide, tmp_path, question) is True


def test_a_pickled_module_is_refused(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pickled module .* save_pretrained"):
        ask(wide, tmp_path, lambda module: pickle.dumps(module.unet))


def test_a_dictionary_of_somebody_elses_is_not_changed_in_place(wide: Path, tmp_path: Path) -> None:
    class Keeps(Callback):
        own: dict[str, Tensor]

        def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
            self.own = {f"unet.{name}": weight.detach().clone() for name, weight in module.unet.named_parameters()}
            self.before = {name: weight.clone() for name, weight in self.own.items()}

        def state_dict(self) -> dict[str, Any]:
            return {"own": self.own}

    keeps = Keeps()
    train(SomebodysModule(wide, RATE), tmp_path, bomb(), keeps)
    assert same(keeps.before, keeps.own)
    [saved] = (weights for where, weights in copies(read(tmp_path / "saved.ckpt")) if where.endswith("/own"))
    assert not same(part(keeps.own, "unet."), saved)


def test_another_denoiser_in_the_module_is_named_and_can_have_its_own(
    wide: Path, original: StableDiffusionPipeline, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Distils(SomebodysModule):
        def build(self, folder: Path) -> None:
            super().build(folder)
            attention = nn.ModuleDict({"to_k": nn.Linear(2, 2)})
            self.models = nn.ModuleDict(
                {"teacher": copy.deepcopy(self.unet), "own": nn.ModuleDict({"attn2": attention})}
            )

    def left(callbacks: list[Callback], place: str) -> float:
        train(Distils(wide, RATE), tmp_path / place, *callbacks, EMAWeightAveraging(decay=0.5), steps=1)
        saved = read(tmp_path / place / "saved.ckpt")
        states = [saved["state_dict"], saved["current_model_state"]]
        assert all(way_left(original, part(state, "unet."), "bomb") < ERASED for state in states)
        return max(way_left(original, part(state, "models.teacher."), "bomb") for state in states)

    assert left([bomb()], "one") == 1.0
    assert [str(one.message) for one in recwarn if "Erase" in str(one.message)] == [
        "Erase: Distils also holds 'models.own', 'models.teacher', which reads text and is saved as it is; add an "
        "Erase(..., unet='models.own') where it should lose the concepts too."
    ]
    recwarn.clear()
    assert left([bomb(), bomb(unet="models.teacher")], "both") < ERASED
    assert ["'models.own', which" in str(one.message) for one in recwarn if "Erase" in str(one.message)] == [True]
