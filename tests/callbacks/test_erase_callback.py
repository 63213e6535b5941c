"""RECE in somebody else's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from peft import LoraConfig

from rece_lightning import RECE, ConceptData, ConfigurationError, Method, erase
from rece_lightning.callbacks import Erase
from rece_lightning.core import UCE, NullSpace, ProjectedUCE, Projection, TensorUCE
from tests.helpers.erasures import make_xl_checkpoint
from tests.helpers.models import make_checkpoint
from tests.helpers.trainings import Snapshots, SomebodysModule, projections, same, train, way_left


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", seed=8)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that the empty prompt's rows leave an edit something to read."""
    return make_checkpoint(tmp_path_factory.mktemp("model") / "wide", width=48, seed=8)


def test_saved_and_live_model_equal_a_rece_run_on_the_trained_weights(checkpoint: Path, tmp_path: Path) -> None:
    # With a learning rate of 0 the trained weights are the base's: a run of RECE on the base must give the same.
    module = SomebodysModule(checkpoint, 0.0)
    train(module, tmp_path, Erase(concepts=["bomb", "axe"], preserve=[" ", "dog"], epochs=3, tune="off"))
    reference = RECE(str(checkpoint), tune="off")
    trainer = Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(reference, ConceptData(["bomb", "axe"], preserve=[" ", "dog"]))
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    for name, weight in reference.erasure().weights():
        torch.testing.assert_close(state[f"unet.{name}"], weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(module.unet.get_parameter(name).data, weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "method",
    [
        Method(editor=Projection(rank=1, shrinkage=1.0)),
        Method(editor=UCE(), first_editor=ProjectedUCE(rank=1, shrinkage=1.0)),
        Method(editor=NullSpace(threshold=2.0, augmented_rank=0), first_editor=UCE(lamb=0.5)),
        Method(editor=TensorUCE()),
    ],
    ids=lambda method: type(method.editor).__name__,
)
def test_every_editor_edits_what_is_saved_and_what_is_live(wide: Path, tmp_path: Path, method: Method) -> None:
    """As a run of RECE with the same method does, while it trains and at the end."""
    module, taken = SomebodysModule(wide, 0.0), Snapshots()
    eraser = Erase(concepts=["bomb"], preserve=[" ", "dog"], epochs=2, every_n_steps=2, method=method)
    train(module, tmp_path, eraser, taken, steps=2)
    reference = RECE(str(wide), method=method)
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(reference, ConceptData(["bomb"], preserve=[" ", "dog"]))
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    for name, weight in reference.erasure().weights():
        torch.testing.assert_close(state[f"unet.{name}"], weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(taken.taken[-1][name], weight, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(taken.taken[0][name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("editor", "named"),
    [
        ("null", "editor"),
        ({"class_path": "NullSpace", "init_args": {"threshold": -1.0}}, "NullSpace.threshold"),
        ({"class_path": "NullSpace", "init_args": {"augmented_rank": 0.5}}, "NullSpace.augmented_rank"),
        ({"class_path": "Projection", "init_args": {"rank": 0}}, "Projection.rank"),
        ({"class_path": "Projection", "init_args": {"shrinkage": 0.0}}, "Projection.shrinkage"),
        ({"class_path": "Projection", "init_args": {"lamb": 1.0}}, "lamb"),
    ],
)
def test_settings_that_an_editor_cannot_use_are_refused(editor: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Erase(concepts=["bomb"], method={"editor": editor})  # type: ignore[arg-type]


def test_training_itself_is_untouched(checkpoint: Path, tmp_path: Path) -> None:
    plain, erased = SomebodysModule(checkpoint, 0.01), SomebodysModule(checkpoint, 0.01)
    torch.manual_seed(0)
    train(plain, tmp_path / "plain")
    torch.manual_seed(0)
    train(erased, tmp_path / "erased", Erase(concepts=["bomb"], tune="off"))
    edited = 0
    for (name, mine), (_, theirs) in zip(plain.named_parameters(), erased.named_parameters(), strict=True):
        if "attn2.to_k" in name or "attn2.to_v" in name:
            edited += not torch.equal(mine, theirs)
        else:
            assert torch.equal(mine, theirs), name
    assert edited


def test_every_n_steps_edits_the_live_weights(checkpoint: Path, tmp_path: Path) -> None:
    # With a learning rate of 0 nothing but the edits changes the weights.
    module, taken = SomebodysModule(checkpoint, 0.0), Snapshots()
    train(
        module, tmp_path, Erase(concepts=["bomb"], preserve=[" ", "dog"], every_n_steps=2, tune="off"), taken, steps=5
    )
    assert taken.changes() == [2, 4]
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    expected = [projections(pipeline.unet)]
    for _ in range(3):
        erase(pipeline, ["bomb"], preserve=[" ", "dog"], tune="off")
        expected.append(projections(pipeline.unet))
    for number, edits in enumerate([0, 1, 1, 2, 2]):
        for name, weight in taken.taken[number].items():
            torch.testing.assert_close(weight, expected[edits][name], rtol=1e-5, atol=1e-7)
    # The fifth step came after the last edit: the end edits once more, live and in the checkpoint.
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    for name, weight in projections(module.unet).items():
        torch.testing.assert_close(weight, expected[3][name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(state[f"unet.{name}"], weight)


def test_an_edit_at_the_last_step_is_not_repeated(checkpoint: Path, tmp_path: Path) -> None:
    module, taken = SomebodysModule(checkpoint, 0.0), Snapshots()
    train(module, tmp_path, Erase(concepts=["bomb"], every_n_steps=2, tune="off"), taken, steps=4)
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    assert same(projections(module.unet), taken.taken[-1])
    assert all(torch.equal(state[f"unet.{name}"], weight) for name, weight in taken.taken[-1].items())


def test_accumulated_batches_are_one_step(checkpoint: Path, tmp_path: Path) -> None:
    taken = Snapshots()
    eraser = Erase(concepts=["bomb"], every_n_steps=2, tune="off")
    train(SomebodysModule(checkpoint, 0.0), tmp_path, eraser, taken, steps=9, accumulate_grad_batches=2)
    assert taken.changes() == [4, 8]


def test_a_resumed_training_counts_on(checkpoint: Path, tmp_path: Path) -> None:
    train(SomebodysModule(checkpoint, 0.0), tmp_path, Erase(concepts=["bomb"], every_n_steps=2, tune="off"), steps=3)
    taken = Snapshots()
    eraser = Erase(concepts=["bomb"], every_n_steps=2, tune="off")
    module = SomebodysModule(checkpoint, 0.0)
    trainer = train(module, tmp_path / "on", eraser, taken, steps=3, max_epochs=2, resume=tmp_path / "saved.ckpt")
    # Steps 4, 5, 6 of the whole training; the snapshot before the first is the checkpoint's.
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    taken.taken.insert(0, {name: saved[f"unet.{name}"] for name in taken.taken[0]})
    assert trainer.global_step == 6
    assert taken.changes() == [2, 4]


def test_every_n_epochs_edits_at_the_end_of_an_epoch(checkpoint: Path, tmp_path: Path) -> None:
    taken = Snapshots()
    eraser = Erase(concepts=["bomb"], every_n_epochs=2, tune="off")
    train(SomebodysModule(checkpoint, 0.0), tmp_path, eraser, taken, steps=2, max_epochs=5)
    # Ten batches: the edits after epochs 2 and 4 show from batches 5 and 9 on.
    assert taken.changes() == [5, 9]


def test_the_pooled_embedding_of_sdxl_is_erased_too(tmp_path: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(make_xl_checkpoint(tmp_path / "xl", seed=13))
    module, roles = LightningModule(), ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    for role in roles:
        setattr(module, role, getattr(pipeline, role))
    second = {"text_encoder_2": "text_encoder_2", "tokenizer_2": "tokenizer_2"}
    edited = Erase(concepts=["bomb"], epochs=2, tune="off", **second).edited_weights(module)  # type: ignore[arg-type]
    erase(pipeline, ["bomb"], epochs=2, tune="off")
    assert "add_embedding.linear_1.weight" in edited
    assert all(torch.equal(pipeline.unet.get_parameter(name), weight) for name, weight in edited.items())
    # A module that does not name its second encoder is told so, not half erased.
    with pytest.raises(ConfigurationError, match=r"add_embedding.*text_encoder_2"):
        Erase(concepts=["bomb"], tune="off").edited_weights(module)


@pytest.mark.parametrize(
    ("schedules", "order"),
    [((None, None), (0, 1)), ((2, 2), (0, 1)), ((2, None), (0, 1)), ((None, 2), (1, 0))],
    ids=["at the end", "both while training", "the first while training", "the second while training"],
)
def test_two_callbacks_compose(
    wide: Path, tmp_path: Path, schedules: tuple[int | None, int | None], order: tuple[int, int]
) -> None:
    """Live and saved, the model is what two erasures leave, the later one on the earlier one."""
    concepts, module = ("bomb", "axe"), SomebodysModule(wide, 0.0)
    # Each holds the other where it finds it: at its target, once it was erased.
    settings: list[dict[str, Any]] = [
        {"preserve": [" ", "dog", other], "method": Method(UCE(preserve_scale=1.0)), "epochs": 1}
        for other in reversed(concepts)
    ]
    erasers = [
        Erase(concepts=[concept], every_n_steps=every, tune="off", **own)
        for concept, every, own in zip(concepts, schedules, settings, strict=True)
    ]
    train(module, tmp_path, *erasers, steps=2)
    original, expected = (StableDiffusionPipeline.from_pretrained(wide, safety_checker=None) for _ in range(2))
    for place in order:
        before = projections(expected.unet)
        erase(expected, concepts[place], **settings[place])
    wanted = projections(expected.unet)
    live, saved = projections(module.unet), torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    assert same(live, wanted)
    assert all(torch.equal(saved[f"unet.{name}"], weight) for name, weight in wanted.items())
    # Both are there, not the last alone.
    assert [way_left(original, live, concept) for concept in concepts] == pytest.approx([0.1, 0.1], abs=0.05)
    assert way_left(original, before, concepts[order[1]]) > 0.8


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_text_encoder_encodes_once(checkpoint: Path, tmp_path: Path, trained: bool) -> None:
    module = SomebodysModule(checkpoint, 0.0)
    module.text_encoder.train().requires_grad_(trained)
    calls = []
    module.text_encoder.register_forward_hook(lambda encoder, *_: calls.append(encoder.training))
    train(module, tmp_path, Erase(concepts=["bomb"], every_n_steps=1, tune="off"), steps=3)
    # Pairs and preserved prompts are two calls without dropout; the training's own go on with it.
    assert calls.count(True) == 3
    assert calls.count(False) == (6 if trained else 2)
    assert all(weight.requires_grad == trained for weight in module.text_encoder.parameters())


@pytest.mark.parametrize("field", ["every_n_steps", "every_n_epochs", "lora_rank"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_schedule_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"Erase.{field}: {value!r}"):
        Erase(concepts=["bomb"], **{field: value})  # type: ignore[arg-type]


def test_a_strategy_that_shards_the_weights_is_refused_before_training(checkpoint: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False, default_root_dir=tmp_path
    )
    with pytest.raises(ConfigurationError, match=r"trainer.strategy: ModelParallelStrategy shards"):
        Erase(concepts=["bomb"], tune="off").setup(trainer, SomebodysModule(checkpoint, 0.0), "fit")


def test_a_dora_around_the_projections_is_refused_before_training(checkpoint: Path, tmp_path: Path) -> None:
    module = SomebodysModule(checkpoint, 0.0)
    module.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], use_dora=True))
    with pytest.raises(ConfigurationError, match=r"Erase.unet: 'unet': a DoRA lies around"):
        train(module, tmp_path, Erase(concepts=["bomb"], tune="off"))


def test_a_missing_attribute_is_named_before_training(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Erase.unet.*no 'denoiser'"):
        train(SomebodysModule(checkpoint, 0.0), tmp_path, Erase(concepts=["bomb"], unet="denoiser", tune="off"))


def test_example_runs_on_the_embedded_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    import finetune_and_erase

    output = finetune_and_erase.main(["--steps", "2", "--output", str(tmp_path / "out")])
    unet = UNet2DConditionModel.from_pretrained(output)
    original = UNet2DConditionModel.from_pretrained(Path(finetune_and_erase.WEIGHTS) / "unet")
    names = [name for name, _ in unet.named_parameters() if "attn2.to_v" in name]
    assert all(not torch.allclose(unet.get_parameter(n), original.get_parameter(n), atol=1e-3) for n in names)


@pytest.mark.timeout(1200)  # two trainings and four hundred pictures, on whatever processor there is
def test_fine_tuning_brings_the_concept_back_and_with_the_callback_it_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    import erase_while_finetuning

    table = erase_while_finetuning.main(["--steps", "60", "--pictures", "4"])
    seen = {row: shares["its names"] + shares["its synonyms"] for row, shares in table.items()}
    # The intervals lie apart: what was erased is gone, comes back, and with the callback does not.
    assert seen["erased"].interval[1] < seen["original"].interval[0]
    assert seen["erased"].interval[1] < seen["fine-tuned alone"].interval[0]
    assert seen["with the callback"].interval[1] < seen["fine-tuned alone"].interval[0]
    # And the model is not broken for it.
    assert table["with the callback"]["kept objects"].rate > 0.4
