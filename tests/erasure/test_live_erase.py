"""``rece_lightning.erase``: a live pipeline edited in one line, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch import Trainer
from peft import LoraConfig
from torch import Tensor, nn

import rece_lightning
from rece_lightning import RECE, BaseModelError, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE, Derivation, NullSpace, Robust
from rece_lightning.emoji.catalog import WEIGHTS
from rece_lightning.models.text import PromptEncoder
from tests.helpers.models import make_checkpoint

PRESERVE = [" ", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", seed=9)


@pytest.fixture
def pipeline(checkpoint: Path) -> StableDiffusionPipeline:
    return load(checkpoint)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def everything(pipeline: Any) -> dict[str, Tensor]:
    """Copies of every number of U-Net and text encoder."""
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    return {
        f"{role}.{name}": value.clone() for role, part in parts.items() for name, value in part.state_dict().items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def uce(**settings: float) -> dict[str, Any]:
    """UCE in plain types."""
    return {"class_path": "UCE", "init_args": settings}


def text_reading(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    for name, weight in pipeline.unet.named_parameters():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            yield name, weight.detach()


@pytest.mark.parametrize("model", ["tiny", "emoji"])
def test_equals_a_run(model: str, checkpoint: Path) -> None:
    folder = WEIGHTS if model == "emoji" else checkpoint
    method = Method(
        first_editor=UCE(lamb=0.5), derivation=Derivation(0.01), accumulate=True, layers="^up_blocks"
    )  # fmt: skip
    module = RECE(str(folder), method=method)
    trainer = Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, ConceptData(["bomb", "axe"], preserve=PRESERVE, templates=["{}", "a {}"]))
    live = load(folder)
    erasure = rece_lightning.erase(
        live,
        ["bomb", "axe"],
        preserve=PRESERVE,
        templates=["{}", "a {}"],
        method=method,
        epochs=3,
    )
    assert erasure.names == module.session.names
    expected = dict(text_reading(module.pipeline()))
    # The run rounds to the stored dtype, the live pipeline to its own: emoji is stored in half precision.
    rounding = {"rtol": 1e-3, "atol": 1e-5} if model == "emoji" else {"rtol": 1e-5, "atol": 1e-7}
    for name, weight in text_reading(live):
        torch.testing.assert_close(weight, expected[name], **rounding)
    change = module.session.change()["weight_change"]
    assert erasure.figures["weight_change"] == pytest.approx(change, rel=1e-4)
    last = module.history[-1]
    for figure in ("regeneration_residual", "regeneration_residual_unedited", "preservation_drift"):
        assert erasure.figures[figure] == pytest.approx(last[figure], rel=1e-4)


def test_the_null_space_editor_equals_a_run(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "wide", width=48, seed=9)
    method = Method(editor=NullSpace(threshold=0.5, augmented_rank=2))
    module = RECE(str(folder), method=method)
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, ConceptData(["bomb"], preserve=PRESERVE))
    live = load(folder)
    erasure = rece_lightning.erase(live, ["bomb"], preserve=PRESERVE, epochs=2, method=method)
    expected = dict(text_reading(module.pipeline()))
    for name, weight in text_reading(live):
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    # The empty prompt stays, whatever the edit.
    rows = PromptEncoder.of_pipeline(live).encode([""]).embeddings
    moved = rows.double() @ erasure.maps["text"].change.mT  # type: ignore[union-attr]
    assert float(torch.linalg.norm(moved)) < 1e-4


def test_only_the_projections_change_and_come_back_bit_for_bit(pipeline: StableDiffusionPipeline) -> None:
    before = everything(pipeline)
    modes = [module.training for module in pipeline.text_encoder.modules()]
    erasure = rece_lightning.erase(pipeline, ["bomb"], preserve=PRESERVE, tune="off")
    after = everything(pipeline)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"unet.{name}" for name in erasure.names}
    assert len(erasure.names) == len(list(text_reading(pipeline)))
    for name in erasure.names:
        assert torch.equal(after[f"unet.{name}"], erasure.maps["text"].applied_to(before[f"unet.{name}"]))
    assert modes == [module.training for module in pipeline.text_encoder.modules()]
    erasure.undo()
    assert equal(everything(pipeline), before)
    # A second call does nothing, whatever happened in between.
    rece_lightning.erase(pipeline, "axe", tune="off")
    present = everything(pipeline)
    erasure.undo()
    assert equal(everything(pipeline), present)


def test_a_text_encoder_in_training_stays_as_it_is(pipeline: StableDiffusionPipeline) -> None:
    encoder = pipeline.text_encoder
    encoder.train().requires_grad_(True)
    frozen = next(part for part in encoder.modules() if isinstance(part, nn.LayerNorm)).eval().requires_grad_(False)
    modes = [part.training for part in encoder.modules()]
    gradients = [weight.requires_grad for weight in encoder.parameters()]
    rece_lightning.erase(pipeline, "bomb", tune="off")
    assert not frozen.training
    assert modes == [part.training for part in encoder.modules()]
    assert gradients == [weight.requires_grad for weight in encoder.parameters()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_edited_in_its_dtype(checkpoint: Path, dtype: torch.dtype) -> None:
    full, half = load(checkpoint), load(checkpoint, dtype)
    before = everything(half)
    reference = rece_lightning.erase(full, ["bomb"], preserve=PRESERVE, epochs=2, tune="off")
    erasure = rece_lightning.erase(half, ["bomb"], preserve=PRESERVE, epochs=2, tune="off")
    wide = dict(text_reading(full))
    for name, weight in text_reading(half):
        assert weight.dtype == dtype
        assert torch.equal(weight, erasure.maps["text"].applied_to(before[f"unet.{name}"]))
        # Also the prompts were encoded in half precision, so that it is not one rounding alone.
        error = torch.linalg.norm(weight.float() - wide[name]) / torch.linalg.norm(wide[name])
        assert error < 32 * torch.finfo(dtype).eps
    assert reference.figures["weight_change"] > 32 * torch.finfo(dtype).eps
    assert erasure.figures["weight_change"] == pytest.approx(reference.figures["weight_change"], rel=0.05)
    erasure.undo()
    assert equal(everything(half), before)


def test_erasures_stack_and_come_off_in_reverse_order(pipeline: StableDiffusionPipeline) -> None:
    original = everything(pipeline)
    first = rece_lightning.erase(pipeline, "bomb", preserve=PRESERVE, tune="off")
    once = everything(pipeline)
    second = rece_lightning.erase(pipeline, "axe", preserve=PRESERVE, tune="off")
    twice = everything(pipeline)
    # The second one edits what the first one left.
    for name in second.names:
        assert torch.equal(twice[f"unet.{name}"], second.maps["text"].applied_to(once[f"unet.{name}"]))
    with pytest.raises(ConfigurationError, match="Undo what came later first"):
        first.undo()
    assert equal(everything(pipeline), twice)
    second.undo()
    assert equal(everything(pipeline), once)
    first.undo()
    assert equal(everything(pipeline), original)


def test_as_a_context_manager(pipeline: StableDiffusionPipeline) -> None:
    original = everything(pipeline)
    with rece_lightning.erase(pipeline, ["bomb"], tune="off") as erasure:
        assert not equal(everything(pipeline), original)
        assert "in force" in repr(erasure)
    assert equal(everything(pipeline), original)
    with pytest.raises(RuntimeError, match="of the user"), rece_lightning.erase(pipeline, ["bomb"], tune="off"):
        raise RuntimeError("of the user")
    assert equal(everything(pipeline), original)


def test_what_somebody_else_changed_is_not_overwritten_unasked(checkpoint: Path) -> None:
    pipeline = load(checkpoint)
    original = everything(pipeline)
    erasure = rece_lightning.erase(pipeline, ["bomb"], tune="off")
    with torch.no_grad():
        pipeline.unet.get_parameter(erasure.names[-1])[0, 0] += 1
    changed = everything(pipeline)
    with pytest.raises(ConfigurationError, match="changed since"):
        erasure.undo()
    assert equal(everything(pipeline), changed)
    erasure.undo(force=True)
    assert equal(everything(pipeline), original)
    # A cast is a change too; forced, the originals take the new dtype.
    erasure = rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.unet.to(torch.bfloat16)
    with pytest.raises(ConfigurationError, match="dtype"):
        erasure.undo()
    erasure.undo(force=True)
    for name, weight in text_reading(pipeline):
        assert torch.equal(weight, original[f"unet.{name}"].bfloat16())


def test_a_compiled_unet_is_edited_inside(pipeline: StableDiffusionPipeline) -> None:
    original = everything(pipeline)
    inner = pipeline.unet
    pipeline.unet = torch.compile(inner)
    erasure = rece_lightning.erase(pipeline, ["bomb"], tune="off")
    assert not any(torch.equal(inner.get_parameter(name), original[f"unet.{name}"]) for name in erasure.names)
    erasure.undo()
    pipeline.unet = inner
    assert equal(everything(pipeline), original)


def test_settings_are_refused_before_anything_changes(pipeline: StableDiffusionPipeline) -> None:
    original = everything(pipeline)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"concepts": []}, "names nothing to erase"),
        ({"concepts": ["bomb"], "preserve": ["bomb"]}, "also erased"),
        ({"concepts": ["bomb"], "epochs": 0}, "erase.epochs: 0"),
        ({"concepts": ["bomb"], "epochs": True}, "erase.epochs: True"),
        (
            {"concepts": ["bomb"], "method": {"layers": "^nowhere"}},
            r"model\.method\.layers: '\^nowhere' matches no proj",
        ),
        ({"concepts": ["bomb"], "method": {"editor": uce(lamb=float("nan"))}}, r"UCE\.lamb"),
        ({"concepts": ["bomb"], "method": {"derivation": {"scale": 0}}}, r"derivation\.scale"),
        (
            {"concepts": ["bomb"], "method": {"derivation": {"regularizer": "nrm"}}},
            r"derivation\.regularizer.*did you mean 'norm'",
        ),
        ({"concepts": ["bomb"], "method": {"tokens": "first"}}, r"model\.method\.tokens"),
        ({"concepts": ["bomb"], "method": {"projections": "q"}}, r"model\.method\.projections"),
        ({"concepts": ["bomb"], "method": {"layers": "("}}, "no regular expression"),
        ({"concepts": ["bomb"], "method": {"first_editor": uce(lam=1.0)}}, r"method\.first_editor\.lam: .*'lamb'"),
        ({"concepts": ["bomb"], "method": {"first_editor": uce(lamb=-1.0)}}, r"UCE\.lamb: -1"),
        ({"concepts": ["bomb"], "method": {"first_editor": 3}}, r"model\.method\.first_editor: 3"),
        ({"concepts": ["bomb"], "method": {"lamb": 0.5}}, r"model\.method\.lamb: no such setting"),
        ({"concepts": ["bomb"], "method": 3}, r"model\.method: 3 is no method"),
        ({"concepts": ["bomb"], "method": Method(robust=Robust(synonyms=2))}, r"erase\.method\.robust"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            rece_lightning.erase(pipeline, **arguments)
    assert equal(everything(pipeline), original)


def test_a_prompt_that_does_not_fit_is_cut_with_a_warning(pipeline: StableDiffusionPipeline) -> None:
    with pytest.warns(UserWarning, match="longer than the tokenizer takes"):
        rece_lightning.erase(pipeline, " ".join(["bomb"] * 40), tune="off")


def test_pipelines_that_cannot_be_edited(checkpoint: Path) -> None:
    pipeline = load(checkpoint)
    text_encoder, pipeline.text_encoder = pipeline.text_encoder, None
    with pytest.raises(BaseModelError, match="text encoder"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.text_encoder = text_encoder
    unet, pipeline.unet = pipeline.unet, None
    with pytest.raises(ConfigurationError, match="StableDiffusionPipeline is of no known family"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.unet = nn.Linear(3, 3)
    with pytest.raises(ConfigurationError, match="no cross-attention that reads the text"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.unet = unet.to(torch.float8_e4m3fn)
    with pytest.raises(ConfigurationError, match=r"float8_e4m3fn.*quantized"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.unet = unet.to("meta")
    with pytest.raises(ConfigurationError, match="offloaded"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")


def test_a_text_encoder_of_another_width_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    pipeline, other = load(checkpoint), load(make_checkpoint(tmp_path / "wide", width=32))
    original = everything(pipeline)
    theirs, pipeline.text_encoder = pipeline.text_encoder, other.text_encoder
    with pytest.raises(ConfigurationError, match=r"24 wide in the space .text., the text encoder gives 32"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    pipeline.text_encoder = theirs
    assert equal(everything(pipeline), original)


def test_nan_weights_and_overflow_change_nothing(checkpoint: Path) -> None:
    pipeline = load(checkpoint, torch.float16)
    with rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off") as erasure:
        # UCE's map does not depend on the weights: the signs of its largest column make a sum that is too large.
        sums = erasure.maps["text"].of_layer(0).abs().sum(0)
        column = erasure.maps["text"].of_layer(0)[:, sums.argmax()]
        assert 60000 * sums.max() > torch.finfo(torch.float16).max
    name, weight = list(text_reading(pipeline))[-1]
    weight[0] = 60000 * column.sign()
    original = everything(pipeline)
    with pytest.raises(ConfigurationError, match=rf"{name}.*do not fit torch.float16"):
        rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    assert equal(everything(pipeline), original)
    weight[0, 0] = float("nan")
    with pytest.raises(BaseModelError, match=name):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")


def test_offloading_a_model_at_a_time_works(checkpoint: Path) -> None:
    # Accelerate's hooks as enable_model_cpu_offload puts them, with the CPU as the accelerator.
    from accelerate import cpu_offload_with_hook

    plain, offloaded = load(checkpoint), load(checkpoint)
    rece_lightning.erase(plain, ["bomb"], tune="off")
    for part in (offloaded.text_encoder, offloaded.unet):
        cpu_offload_with_hook(part, "cpu")
    rece_lightning.erase(offloaded, ["bomb"], tune="off")
    assert equal(everything(plain), everything(offloaded))


def test_a_lora_elsewhere_is_no_hindrance(checkpoint: Path) -> None:
    pipeline = load(checkpoint)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    erasure = rece_lightning.erase(pipeline, ["bomb"], tune="off")
    assert erasure.names == sorted(name for name, _ in text_reading(pipeline))
