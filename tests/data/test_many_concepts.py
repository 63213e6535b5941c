"""A CSV of concepts of any length: one batch in memory at a time, and what its rows say twice or against each other."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from rece_lightning import RECE, ConceptData, ConfigurationError, Method
from rece_lightning.core import UCE, Moments
from rece_lightning.data.concept_table import LISTED, Repeats
from rece_lightning.data.concepts import Concept, ConceptMapping, PromptPair
from rece_lightning.erasure.encoding import TOGETHER, ConceptEncoder, EncodedPair, Pairs
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.text import PromptEncoder, aligned_rows

ROWS = 1500


@pytest.fixture(scope="module")
def long_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "concepts.csv"
    rows = [f"bomb {number},thing {number % 5},{1 + number % 3}" for number in range(ROWS)]
    path.write_text("prompt,target,weight\n" + "\n".join(rows) + "\n")
    return path


def fit(model: Path, data: ConceptData, epochs: int = 2) -> RECE:
    module = RECE(str(model), method=Method(editor=UCE(lamb=10.0)))
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return module


# Moments instead of rows


def plain_moments(encoder: PromptEncoder, prompts: list[str], targets: list[str], weights: list[float]) -> Moments:
    """One prompt after the other, one row after the other."""
    width = encoder.text_encoder.config.hidden_size
    sums = [torch.zeros(width, width, dtype=torch.float64) for _ in range(3)]
    for prompt, target, weight in zip(prompts, targets, weights, strict=True):
        encoded = encoder.encode([prompt, target])
        (concept, anchor), (last, anchor_last) = encoded.embeddings.double(), encoded.last_subject.tolist()
        for one, other in zip(*aligned_rows(concept, last, anchor, anchor_last, "aligned"), strict=True):
            for total, (left, right) in zip(sums, ((one, one), (other, one), (other, other)), strict=True):
                total += weight * torch.outer(left, right)
    return Moments(sums[0], sums[1], sums[2], torch.zeros(width, width, dtype=torch.float64))


def test_a_long_csv_gives_the_moments_of_its_rows(tiny_model: Path, long_csv: Path) -> None:
    data = ConceptData(str(long_csv), preserve=["dog", "cat"], batch_size=50)
    module = fit(tiny_model, data)
    evidence = module.session.erasers.first.evidence
    assert not module.session.statistics.first.in_rows
    assert evidence.prompts == ROWS
    numbers = range(ROWS)
    wanted = plain_moments(
        load_encoder(find_base(str(tiny_model))),
        [f"bomb {number}" for number in numbers],
        [f"thing {number % 5}" for number in numbers],
        [1.0 + number % 3 for number in numbers],
    )
    found = evidence.first
    for name in ("erased", "cross", "target"):
        # Embeddings are float32, and were encoded in other batches.
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-2)


def test_no_encoded_row_outlives_its_batches(tiny_model: Path, long_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[EncodedPair]] = []
    alive: list[int] = []

    encode = ConceptEncoder.pairs

    def watched(self: ConceptEncoder, pairs: Sequence[PromptPair]) -> Pairs:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        encoded = encode(self, pairs)
        made.extend(weakref.ref(pair) for pair in encoded["text"])
        return encoded

    monkeypatch.setattr(ConceptEncoder, "pairs", watched)
    module = fit(tiny_model, ConceptData(str(long_csv), preserve=["dog"], batch_size=50), epochs=1)
    assert len(made) == ROWS
    # Fewer than are added to the moments at a time.
    assert 0 < max(alive) < TOGETHER
    assert not module.session.statistics.pairs["text"]
    assert not module.session.statistics.first.parts["preserved"].rows


# What the table says


def test_a_long_table_is_read_and_not_held(long_csv: Path) -> None:
    data = ConceptData(str(long_csv), batch_size=64)
    assert len(data.concepts) == len(data.pairs) == ROWS
    assert not isinstance(data.pairs, list)
    again = [pair.prompt for pair in data.pairs]
    assert again == [f"bomb {number}" for number in range(ROWS)]
    batches = [batch for batch in data.batches() if batch.kind == "erased"]
    assert [prompt for batch in batches for prompt in batch.prompts] == again
    assert [batch.number for batch in batches] == list(range(-(-ROWS // 64)))
    assert len(data.train_dataloader()) == len(list(data.batches()))


def test_a_long_table_is_summed_up(long_csv: Path, tmp_path: Path) -> None:
    summary = ConceptData(str(long_csv)).summary()
    assert len(summary["erased"]) == LISTED
    assert summary["erased_prompts"] == ROWS
    # The hash tells of a change beyond what is listed.
    other = tmp_path / "concepts.csv"
    other.write_text(long_csv.read_text().replace(f"bomb {ROWS - 1},", "axe,"))
    assert ConceptData(str(other)).summary() != summary
    assert ConceptData(str(long_csv)).summary() == summary
    assert "erased_digest" not in ConceptData(["bomb"]).summary()


def test_a_table_that_changes_is_refused(long_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text(long_csv.read_text())
    data = ConceptData(str(path))
    path.write_text(long_csv.read_text() + "axe,toy,1\n")
    with pytest.raises(ConfigurationError, match="changed while"):
        list(data.pairs)


def test_a_row_that_cannot_be_is_named_by_its_line(long_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text(long_csv.read_text() + "axe,toy,heavy\n")
    with pytest.raises(ConfigurationError, match="'heavy' is no number"):
        ConceptData(str(path))
    path.write_text(long_csv.read_text() + "axe,toy,-1\n")
    with pytest.raises(ConfigurationError, match=f"line {ROWS + 2}: weight"):
        ConceptData(str(path))
    path.write_bytes(long_csv.read_bytes() + b"caf\xe9,toy,1\n")
    with pytest.raises(ConfigurationError, match=f"byte {len(long_csv.read_bytes()) + 3}"):
        ConceptData(str(path))


def test_later_epochs_read_nothing(long_csv: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = ConceptData(str(long_csv), batch_size=500), []
    batches = data.batches

    def counted() -> Iterator[object]:
        read.append(1)
        return batches()

    monkeypatch.setattr(data, "batches", counted)
    fit(tiny_model, data, epochs=3)
    assert len(read) == 1


# Rows that repeat or contradict each other


def write(path: Path, *rows: str) -> str:
    path.write_text("prompt,target\n" + "\n".join(rows) + "\n")
    return str(path)


def test_two_targets_name_both_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "concepts.csv", "bomb,toy", "axe,toy", "Bomb,dog")
    with pytest.raises(ConfigurationError, match=r"'Bomb' has two targets, 'toy' and 'dog' \(line 2 of .* and line 4"):
        ConceptData(path)
    entries: list[str | ConceptMapping] = [
        {"prompt": "bomb", "target": "toy"},
        "axe",
        {"prompt": "bomb", "target": "dog"},
    ]
    with pytest.raises(ConfigurationError, match=r"\(data\.concepts\[0\] and data\.concepts\[2\]\)"):
        ConceptData(entries)


def test_erased_and_preserved_names_both_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "concepts.csv", "bomb,toy", "axe,toy")
    preserved = tmp_path / "keep.csv"
    preserved.write_text("prompt\nrocket\nAxe\n")
    with pytest.raises(ConfigurationError, match=r"'Axe' is also erased .*line 3 of .*keep\.csv and line 3 of"):
        ConceptData(path, preserve=str(preserved))
    with pytest.raises(ConfigurationError, match=r"data\.preserve\[1\] and data\.concepts\[0\]"):
        ConceptData(["axe"], preserve=["dog", "a photo of axe"], templates=["a photo of {}"])


def test_rows_that_repeat_are_counted_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "concepts.csv", "bomb,toy", "axe,toy", "bomb,toy", "BOMB,toy")
    with pytest.warns(UserWarning, match=r"2 of 4 rows repeat .*'bomb' \(line 2 of .* and line 4 of"):
        data = ConceptData(path)
    assert [pair.prompt for pair in data.pairs] == ["bomb", "axe", "bomb", "BOMB"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Other templates make other prompts.
        ConceptData(["axe", {"prompt": "bomb"}, {"prompt": "bomb", "templates": ["a photo of {}"]}])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=12))
def test_repeats_are_those_of_a_look_at_all_pairs(rows: list[tuple[str, str]]) -> None:
    repeats = Repeats()
    for place, (prompt, target) in enumerate(rows):
        repeats.add(place, Concept(prompt, target))
    assert len(repeats.again()) == len(rows) - len(set(rows))
    targets = {prompt: {other for name, other in rows if name == prompt} for prompt, _ in rows}
    assert bool(repeats.conflicts()) == any(len(others) > 1 for others in targets.values())
    for one, other in repeats.conflicts():
        assert rows[one][0] == rows[other][0]
        assert rows[one][1] != rows[other][1]
        assert one < other
