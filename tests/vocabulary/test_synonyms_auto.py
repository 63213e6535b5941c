"""``data.synonyms: auto`` erases the words that still reach a concept; others are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.concept_table import ConceptTable
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.reporting.words import section_of, words_section
from rece_lightning.vocabulary import scan, vocabulary_words
from rece_lightning.vocabulary.rows import SMALL
from tests.helpers.fits import fit_quietly

REPOSITORY = Path(__file__).resolve().parents[2]
PRESERVED = [" ", "dog", "rose", "pizza", "guitar", "key", "door", "tent", "train", "moon"]
CONCEPTS = ["water pistol", "snake"]
WEAK = 1e4
"""λ₂ of an edit that moves little: words that mean a concept survive it, whatever the weights."""
REACH = 0.25


def fit(
    data: ConceptData, resume: Path | None = None, epochs: int = 1, model: str = "emoji", lamb: float = WEAK
) -> tuple[RECE, Trainer]:
    module = RECE(model, method=Method(editor=UCE(lamb=lamb)))
    return module, fit_quietly(module, data, resume, epochs)


def auto(**others: Any) -> ConceptData:
    return ConceptData(**{"concepts": CONCEPTS, "preserve": PRESERVED, "synonyms": "auto", **others})


@pytest.fixture(scope="module")
def chosen() -> tuple[RECE, ConceptData]:
    data = auto()
    return fit(data)[0], data


def distances(module: RECE, texts: list[str], concept: str, *, edited: bool) -> list[float]:
    """Of ``a photo of`` each from the concept's original keys and values, layer by layer; 1 is its target."""
    before = {name: weight.double() for name, weight in module.base.read_projections(module.session.names)}
    present = {name: weight.double() for name, weight in module.erasure().weights()} if edited else before

    def rows(text: str) -> Tensor:
        encoded = module.session.encoder.encode([f"a photo of {text}"])
        last = int(encoded.last_subject[0])
        return encoded.embeddings[0, last : last + 2].double()

    def far(text: str, weights: dict[str, Tensor]) -> float:
        return sum(
            float((rows(text) @ weights[name].mT - rows(concept) @ before[name].mT).square().sum()) for name in before
        )

    size = far(" ", before)
    return [far(text, present) / size for text in texts]


def test_words_that_mean_the_concept_and_survive_do_so_no_longer(chosen: tuple[RECE, ConceptData]) -> None:
    module, data = chosen
    alone, _ = fit(ConceptData(CONCEPTS, preserve=PRESERVED))
    for concept in CONCEPTS:
        synonyms = next(item.synonyms for item in load_catalog().objects if item.name == concept)
        added = [one.word for one in data.added if one.of == concept]
        assert added
        assert set(added) <= {*synonyms, *concept.split()}
        assert max(distances(alone, added, concept, edited=False)) < REACH
        survived, now = (distances(one, added, concept, edited=True) for one in (alone, module))
        assert max(survived) < REACH
        # So weak an edit does not take them out of reach at once: twice as far is what it does.
        assert all(late > 2 * early for early, late in zip(survived, now, strict=True))
        others = [word for word in synonyms if word not in added]
        survived, now = (distances(one, others, concept, edited=True) for one in (alone, module))
        assert min(survived) < REACH <= min(now)
    for one in data.added:
        assert {one.word, f"a photo of {one.word}"} <= set(module.session.erased_prompts)


def test_gun_is_erased_with_the_water_pistol() -> None:
    data = auto(concepts=["water pistol"], synonyms_vocabulary=["dog", "gun", "banana"])
    module, _ = fit(data)
    assert [(one.word, one.of) for one in data.added] == [("gun", "water pistol")]
    alone, _ = fit(ConceptData(["water pistol"], preserve=PRESERVED))
    survived, gone = (distances(one, ["gun"], "water pistol", edited=True)[0] for one in (alone, module))
    assert survived < REACH
    assert gone > 2 * survived


def test_no_word_that_means_a_concept_reaches_it_any_more(chosen: tuple[RECE, ConceptData]) -> None:
    """What was left out does not reach, what was taken would: an independent look at all the words."""
    module, data = chosen
    found = scan(module.session)
    assert found.concepts == tuple(CONCEPTS)
    barred = data.not_synonyms() | {one.word for one in data.added}
    for place, concept in enumerate(CONCEPTS):
        own = int(sum(one.of == concept for one in data.added))
        assert 0 < own < 10  # the limit ended nothing
        left = [word for word, _, _ in found.reaching(place) if word not in barred]
        assert not left
    alone = scan(fit(ConceptData(CONCEPTS, preserve=PRESERVED))[0].session)
    survivors = {word for place in range(2) for word, _, _ in alone.reaching(place)}
    # The first of each concept are among them; what the edit of these takes along is not taken.
    assert {one.word for one in data.added[:2]} <= survivors
    assert len(data.added) < len(survivors)


def test_words_that_stay_are_never_taken() -> None:
    data = auto(concepts=["water pistol"], preserve=[*PRESERVED, "a toy gun"])
    fit(data)
    words = {one.word for one in data.added}
    assert words
    assert not words & {"gun", "toy", "a"}
    data = auto(
        concepts=[{"prompt": "water pistol", "target": "a revolver"}], preserve="auto", preserve_count=2,
        preserve_vocabulary=["dog", "gun", "rose"],
    )  # fmt: skip
    assert {"gun", "revolver"} <= data.not_synonyms()
    fit(data)
    assert not {one.word for one in data.added} & {"gun", "revolver"}
    assert len(data.preserved) == 3


def test_the_count_and_the_vocabulary_limit_what_is_taken() -> None:
    data = auto(concepts=["snake"], synonyms_count=1)
    fit(data)
    (first,) = data.added
    data = auto(concepts=["snake"], synonyms_vocabulary=["ladder", "a serpent", "dog", "Serpent"])
    fit(data)
    assert {one.word for one in data.added} <= {"a serpent", "Serpent"}
    assert data.added
    assert first.of == "snake"


def test_each_word_has_target_weight_and_templates_of_its_concept() -> None:
    concepts: list[Any] = [
        {"prompt": "water pistol", "target": "a dog", "weight": 2.0, "templates": ["{}", "my {}"]},
        {"prompt": "snake", "target": "rose", "templates": ["{} in noto style"]},
    ]
    data = auto(concepts=concepts, preserve=[" "])
    fit(data, lamb=1e6)
    rows = {pair.prompt: (pair.target, pair.weight) for pair in data.pairs}
    guns = [one.word for one in data.added if one.of == "water pistol"]
    snakes = [one.word for one in data.added if one.of == "snake"]
    assert guns
    for word in guns:
        forms = {"{}": "a dog", "my {}": "my a dog", "a photo of {}": "a photo of a dog"}
        for template, target in forms.items():
            assert rows[template.format(word)] == (target, 2.0)
    for word in snakes:
        assert rows[f"{word} in noto style"] == ("rose in noto style", 1.0)
        assert f"a photo of {word}" not in rows


def test_nothing_is_added_where_nothing_survives() -> None:
    """A strong edit of the word itself, in the very form that is scanned."""
    concepts: list[Any] = [{"prompt": "snake", "templates": ["{}", "a photo of {}"], "weight": 100.0}]
    data = auto(concepts=concepts)
    module, _ = fit(data, lamb=0.1)
    assert data.added == []
    assert data.summary()["synonyms"] == []
    assert module.session.erased_prompts == ["snake", "a photo of snake"]


def test_a_run_goes_on_with_what_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer = fit(auto(), epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    whole, _ = fit(auto(), epochs=3)
    data = auto()
    with monkeypatch.context() as patch:
        patch.setattr(
            "rece_lightning.vocabulary.synonyms.choose_synonyms", lambda *_: []
        )  # what is chosen now does not count
        resumed, _ = fit(data, tmp_path / "two.ckpt", epochs=3)
    assert data.added
    assert torch.equal(resumed.maps["text"].of_layer(0), whole.maps["text"].of_layer(0))
    assert [one.word for one in data.added] == [
        row["word"] for row in resumed.session.description()["concepts"]["synonyms"]
    ]
    for others in (
        {"synonyms_count": 9},
        {"synonyms_reach": 0.2},
        {"synonyms_vocabulary": ["gun"]},
        {"synonyms": None},
    ):
        with pytest.raises(ConfigurationError, match="erases other concepts"):
            fit(auto(**others), tmp_path / "two.ckpt", epochs=3)


def test_a_second_fit_chooses_anew(chosen: tuple[RECE, ConceptData]) -> None:
    data = auto()
    fit(data)
    first = data.summary()
    fit(data)
    assert data.summary() == first == chosen[1].summary()


TWO = """
import sys, torch
from lightning.pytorch import Trainer
from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core import UCE
from rece_lightning.distributed import rank_and_world
torch.set_num_threads(1)
module = RECE(sys.argv[1], method=Method(editor=UCE(lamb=1e6)))
data = ConceptData(["water pistol", "snake"], preserve=[" ", "dog"], synonyms="auto", synonyms_reach=0.9,
                   synonyms_count=3)
trainer = Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="closed_form", logger=False,
                  enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, data)
told = {"map": module.maps["text"].matrix, "summary": data.summary()}
torch.save(told, f"{sys.argv[2]}/rank-{rank_and_world()[0]}.pt")
"""


def test_two_ranks_agree(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    own = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_model), str(tmp_path)],
        env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    assert first["summary"] == second["summary"]
    assert first["summary"]["synonyms"]
    assert torch.equal(first["map"], second["map"])
    assert done.stdout.count("data.synonyms: auto") == 1


def test_synonyms_by_hand_are_concepts_of_their_own() -> None:
    data = ConceptData(["water pistol"], synonyms=["gun", "revolver"])
    same = ConceptData(["water pistol", "gun", "revolver"])
    assert data.pairs == same.pairs
    data = ConceptData([{"prompt": "snake", "target": "rose", "weight": 3}, "bomb"], synonyms={"snake": ["serpent"]})
    assert data.pairs[-1] == type(data.pairs[-1])("serpent", "rose", 3.0)
    assert data.summary()["synonyms"] == [{"word": "serpent", "of": "snake", "prompts": ["serpent"]}]
    assert ConceptData(["bomb"], synonyms=[]).summary() == ConceptData(["bomb"]).summary()


def test_concepts_of_a_short_csv_are_looked_through_and_a_stream_is_refused(tmp_path: Path) -> None:
    short, long = tmp_path / "short.csv", tmp_path / "long.csv"
    short.write_text("prompt\nwater pistol\nsnake\n")
    data = auto(concepts=str(short))
    fit(data)
    assert {one.of for one in data.added} == {"water pistol", "snake"}
    long.write_text("prompt\n" + "\n".join(f"thing {number}" for number in range(1001)) + "\n")
    assert isinstance(ConceptData(str(long)).concepts, ConceptTable)
    for setting in ("auto", {"thing 1": ["gun"]}):
        with pytest.raises(ConfigurationError, match="is read as a stream"):
            ConceptData(str(long), synonyms=setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"synonyms": "always"}, "data.synonyms: 'always'; give auto"),
        ({"synonyms": ["gun"]}, "data.synonyms: .*2 concepts are erased; say whose"),
        ({"synonyms": {"water pistols": ["gun"]}}, "'water pistols' is not erased"),
        ({"synonyms": {"snake": [" "]}}, "data.synonyms: snake: ' ' is no word"),
        ({"synonyms": {"snake": ["Water Pistol"]}}, "'Water Pistol' is erased already"),
        ({"synonyms": {"snake": ["cobra"], "water pistol": ["cobra"]}}, "'cobra' is erased already"),
        ({"synonyms": {"snake": ["Dog"]}}, "'Dog' is also preserved"),
        ({"synonyms_vocabulary": ["gun"]}, "it is for data.synonyms: auto"),
        ({"synonyms": "auto", "synonyms_vocabulary": [" "]}, "names no words"),
        ({"synonyms": "auto", "synonyms_vocabulary": "none.csv"}, "data.synonyms_vocabulary: none.csv cannot be read"),
        ({"synonyms": "auto", "synonyms_count": 0}, "data.synonyms_count: 0"),
        ({"synonyms": "auto", "synonyms_reach": 0.0}, "data.synonyms_reach"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ConceptData(CONCEPTS, preserve=PRESERVED, **settings)


def test_a_concept_that_reads_as_its_target_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'snake' and its target 'Snake' read alike"):
        fit(auto(concepts=[{"prompt": "snake", "target": "Snake"}]))


def test_the_report_lists_what_reaches_and_what_was_hurt() -> None:
    module, _ = fit(ConceptData(["water pistol"], preserve=PRESERVED))
    found = scan(module.session)
    section = section_of(found)
    assert section.words == len(vocabulary_words(module.session.encoder.tokenizer)) < SMALL
    assert "gun" in [word for _, word, _, _ in section.reaching]
    near = (found.before < WITHIN).any(dim=1).tolist()
    wanted = [word for word, is_near in zip(found.words, near, strict=True) if is_near and word != "water pistol"]
    assert found.meant() == wanted
    assert section.meant == len(wanted) >= len(section.reaching)
    for concept, word, before, after in section.reaching:
        assert concept == "water pistol"
        assert word != "water pistol"
        assert max(before, after) < section.within
    assert [row[-1] for row in section.reaching] == sorted(row[-1] for row in section.reaching)
    moved = [moved for _, moved, _, _ in section.hurt]
    assert moved == sorted(moved, reverse=True)
    assert words_section(module.session, None) == section
    assert words_section(module.session, False) is None


def test_a_large_vocabulary_is_scanned_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = fit(ConceptData(["water pistol"], preserve=PRESERVED))
    monkeypatch.setattr("rece_lightning.reporting.words.SMALL", 100)
    section = words_section(module.session, None)
    assert section is not None
    assert "rece test --ckpt_path RUN --scan" in section.left_out
    asked = words_section(module.session, True)
    assert asked is not None
    assert asked.reaching
