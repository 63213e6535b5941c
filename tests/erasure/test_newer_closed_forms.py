"""DP, CURE, OCE and TRCE's first stage in runs: every family and text space, checkpoints, exports, certificates."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import rece_lightning
from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import CURE, DP, OCE, UCE, Editor
from rece_lightning.erasure.certificates import certificates
from rece_lightning.exports import export
from rece_lightning.models.denoisers import LiveDenoisers, known_family
from tests.helpers.fits import fit_quietly
from tests.helpers.models import make_checkpoint
from tests.helpers.plain import Erased, plain_edit
from tests.helpers.tiny.pipelines import build

EXACT = 1e-6
KEPT = ["a rocket"]


def plain_change(editor: Editor, concept: Tensor, target: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """One layer after the edit of one row: the papers' formulas. Rows are ``[d]``, what is preserved ``[m, d]``."""
    if isinstance(editor, CURE):
        _, sizes, axes = torch.linalg.svd(kept, full_matrices=False)
        shares = sizes**2 / (sizes**2).sum()
        retain = axes.mT @ torch.diag(2 * shares / (shares + 1)) @ axes
        forget = torch.outer(concept, concept) / (concept @ concept)
        return weight - weight @ forget + weight @ forget @ retain
    if isinstance(editor, OCE):
        answer, guide = weight @ concept, weight @ target
        away = torch.outer(answer, answer) / (answer @ answer)
        away = away - away @ torch.outer(guide, guide) / (guide @ guide)
        held = (editor.preserve_scale + editor.global_scale * len(concept) / kept.square().sum()) * kept.mT @ kept
        held = held + editor.lamb * torch.eye(len(concept), dtype=torch.float64)
        left, _, right = torch.linalg.svd(weight @ held @ weight.mT - editor.erase_scale * away)
        return left @ right @ weight
    _, sizes, axes = torch.linalg.svd(kept)
    count = int((sizes**2 > EXACT * (sizes**2).sum() / len(concept)).sum())
    safe, free = axes[:count], axes[count:].mT
    rest = free @ (free.mT @ target)  # of the target, beside what is preserved
    seen = free.mT @ concept
    proxy = safe.mT @ (safe @ concept) + rest * (rest @ concept) / (rest @ rest)
    return weight + torch.outer(weight @ (proxy - concept), free @ seen) / (seen @ seen)


@cache
def opened(name: str) -> tuple[Any, LiveDenoisers]:
    pipeline = build(name)
    family = known_family(pipeline)
    assert family is not None
    return pipeline, LiveDenoisers(pipeline, family, "pipeline")


@pytest.mark.parametrize("editor", [DP(EXACT, None), CURE(), OCE(erase_scale=30.0)], ids=["DP", "CURE", "OCE"])
@pytest.mark.parametrize("name", ["flux", "pixart_alpha", "wan"])
def test_every_space_of_a_transformer_has_the_papers_edit(name: str, editor: Editor) -> None:
    """The sequence, and FLUX's pooled embedding, which has one row a prompt."""
    pipeline, live = opened(name)
    encoder = live.encoder(pipeline)
    before = {key: value.clone() for key, value in live.module.named_parameters()}
    rows = {text: encoder.encode([text]) for text in ("a bomb", "a spoon", *KEPT)}
    method = Method(editor=editor, tokens="last")
    spaces = [space for space in live.spaces if space.instead_of is None]
    with rece_lightning.erase(pipeline, "a bomb", preserve=KEPT, target="a spoon", method=method, epochs=1):
        for space in spaces:
            bomb, spoon, kept = (rows[text].rows(space.name)[0] for text in ("a bomb", "a spoon", *KEPT))
            own, wanted, held = bomb.rows[bomb.last].double(), spoon.rows[spoon.last].double(), kept.rows.double()
            for key, reader in space.readers.items():
                weight = reader.part(before[key]).double()
                expected = plain_change(editor, own, wanted, held, weight)
                found = reader.part(live.module.get_parameter(key)).double()
                assert float((found - expected).norm()) < 1e-4 * float(weight.norm()), (space.name, key)
                assert float((found - weight).norm()) > 1e-3 * float(weight.norm())


@pytest.mark.parametrize("editor", [DP(), CURE(5.0), OCE(erase_scale=100.0)], ids=["DP", "CURE", "OCE"])
def test_a_fit_resumes_and_exports_what_it_made(editor: Editor, tmp_path: Path) -> None:
    """RECE's loop behind each of them, in both text spaces of the second embedded world."""
    data = {"concepts": ["bomb", "axe"], "preserve": [" ", "dog", "rose", "pizza"]}
    method = Method(editor=editor)
    whole, part = (RECE("emoji-mmdit", method=method) for _ in range(2))
    fit_quietly(whole, ConceptData(**data), epochs=2)
    fit_quietly(part, ConceptData(**data), epochs=1).save_checkpoint(tmp_path / "part.ckpt")
    rest = RECE("emoji-mmdit", method=method)
    fit_quietly(rest, ConceptData(**data), tmp_path / "part.ckpt", epochs=2)
    assert set(whole.maps) == {"text", "pooled"}
    expected = dict(whole.erasure().weights())
    written = load_file(export(rest.erasure(), "delta", tmp_path / "edited.safetensors").path)
    for name, weight in written.items():
        assert torch.equal(weight, expected[name]), name
    assert rest.method.plain()["editor"]["class_path"] == type(editor).__name__


def test_dp_is_certified_over_embeddings_of_any_norm_and_the_others_are_not_asked_for_it() -> None:
    module = RECE("emoji", method=Method(editor=DP(threshold=10.0), projections="v"), certificate="any")
    fit_quietly(module, ConceptData(["bomb"], preserve=[" ", "dog", "rose", "pizza"]))
    session = module.session
    found = certificates(session.erasure(), session.erased_prompts, session.pairs, [1.0])[0]
    assert 0.05 < (found.bounds[None] or 0.0) <= found.bounds[1.0]
    assert module.history[-1]["certificate"] == pytest.approx(found.bounds[None])
    for editor in (CURE(), OCE()):
        with pytest.raises(ConfigurationError, match="leaves a map that can be inverted"):
            RECE("emoji", method=Method(editor=editor), certificate="any")


def test_what_needs_one_map_refuses_oce_by_name(tmp_path: Path) -> None:
    module = RECE("emoji", method=Method(editor=OCE(), tokens="last"))
    fit_quietly(module, ConceptData(["bomb"], preserve=[" "]))
    with pytest.raises(ConfigurationError, match="one map"):
        export(module.erasure(), "map", tmp_path / "map.safetensors")


def test_trces_first_stage_is_uces_formula_on_the_rows_that_end_the_texts(tmp_path: Path) -> None:
    """End-of-text rows of the concept's and its synonyms' templates become those of the same texts made safe."""
    folder = make_checkpoint(tmp_path / "model")
    templates = ["{}", "a photo of a {}", "a {} at night"]
    data = ConceptData(
        [{"prompt": "bomb", "target": "balloon"}], synonyms=["explosion"], templates=templates, preserve=["dog"]
    )
    method = Method(editor=UCE(preserve_scale=0.3, lamb=0.2), tokens="end")
    module = RECE(str(folder), method=method)
    fit_quietly(module, data)
    session = module.session
    erased = []
    for word in ("bomb", "explosion"):
        for template in templates:
            texts = [template.format(word), template.format("balloon")]
            lengths = [len(ids) for ids in session.encoder.token_ids(texts)]
            rows = session.encoder.encode(texts).embeddings.double()
            count = rows.shape[1] - max(lengths) + 1  # the end of the text and the padding that repeats it, aligned
            ends = [row[length - 1 :][:count] for row, length in zip(rows, lengths, strict=True)]
            erased.append(Erased(ends[0], ends[1], 1.0))
    kept = session.encoder.encode(["dog"]).embeddings[0].double()
    edited = dict(module.erasure().weights())
    for name, weight in module.erasure().original():
        expected = plain_edit(weight.double(), erased, kept, erase_scale=1.0, preserve_scale=0.3, lamb=0.2)
        torch.testing.assert_close(edited[name].double(), expected, rtol=1e-4, atol=1e-5)
