"""A run that was killed in the middle of epoch 0 goes on there: the same bits, and nothing is encoded twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rece_lightning import RECE, ConfigurationError
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.core.eraser import Evidence
from rece_lightning.erasure.encoding import EncodedPair
from rece_lightning.erasure.statistics import PromptSums
from rece_lightning.runs.partial import Partial, apart, fault, partials
from tests.data.test_many_concepts import random_pairs
from tests.helpers.command import run_command, write_config
from tests.helpers.partials import KILLED, OF_TWO, SIZE, fit
from tests.integration.test_many_devices import run

ROWS = 300
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "concepts.csv"
    rows = [f"bomb {number},thing {number % 5},{1 + number % 3}" for number in range(ROWS)]
    path.write_text("prompt,target,weight\n" + "\n".join(rows) + "\n")
    return path


def left(folder: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"rank-{rank}.pt", weights_only=True)


def encoded(folder: Path, rank: int = 0) -> list[str]:
    return [text for text in json.loads((folder / f"encoded-{rank}.json").read_text()) if text.startswith("bomb ")]


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one["prompts"] == other["prompts"] == ROWS
    assert torch.equal(one["map"], other["map"])
    assert torch.equal(one["held_out"], other["held_out"])
    for mine, theirs in zip(one["moments"], other["moments"], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def assert_near(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one["prompts"] == other["prompts"] == ROWS
    pairs = [(one["map"], other["map"]), (one["held_out"], other["held_out"])]
    pairs += [(mine[n], theirs[n]) for mine, theirs in zip(one["moments"], other["moments"], strict=True) for n in mine]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max() + 1))


@dataclass(frozen=True)
class Runs:
    """What the program of :mod:`tests.helpers.partials` did."""

    folder: Path
    told: Mapping[str, Any]

    def goes_on(self, name: str, ranks: int = 1) -> Path:
        """A run that was killed and has gone on."""
        folder = self.folder / name
        printed = (folder / "printed.txt").read_text()
        assert self.told[name]["codes"] == [0] * ranks, printed[-3000:]
        assert (folder / "epoch=0.ckpt").exists()
        assert not partials(folder)
        return folder


@pytest.fixture(scope="module")
def runs(tiny_model: Path, concepts: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    done = run("-m", "tests.helpers.partials", tiny_model, concepts, folder, where=REPOSITORY, limit=550)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("told "))
    found = Runs(folder, json.loads(line[5:]))
    for ranks in (1, 2):
        assert found.told[f"whole-{ranks}"]["codes"] == [0] * ranks
        assert sum(len(encoded(folder / f"whole-{ranks}", rank)) for rank in range(ranks)) == ROWS
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("files", KILLED)
def test_a_killed_run_goes_on_to_the_same_bits(runs: Runs, files: int) -> None:
    told, whole = runs.told[f"one-{files}"], runs.folder / "whole-1"
    assert told["killed"] == [-9]
    assert told["checkpoints"] == 0
    assert told["found"] == {"0": list(range(files))}
    folder = runs.goes_on(f"one-{files}")
    assert f"epoch 0 goes on after {files} batches" in (folder / "printed.txt").read_text()
    assert_same(left(folder), left(whole))
    # The rest alone, each once.
    assert encoded(folder) == encoded(whole)[files * SIZE :]


@pytest.mark.timeout(600)
def test_each_of_two_ranks_goes_on_with_its_share(runs: Runs) -> None:
    told, whole = runs.told["two"], runs.folder / "whole-2"
    assert told["killed"][0] == -9
    assert told["killed"][1] != 0
    assert told["found"]["0"] == list(range(0, 2 * OF_TWO, 2))
    folder = runs.goes_on("two", 2)
    for rank in range(2):
        counted = len(told["found"].get(str(rank), []))
        assert_same(left(folder, rank), left(whole, rank))
        assert encoded(folder, rank) == encoded(whole, rank)[counted * SIZE :]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "ranks"), [("two-by-one", 1), ("one-by-two", 2)])
def test_another_number_of_ranks_goes_on_with_the_sum(runs: Runs, name: str, ranks: int) -> None:
    """Rows that were no moments yet are few, and encoded again."""
    told, whole = runs.told[name], runs.folder / "whole-1"
    counted = {number for rank in told["with_moments"] for number in told["found"][str(rank)]}
    assert counted
    folder = runs.goes_on(name, ranks)
    batches = [encoded(whole)[first : first + SIZE] for first in range(0, ROWS, SIZE)]
    for rank in range(ranks):
        assert_near(left(folder, rank), left(whole))
        mine = [at for at in range(len(batches)) if at not in counted and at % ranks == rank]
        assert encoded(folder, rank) == [text for at in mine for text in batches[at]]


def test_a_file_of_another_run_is_refused(
    tiny_model: Path, concepts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_the_middle(monkeypatch, tiny_model, concepts, tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(ConfigurationError, match=r"partial-0-of-1.* differs in data\.batch_size"):
        fit(str(tiny_model), str(concepts), tmp_path, 1, batch_size=8)
    other = tmp_path / "other.csv"
    other.write_text(concepts.read_text().replace(f"bomb {ROWS - 1},", "axe,"))
    with pytest.raises(ConfigurationError, match=r"differs in data\.concepts"):
        fit(str(tiny_model), str(other), tmp_path, 1)
    with pytest.raises(ConfigurationError, match=r"differs in data\.validation; take the config\.yaml"):
        fit(str(tiny_model), str(concepts), tmp_path, 1, validation=[{"prompt": "a tulip", "kind": "preserved"}])
    other.unlink()
    assert content_of(tmp_path) == before


def test_a_damaged_file_costs_its_prompts_alone(
    tiny_model: Path, concepts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stop_in_the_middle(monkeypatch, tiny_model, concepts, tmp_path)
    (file,) = tmp_path.glob("partial-*")
    file.write_bytes(file.read_bytes()[:-1000])
    module = fit(str(tiny_model), str(concepts), tmp_path, 1)
    assert "partial-0-of-1.safetensors is damaged" in capsys.readouterr().err
    assert torch.equal(
        module.maps["text"].of_layer(0), fit(str(tiny_model), str(concepts), tmp_path / "whole", 1).maps.of_layer(0)
    )


def stop_in_the_middle(monkeypatch: pytest.MonkeyPatch, model: Path, concepts: Path, folder: Path) -> None:
    """An interrupt that Lightning lets through, after the fifth batch."""
    encode = RECE._encode

    def stopped(self: RECE, batch: Any) -> None:
        if batch.number == 5:
            raise RuntimeError("out of paper")
        encode(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RECE, "_encode", stopped)
        with pytest.raises(RuntimeError, match="out of paper"):
            fit(str(model), str(concepts), folder, 1)
    assert [part.batches for part in partials(folder)] == [(0, 1, 2, 3, 4)]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The command


def test_the_command_goes_on_in_its_own_folder(
    tiny_model: Path, concepts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    saving = {"class_path": "ErasureCheckpoint", "init_args": {"partial_seconds": 0}}
    vocabulary = [f"flower {number}" for number in range(30)]

    def write(**data: Any) -> Path:
        asked = {"preserve": "auto", "preserve_vocabulary": vocabulary, "preserve_count": 3, "batch_size": SIZE, **data}
        whole = {"concepts": str(concepts), **asked}
        return write_config(
            tmp_path, tiny_model, model={"lamb": 10.0}, data=whole, trainer={"callbacks": [saving]}
        )  # fmt: skip

    assert run_command(capsys, "fit", "--config", write()).code == 0
    first = tmp_path / "runs/run/version_0"
    encode, batches = RECE._encode, list[int]()

    def stopped(self: RECE, batch: Any) -> None:
        batches.append(batch.number)
        if batch.number == 7 and len(batches) == 8:
            raise RuntimeError("out of paper")
        encode(self, batch)

    monkeypatch.setattr(RECE, "_encode", stopped)
    with pytest.raises(RuntimeError, match="out of paper"):
        run_command(capsys, "fit", "--config", write())
    second = tmp_path / "runs/run/version_1"
    assert [part.batches for part in partials(second / "checkpoints")] == [tuple(range(7))]
    # Another configuration is refused before it replaces that of the run.
    config = (second / "config.yaml").read_bytes()
    outcome = run_command(capsys, "fit", "--config", write(batch_size=5), "--ckpt_path", "last")
    assert outcome.code == 2
    assert "differs in data.batch_size" in outcome.err
    assert (second / "config.yaml").read_bytes() == config
    # What was chosen to be kept is not chosen again.
    with monkeypatch.context() as patch:
        patch.setattr("rece_lightning.module.choose_preserved", None)
        outcome = run_command(capsys, "fit", "--config", write(), "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert "epoch 0 goes on after 7 batches" in outcome.out
    one, other = (load_file(folder / "edited.safetensors") for folder in (first, second))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert not partials(second / "checkpoints")


@pytest.mark.parametrize("seconds", [-1, float("nan"), "often"])
def test_senseless_seconds_are_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"ErasureCheckpoint\.partial_seconds"):
        ErasureCheckpoint(partial_seconds=seconds)


# The sums


def add(sums: PromptSums, pairs: list[EncodedPair], number: int) -> None:
    sums.add_pairs([f"prompt {number}"], pairs)
    sums.add_kept([2 * pair.concept for pair in pairs])
    sums.add_held_out([pair.target for pair in pairs[:1]])
    sums.batches.append(number)


def matrices(evidence: Evidence) -> list[torch.Tensor]:
    return [matrix for part in (evidence.first, evidence.whole) for matrix in vars(part).values()]


@given(
    count=st.integers(1, 160), cut=st.integers(1, 40), stop=st.floats(0, 1), seed=st.integers(0, 99),
    shared=st.booleans(), tensor=st.booleans(),
)  # fmt: skip
def test_sums_go_on_to_the_same_bits(count: int, cut: int, stop: float, seed: int, shared: bool, tensor: bool) -> None:
    pairs = random_pairs(count, 4, seed)
    batches = [pairs[first : first + cut] for first in range(0, count, cut)]
    half = round(stop * len(batches))

    def empty() -> PromptSums:
        return PromptSums("aligned", "cpu", keep_prompts=tensor and not shared, shared=shared)

    whole, before = empty(), empty()
    for number, batch in enumerate(batches):
        add(whole, batch, number)
    for number, batch in enumerate(batches[:half]):
        add(before, batch, number)
    parts = before.parts()
    assert not fault(parts, 4)
    after = empty()
    after.take(parts, before.probe["prompt"] if before.probe else "", "cpu")
    for number, batch in enumerate(batches[half:], start=half):
        add(after, batch, number)
    assert after.batches == whole.batches == list(range(len(batches)))
    assert (after.probe or {})["prompt"] == (whole.probe or {})["prompt"]
    for one, other in zip(after.parts().items(), whole.parts().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    found, wanted = after.evidence(4), whole.evidence(4)
    assert all(torch.equal(one, other) for one, other in zip(matrices(found), matrices(wanted), strict=True))
    assert torch.equal(after.held_out_moments(4), whole.held_out_moments(4))


@given(count=st.integers(1, 160), cut=st.integers(1, 40), world=st.integers(1, 4), seed=st.integers(0, 99))
def test_sums_of_several_ranks_are_put_together(count: int, cut: int, world: int, seed: int) -> None:
    pairs = random_pairs(count, 4, seed)
    whole, shares = PromptSums("aligned", "cpu"), [PromptSums("aligned", "cpu", shared=True) for _ in range(world)]
    for number, first in enumerate(range(0, count, cut)):
        add(whole, pairs[first : first + cut], number)
        add(shares[number % world], pairs[first : first + cut], number)
    together = PromptSums("aligned", "cpu")
    for share in shares:
        together.take(share.parts(), "", "cpu")
    found, wanted = together.evidence(4), whole.evidence(4)
    assert found.prompts == wanted.prompts == count
    for one, other in zip(matrices(found), matrices(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


def part(rank: int, world: int, *batches: int) -> Partial:
    return Partial(Path(f"partial-{rank}-of-{world}.safetensors"), rank, world, batches, True, {})


def test_no_batch_is_counted_twice() -> None:
    """A process that died while it put the parts of two together left the whole beside them."""
    whole, first, second = part(0, 1, 0, 2, 1, 3, 4), part(0, 2, 0, 2, 4), part(1, 2, 1, 3)
    assert apart([first, second, whole], 1) == [whole]
    assert apart([first, second], 1) == [first, second]
    # What two had put together for two, before the second of the former files was gone.
    again = part(0, 2, 0, 1, 2, 3, 4, 6)
    assert apart([second, again, part(1, 2, 5, 7)], 2) == [again, part(1, 2, 5, 7)]
    assert apart([part(0, 1, 3, 3)], 1) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("preserved", torch.zeros(3, 3, dtype=torch.float64), "preserved is"),
        ("first.cross", torch.full((4, 4), torch.nan, dtype=torch.float64), "first.cross holds"),
        ("batches", torch.tensor([-1]), "batches are no numbers"),
        ("numbers", torch.tensor([1]), "numbers are too few"),
        ("pairs.concept", torch.zeros(2, 5, 3), "pairs.concept is"),
        ("pairs.weight", torch.tensor([-1.0]), "do not fit together"),
        ("pairs.last", torch.tensor([99] * 36), "do not fit together"),
    ],
)
def test_senseless_parts_are_found(name: str, value: torch.Tensor, message: str) -> None:
    sums = PromptSums("aligned", "cpu")
    add(sums, random_pairs(100, 4, 0), 0)
    parts = sums.parts()
    assert not fault(parts, 4)
    assert message in fault({**parts, name: value}, 4)
    assert "some moments are missing" in fault({key: part for key, part in parts.items() if key != "preserved"}, 4)
