"""Two errors of every export: against the exact edit, and against the run's own file, which is rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from rece_lightning.exports import FORMATS, Erasure, export
from rece_lightning.exports.lora import kohya_names
from tests.helpers.erasures import distance, edited_exactly, original_of, text_columns, with_strength


def held(erasure: Erasure, kind: str, path: Path) -> dict[str, Tensor]:
    """The edited weights as what was written gives them, in float64: of each the columns that read text."""
    before = original_of(erasure)
    layers = [name.removesuffix(".weight") for name in before]
    if kind in ("lora", "kohya"):
        tensors = {name: tensor.double() for name, tensor in load_file(path).items()}
        names = {layer: f"unet.{layer}" for layer in layers} if kind == "lora" else kohya_names(erasure.base, layers)
        up, down = ("lora_B", "lora_A") if kind == "lora" else ("lora_up", "lora_down")
        for layer in layers:
            product = tensors[f"{names[layer]}.{up}.weight"] @ tensors[f"{names[layer]}.{down}.weight"]
            before[f"{layer}.weight"] += product
        return text_columns(erasure, before)
    rounded = {name: weight.double() for name, weight in erasure.weights()}
    # Every other test of these formats says that they hold these weights.
    return text_columns(erasure, edited_exactly(erasure) if kind == "map" else rounded)


@pytest.mark.parametrize("name", ["half", "xl"])
@pytest.mark.parametrize("kind", FORMATS)
def test_both_are_those_of_what_was_written(
    kind: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    record = export(erasure, kind, tmp_path / ("out" if FORMATS[kind].place == "folder" else "out.safetensors"))
    exact, before = text_columns(erasure, edited_exactly(erasure)), text_columns(erasure, original_of(erasure))
    file = text_columns(erasure, {name: weight.double() for name, weight in erasure.weights()})
    # ‖ΔW‖ / ‖W M‖
    edit = distance(before, exact)
    written = held(erasure, kind, record.path)
    for error, compared in ((record.loss.exact, exact), (record.loss.file, file)):
        if error is None:
            assert kind == "map"
            continue
        assert error.weight == pytest.approx(distance(written, compared), rel=1e-3, abs=1e-12)
        assert error.change == pytest.approx(distance(written, compared) / edit, rel=1e-3, abs=1e-12)
    assert record.error == record.loss.exact.change
    if name == "half" and kind in ("lora", "kohya"):
        # The LoRA is nearer to the edit than the run's file of half-precision weights is.
        assert record.loss.file is not None
        assert record.loss.exact.change < 1e-6 < 1e-4 < record.loss.file.change


def test_what_an_edit_that_changed_nothing_loses_is_nothing(tiny: Erasure, tmp_path: Path) -> None:
    for kind in ("delta", "lora"):
        loss = export(with_strength(tiny, 0.0), kind, tmp_path / f"{kind}.safetensors").loss
        assert loss.file is not None
        assert (loss.exact.change, loss.exact.weight, loss.file.change, loss.file.weight) == (0, 0, 0, 0)
