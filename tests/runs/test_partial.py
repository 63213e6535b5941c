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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rece_lightning import ConfigurationError
from rece_lightning.callbacks import ErasureCheckpoint
from rece_lightning.erasure.encoding import EncodedPair
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.erasure.state import statistics_fault
from rece_lightning.erasure.statistics import ConceptStatistics
from rece_lightning.runs.partial import Partial, apart, flat, nested, partials
from tests.helpers.command import run_command, write_config
from tests.helpers.pairs import random_pairs
from tests.helpers.partials import KILLED, OF_TWO, SIZE, fit
from tests.integration.test_many_devices import run

ROWS = 300
METHOD = {"editor": {"class_path": "UCE", "init_args": {"lamb": 10.0}}}
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
    whole = fit(str(tiny_model), str(concepts), tmp_path / "whole", 1)
    assert torch.equal(module.maps["text"].of_layer(0), whole.maps["text"].of_layer(0))


def stop_in_the_middle(monkeypatch: pytest.MonkeyPatch, model: Path, concepts: Path, folder: Path) -> None:
    """An interrupt that Lightning lets through, after the fifth batch."""
    count = ErasureSession.count

    def stopped(self: ErasureSession, batch: Any) -> dict[str, str]:
        if batch.number == 5:
            raise RuntimeError("out of paper")
        return count(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ErasureSession, "count", stopped)
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
            tmp_path, tiny_model, model={"method": METHOD}, data=whole, trainer={"callbacks": [saving]}
        )  # fmt: skip

    assert run_command(capsys, "fit", "--config", write()).code == 0
    first = tmp_path / "runs/run/version_0"
    count, batches = ErasureSession.count, list[int]()

    def stopped(self: ErasureSession, batch: Any) -> dict[str, str]:
        batches.append(batch.number)
        if batch.number == 7 and len(batches) == 8:
            raise RuntimeError("out of paper")
        return count(self, batch)

    monkeypatch.setattr(ErasureSession, "count", stopped)
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
    # What was chosen to be preserved is not chosen again.
    with monkeypatch.context() as patch:
        patch.setattr("rece_lightning.vocabulary.choice.choose_preserved", None)
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


def add(sums: ConceptStatistics, pairs: list[EncodedPair], number: int) -> None:
    sums.update(
        {"text": pairs},
        {"text": [2 * pair.concept for pair in pairs]},
        {"text": [pair.target for pair in pairs[:1]]},
        prompts=[f"prompt {number}"],
    )
    sums.batches.append(number)


def empty(*, keep_prompts: bool = False, shared: bool = False) -> ConceptStatistics:
    return ConceptStatistics({"text": 4}, "aligned", "cpu", keep_prompts=keep_prompts, shared=shared)


def content(sums: ConceptStatistics) -> dict[str, Any]:
    """What of a file's tensors is read back."""
    tensors = flat(sums)
    assert tensors.pop("batches").tolist() == sums.batches
    return nested(tensors, ["text"], sums.probe["prompt"] if sums.probe else "")


def matrices(sums: ConceptStatistics) -> list[torch.Tensor]:
    evidence = sums.evidence()["text"]
    assert evidence.held_out is not None
    return [*(matrix for part in (evidence.first, evidence.whole) for matrix in vars(part).values()), evidence.held_out]


@given(
    count=st.integers(1, 160), cut=st.integers(1, 40), stop=st.floats(0, 1), seed=st.integers(0, 99),
    shared=st.booleans(), tensor=st.booleans(),
)  # fmt: skip
def test_sums_go_on_to_the_same_bits(count: int, cut: int, stop: float, seed: int, shared: bool, tensor: bool) -> None:
    pairs = random_pairs(count, 4, seed)
    batches = [pairs[first : first + cut] for first in range(0, count, cut)]
    half, how = round(stop * len(batches)), {"keep_prompts": tensor and not shared, "shared": shared}
    whole, before, after = empty(**how), empty(**how), empty(**how)
    for number, batch in enumerate(batches):
        add(whole, batch, number)
    for number, batch in enumerate(batches[:half]):
        add(before, batch, number)
    parts = content(before)
    assert not statistics_fault(parts, {"text": 4})
    after.take(parts).batches += before.batches
    for number, batch in enumerate(batches[half:], start=half):
        add(after, batch, number)
    assert after.batches == whole.batches == list(range(len(batches)))
    assert (after.probe or {})["prompt"] == (whole.probe or {})["prompt"]
    for one, other in zip(flat(after).items(), flat(whole).items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert after.prompts == whole.prompts == count
    assert all(torch.equal(one, other) for one, other in zip(matrices(after), matrices(whole), strict=True))


@given(count=st.integers(1, 160), cut=st.integers(1, 40), world=st.integers(1, 4), seed=st.integers(0, 99))
def test_sums_of_several_ranks_are_put_together(count: int, cut: int, world: int, seed: int) -> None:
    pairs = random_pairs(count, 4, seed)
    whole, shares = empty(), [empty(shared=True) for _ in range(world)]
    for number, first in enumerate(range(0, count, cut)):
        add(whole, pairs[first : first + cut], number)
        add(shares[number % world], pairs[first : first + cut], number)
    together = empty()
    for share in shares:
        together.take(content(share))
    assert together.prompts == whole.prompts == count
    for one, other in zip(matrices(together), matrices(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


def test_every_text_space_is_in_the_file() -> None:
    sums = ConceptStatistics({"text": 4, "pooled": 6}, "aligned", "cpu")
    rows = {"text": random_pairs(2, 4, 0), "pooled": random_pairs(2, 6, 1)}
    sums.update(rows, {name: [pair.target for pair in pairs] for name, pairs in rows.items()}, prompts=["a", "b"])
    tensors = flat(sums)
    assert {name.split("/")[0] for name in tensors} == {"text", "pooled", "probe", "batches"}
    tensors.pop("batches")
    again = ConceptStatistics({"text": 4, "pooled": 6}, "aligned", "cpu").take(nested(tensors, ["text", "pooled"], "a"))
    for name, evidence in sums.evidence().items():
        assert torch.equal(again.evidence()[name].whole.erased, evidence.whole.erased)
        assert torch.equal(again.evidence()[name].whole.preserved, evidence.whole.preserved)
    with pytest.raises(ConfigurationError, match="of the text spaces"):
        empty().take(nested(tensors, ["text"], "a"))


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


SENSELESS: dict[str, tuple[str, Any, str]] = {
    "preserved of another width": ("preserved.moments", torch.zeros(3, 3, dtype=torch.float64), "preserved.moments is"),
    "moments of nan": ("erased.first.cross", torch.full((4, 4), torch.nan, dtype=torch.float64), "first.cross holds"),
    "moments of float32": ("erased.whole.target", torch.zeros(4, 4), "whole.target is stored as float32"),
    "a number below zero": ("erased.count", torch.tensor(-1), "erased.count is no number"),
    "a number that is none": ("held_out.count", torch.tensor(1.5), "held_out.count is no number"),
    "several numbers": ("preserved.count", torch.tensor([1, 2]), "preserved.count is no number"),
    "fewer than there are rows": ("erased.count", torch.tensor(3), "erased.count"),
    "rows of another width": ("erased.concept", torch.zeros(36, 5, 3), "erased is"),
    "rows of another number": ("erased.target", torch.zeros(35, 5, 4), "erased is"),
    "rows of inf": ("erased.target", torch.full((36, 5, 4), torch.inf), "erased holds"),
    "too few weights": ("erased.weight", torch.tensor([1.0], dtype=torch.float64), "erased.weight is"),
    "a weight below zero": ("erased.weight", torch.full((36,), -1.0, dtype=torch.float64), "a weight in"),
    "a position outside": ("erased.last", torch.tensor([99] * 36), "a position in"),
    "positions that are no numbers": ("erased.target_last", torch.zeros(36), "a position in"),
    "an entry that nothing reads": ("erased.more", torch.zeros(1), "nothing reads"),
    "a kind that nothing reads": ("others.count", torch.tensor(1), "nothing reads"),
}


@pytest.fixture
def parts() -> dict[str, torch.Tensor]:
    """Rows and moments of each kind, as one file has them."""
    sums = empty()
    add(sums, random_pairs(100, 4, 0), 0)
    state = sums.state_dict()
    assert not statistics_fault(state, {"text": 4})
    return state["spaces"]["text"]


@pytest.mark.parametrize(("name", "value", "message"), SENSELESS.values(), ids=SENSELESS)
def test_senseless_parts_are_found(parts: dict[str, torch.Tensor], name: str, value: Any, message: str) -> None:
    wrong = statistics_fault({"spaces": {"text": {**parts, name: value}}, "probe": None}, {"text": 4})
    assert wrong is not None
    assert message in wrong


def test_a_part_that_is_missing_is_found(parts: dict[str, torch.Tensor]) -> None:
    """Rows and moments are each there as a whole, or not at all."""
    for name in parts:
        left = {key: value for key, value in parts.items() if key != name}
        wrong = statistics_fault({"spaces": {"text": left}, "probe": None}, {"text": 4})
        # Sums of moments alone are as good as any; of rows that are gone the number tells.
        assert wrong is not None or name.endswith((".rows", ".moments")), name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batches", torch.tensor([-1]), "batches are no numbers"),
        ("batches", torch.tensor([[0.5]]), "batches are no numbers"),
        ("text/erased.first.cross", torch.full((24, 24), torch.nan, dtype=torch.float64), "first.cross holds"),
        ("probe", torch.zeros(16, 5), "probe is"),
        ("pooled/erased.count", torch.tensor(1), "of the text spaces"),
    ],
)
def test_a_file_with_senseless_parts_costs_its_prompts_alone(
    tiny_model: Path, concepts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str, value: torch.Tensor, message: str,
) -> None:  # fmt: skip
    stop_in_the_middle(monkeypatch, tiny_model, concepts, tmp_path)
    (file,) = tmp_path.glob("partial-*")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({**load_file(file), name: value}, file, metadata)
    module = fit(str(tiny_model), str(concepts), tmp_path, 1)
    said = capsys.readouterr().err
    assert "partial-0-of-1.safetensors is damaged" in said
    assert message in said
    assert module.session.statistics.prompts == ROWS
