"""Concepts added to a finished erasure and taken back: the erasure from scratch with that list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE, Derivation, Eraser, Evidence, Gram, Moments, TensorUCE
from rece_lightning.erasure.incremental import IncrementalErasure
from rece_lightning.models.text import PromptEncoder
from tests.helpers.ranks import NAMES

FEW, MANY = NAMES[:4], NAMES[:150]
PRESERVED = [" ", *NAMES[200:230]]
EPOCHS = 3
METHOD = Method(editor=UCE(lamb=1.0))


def fit(model: Path, concepts: list[str], save: Path | None = None, method: Method = METHOD) -> RECE:
    module = RECE(str(model), method=method)
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(list(concepts), preserve=PRESERVED))
    if save is not None:
        trainer.save_checkpoint(save)
    return module


def matrix(module: RECE) -> Tensor:
    return torch.stack([module.maps["text"].of_layer(layer) for layer in range(2)])


def difference(found: RECE, wanted: RECE) -> float:
    return float((matrix(found) - matrix(wanted)).norm() / matrix(wanted).norm())


@pytest.mark.parametrize("names", [FEW, MANY], ids=["rows", "moments"])
@pytest.mark.parametrize("stored", [False, True], ids=["live", "checkpoint"])
def test_added_and_removed_is_from_scratch(tiny_model: Path, tmp_path: Path, names: list[str], stored: bool) -> None:
    part, others = names[: len(names) // 2], names[len(names) // 2 :]
    module = fit(tiny_model, part, tmp_path / "part.ckpt")
    if stored:
        module = RECE.load_from_checkpoint(tmp_path / "part.ckpt", weights_only=True)
    before = matrix(module)
    erasure = IncrementalErasure(module.session)
    erasure.add(others)
    assert erasure.erased == names
    whole = fit(tiny_model, names)
    # Embeddings are float32 and were encoded in other batches: that is what remains.
    assert difference(module, whole) < 1e-4
    assert float((matrix(module) - before).norm()) > 1e-2
    for key, value in whole.history[-1].items():
        if key not in ("edit_seconds", "erase_seconds", "map_rank"):
            assert module.history[-1][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    erasure.remove(others)
    assert erasure.erased == part
    assert float((matrix(module) - before).norm() / before.norm()) < (1e-12 if names is FEW else 1e-7)


def test_the_others_are_not_encoded_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = fit(tiny_model, FEW), []
    encode = PromptEncoder.encode

    def watched(self: PromptEncoder, prompts: list[str]) -> object:
        seen.extend(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(PromptEncoder, "encode", watched)
    erasure = IncrementalErasure(module.session)
    erasure.remove([FEW[1]])
    assert seen == []
    erasure.add([{"prompt": "hatchet", "target": "toy"}])
    assert sorted(seen) == ["hatchet", "toy"]


@pytest.mark.parametrize(
    "more",
    [
        {"editor": TensorUCE(lamb=1.0)},
        {"accumulate": True},
        {"derivation": Derivation(regularizer="standard")},
    ],
    ids=["tensor", "accumulate", "standard"],
)
def test_every_kind_of_loop(tiny_model: Path, more: dict[str, Any]) -> None:
    method = replace(METHOD, **more)
    module = fit(tiny_model, FEW, method=method)
    IncrementalErasure(module.session).remove(FEW[:1])
    assert difference(module, fit(tiny_model, FEW[1:], method=method)) < 1e-4


def test_a_changed_erasure_is_saved_and_taken_up(tiny_model: Path, tmp_path: Path) -> None:
    module = fit(tiny_model, MANY)
    IncrementalErasure(module.session).remove(MANY[:3])
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other = RECE(str(tiny_model), method=METHOD)
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(matrix(other), matrix(module))
    assert IncrementalErasure(other.session).erased == MANY[3:]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda erasure: erasure.remove(["nothing of that kind"]), "is not erased"),
        (lambda erasure: erasure.remove(FEW), "nothing would be left"),
        (lambda erasure: erasure.add([PRESERVED[1]]), "also erased"),
        (lambda erasure: erasure.add([{"prompt": FEW[0], "target": "toy"}]), "remove it first"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    tiny_model: Path, act: Callable[[IncrementalErasure], object], message: str
) -> None:
    module = fit(tiny_model, FEW)
    before = matrix(module)
    with pytest.raises(ConfigurationError, match=message):
        act(IncrementalErasure(module.session))
    assert torch.equal(matrix(module), before)


def test_an_unedited_module_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigurationError, match="Nothing was edited"):
        IncrementalErasure(RECE(str(tiny_model), tune="off").session)


# The bound


@settings(max_examples=60)
@given(
    width=st.integers(2, 12),
    left=st.integers(1, 30),
    gone=st.integers(1, 30),
    size=st.floats(-1, 4),
    lamb=st.floats(-3, 1),
    seed=st.integers(0, 999),
)
def test_subtracting_loses_no_more_than_stated(
    width: int, left: int, gone: int, size: float, lamb: float, seed: int
) -> None:
    """What is taken back may be ten thousand times longer than what is left."""
    draw = torch.Generator().manual_seed(seed)

    def rows(count: int) -> Tensor:
        return torch.randn(count, width, generator=draw, dtype=torch.float64)

    preserved = Moments.preserving(rows(width))
    stay, back = Moments.of(rows(left), rows(left)), Moments.of(10**size * rows(gone), 10**size * rows(gone))
    gram = Gram.of([("a", rows(2 * width)), ("b", rows(2 * width))])
    method = Method(editor=UCE(1.0, 0.1, 10**lamb))
    found = (preserved + stay).erasing_also(back).erasing_also(back.times(-1.0))
    wanted = preserved + stay
    n, eps = left + gone + width, torch.finfo(torch.float64).eps
    ratio = float((stay.erased.trace() + back.erased.trace()) / stay.erased.trace())
    for name in ("erased", "cross", "target"):
        total = getattr(stay, name).norm() + getattr(back, name).norm()
        assert (getattr(found, name) - getattr(wanted, name)).norm() <= 4 * n * eps * total
    one, other = (Eraser(method, Evidence(part, part), gram).run(1).maps.of_layer(0) for part in (found, wanted))
    system = wanted.erased + 0.1 * wanted.preserved + 10**lamb * torch.eye(width, dtype=torch.float64)
    bound = 16 * n * eps * ratio * float(torch.linalg.cond(system)) * float(other.norm() + width)
    assert float((one - other).norm()) <= bound
