"""Do the first words of the vocabulary scan show the concept? Writes scan.csv, scan.json and scan.md beside this file.

    python -m benchmarks.scan            # measures what is missing in scan.csv, then writes the page
    python -m benchmarks.scan --page     # writes the page from what was measured
    python -m benchmarks.scan --objects bomb --words 3 --pairs 1 --output FOLDER    # to try it

The first words, and the first pairs of words, that the scan lists for each of twelve objects of the embedded world,
before any edit and after UCE's, against what the detector sees in their pictures. Interrupted, it goes on where it
stopped. Some ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.recipes import command_of, digest, unet_digest
from benchmarks.results import be_quiet, edited
from benchmarks.results_plan import UCE, Erasure, State, objects, states
from benchmarks.tables import of_plain_columns, read_measured, write_table
from rece_lightning import RECE
from rece_lightning.cli.verbs import fail
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.files import write_atomically
from rece_lightning.metrics import EmojiDetector, Share
from rece_lightning.models.sampling import Sampling
from rece_lightning.vocabulary import Scan, scan_module
from rece_lightning.vocabulary.rows import subject_rows
from rece_lightning.vocabulary.scan import TEMPLATE, WITHIN, Reaching, search_pairs

HERE = Path(__file__).parent
BEFORE, AFTER = "before the edit", "after UCE's edit"
NEAREST, BOTH, PAIRS, RANDOM = "nearest", "nearest before and after", "pairs", "random words"
"""How words are ranked: by their distance, by the larger of both distances, pairs by the beam; any of them."""


@dataclass(frozen=True)
class Row:
    """A word, or a pair, in a concept's list."""

    recipe: str
    concept: str
    state: str
    ranking: str
    place: int
    word: str
    before: float
    """Distance on the unedited model: 0 is the concept, 1 its target; NaN for pairs."""
    after: float
    """On the model of the state."""
    synonym: int
    """Whether the word is the object's name, a part of it, or one of its keywords."""
    hits: int
    total: int


@dataclass(frozen=True)
class Listed:
    """What is to be drawn."""

    ranking: str
    place: int
    word: str
    before: float
    after: float


def read_rows(path: Path) -> list[Row]:
    """What was measured."""
    return read_measured(path, of_plain_columns(Row))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The whole CSV, atomically."""
    write_table(path, [one.name for one in fields(Row)], map(asdict, rows))


class Bench:
    """Scans and their pictures."""

    def __init__(self, words: int, pairs: int, pictures: int, sampling: Sampling, cache: Path) -> None:
        self.words, self.pairs, self.pictures = words, pairs, pictures
        self.sampling, self.cache, self.detector = sampling, cache, EmojiDetector()
        self.seconds: dict[str, list[float]] = {"encoding": [], "algebra": [], "pairs": []}
        self.vocabulary = 0

    def lists(self, module: RECE, state: str) -> list[Listed]:
        """The first words of every ranking."""
        scan = scan_module(module, cache=self.cache)
        self.vocabulary = len(scan.words)
        for name, seconds in scan.seconds.items():
            if seconds:  # the encoding is there after the first scan
                self.seconds[name].append(seconds)
        if state == BEFORE:
            scan = replace(scan, after=scan.before)
        before, after = scan.before[:, 0], scan.after[:, 0]
        rankings = {NEAREST: after.argsort(stable=True).tolist()}
        if state == AFTER:
            rankings[BOTH] = before.maximum(after).argsort(stable=True).tolist()
        # What any word shows: an edit may move all prompts of a form towards the concept.
        rankings[RANDOM] = random.Random(scan.concepts[0]).sample(range(len(scan.words)), len(scan.words))
        found = [
            Listed(ranking, place, scan.words[word], float(before[word]), float(after[word]))
            for ranking, order in rankings.items()
            for place, word in enumerate(order[: self.words], 1)
        ]
        started = time.perf_counter()
        pairs = self._pairs(module, scan, state)
        self.seconds["pairs"].append(time.perf_counter() - started)
        return found + pairs

    def _pairs(self, module: RECE, scan: Scan, state: str) -> list[Listed]:
        if not self.pairs:
            return []
        maps = EmbeddingMap.identity(module.gram.width) if state == BEFORE else module.maps
        own = subject_rows(module.encoder, [TEMPLATE.format(text) for text in (scan.concepts[0], " ")])
        reaching = Reaching.of(module.gram, maps, own[:1], own[1:])
        found = search_pairs(module, reaching, scan, 0, TEMPLATE, self.pairs)
        return [Listed(PAIRS, place, pair, float("nan"), after) for place, (_, pair, after) in enumerate(found, 1)]

    def measure(self, erasure: Erasure, module: RECE, state: str, recipe: str) -> list[Row]:
        """Lists of a concept in a state, with what the detector sees; each word is drawn once."""
        listed = self.lists(module, state)
        words = list(dict.fromkeys(one.word for one in listed))
        module.pictures.use(None if state == BEFORE else module.edited_weights())
        rows = [EvaluationPrompt(TEMPLATE.format(word), erasure.name) for word in words for _ in range(self.pictures)]
        made = module.pictures.make(rows, list(range(self.pictures)) * len(words), self.sampling)
        hits = self.detector.detect(made, [erasure.name] * len(rows)).view(len(words), -1).sum(1).tolist()
        seen = dict(zip(words, hits, strict=True))
        known = {erasure.name, *erasure.name.split(), *(row.prompt for row in erasure.groups["synonyms"])}
        known |= {word for prompt in known for word in prompt.split()} - {"a", "an", "of"}
        return [
            Row(recipe, erasure.name, state, one.ranking, one.place, one.word, one.before, one.after,
                int(one.word in known), int(seen[one.word]), self.pictures)
            for one in listed
        ]  # fmt: skip


def measure(arguments: argparse.Namespace, path: Path) -> None:
    """Measure what the CSV lacks.

    Raises:
        ConfigurationError: if the CSV is of other weights or settings, or an object is not among the twelve.
    """
    sampling = Sampling(arguments.steps, 4.0, 64)
    rows = [] if arguments.overwrite else read_rows(path)
    known = {erasure.name: erasure for erasure in objects()}
    names = list(known) if arguments.objects == "all" else arguments.objects.split(",")
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--objects: {name!r} is none of {', '.join(known)}.")
    (uce,) = (state for state in states("objects") if state.name == UCE)
    recipes = {name: recipe_of(known[name], uce, arguments) for name in names}
    if any(recipes.get(row.concept, row.recipe) != row.recipe for row in rows):
        raise ConfigurationError(f"{path}: it is of other weights or settings; give --overwrite, or another --output.")
    done = {(row.concept, row.state) for row in rows}
    work = [(name, [state for state in (BEFORE, AFTER) if (name, state) not in done]) for name in names]
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lists"), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as cache,  # so that the first scan encodes, and is timed
        Progress(TextColumn("{task.description}"), *columns) as progress,
    ):
        task = progress.add_task("loading", total=sum(len(left) for _, left in work))
        bench = Bench(arguments.words, arguments.pairs, arguments.pictures, sampling, Path(cache))
        for name, left in work:
            module = edited(known[name], uce) if left else None
            for state in left:
                assert module is not None
                progress.update(task, description=f"{name}, {state}")
                rows += bench.measure(known[name], module, state, recipes[name])
                write_rows(path, rows)
                progress.advance(task)
    if bench.seconds["encoding"]:
        cost = {"words": bench.vocabulary, "seconds": bench.seconds}
        write_atomically(path.with_suffix(".json"), lambda file: file.write_text(json.dumps(cost, indent=1) + "\n"))


def recipe_of(erasure: Erasure, state: State, arguments: argparse.Namespace) -> str:
    """Digest of all that decides a concept's lines."""
    what: dict[str, Any] = {"data": erasure.data, "model": state.model, "template": TEMPLATE}
    what |= {name: getattr(arguments, name) for name in ("words", "pairs", "pictures", "steps")}
    return digest({**what, "weights": unet_digest()})


def page(rows: Sequence[Row], cost: dict[str, Any] | None, command: str) -> str:
    """The lists as Markdown."""
    concepts = list(dict.fromkeys(row.concept for row in rows))
    longest = max(row.place for row in rows if row.ranking == NEAREST)
    lines = [
        "# What the vocabulary scan's first words show",
        "",
        f"Made by `{command}`; every word is in [scan.csv](scan.csv). Each of {', '.join(concepts)} by itself, before "
        f"any edit and after UCE's (published scales); the first {longest} words of the scan in `{TEMPLATE}`, "
        f"{rows[0].total} pictures a word, detector `{EmojiDetector.protocol}`. Shares with 95 % intervals, over "
        "concepts where there are enough of them.",
        "",
        "*Precision*: of the words in the list, those of which the detector sees the concept in at least one picture. "
        "*Named*: those that are the object's name, a part of it, or a keyword of it in the world's catalog.",
        "",
        "| state | ranked by | words | precision | of pictures | named | precision of the first 5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for state, ranking in dict.fromkeys((row.state, row.ranking) for row in rows):
        own = [row for row in rows if (row.state, row.ranking) == (state, ranking)]
        pictures = Share.over((row.hits, row.total) for row in own)
        cells = [str(precision(own)), str(pictures), str(precision(own, named=True)), str(precision(own, first=5))]
        lines.append(f"| {state} | {ranking} | {len(own)} | {' | '.join(cells)} |")
    lines += ["", "## By distance", "", *distance_lines(rows)]
    if cost is not None:
        lines += ["", "## Seconds", "", *cost_lines(cost)]
    return "\n".join(lines) + "\n"


def precision(rows: Sequence[Row], *, named: bool = False, first: int | None = None) -> Share:
    """Words that show the concept, clustered by concept."""
    clusters: dict[str, list[bool]] = {}
    for row in rows:
        if first is None or row.place <= first:
            clusters.setdefault(row.concept, []).append(bool(row.synonym) if named else row.hits > 0)
    return Share.over((sum(one), len(one)) for one in clusters.values())


def distance_lines(rows: Sequence[Row]) -> list[str]:
    """Does a word that is near show the concept? All listed words but pairs, each once."""
    lines = [
        "| state | words | number | precision |",
        "|---|---|---|---|",
    ]
    for state in (BEFORE, AFTER):
        own = {(row.concept, row.word): row for row in rows if row.state == state and row.ranking != PAIRS}
        groups = {
            f"nearer than {WITHIN} before and now: they reach": [
                r for r in own.values() if max(r.before, r.after) < WITHIN
            ],
            f"nearer than {WITHIN} now alone": [r for r in own.values() if r.after < WITHIN <= r.before],
            f"nearer than {WITHIN} before alone": [r for r in own.values() if r.before < WITHIN <= r.after],
            "further in both": [r for r in own.values() if min(r.before, r.after) >= WITHIN],
        }
        lines += [f"| {state} | {name} | {len(of)} | {precision(of)} |" for name, of in groups.items() if of]
    return lines


def cost_lines(cost: dict[str, Any]) -> list[str]:
    """What a scan takes."""
    seconds, words = cost["seconds"], cost["words"]

    def middle(name: str) -> str:
        values = sorted(seconds[name])
        return f"{values[len(values) // 2]:.3f}" if values else "–"

    return [
        f"{words:,} words. Encoding them, once for a text encoder: {middle('encoding')} s. Distances of all of them "
        f"from one concept, median: {middle('algebra')} s. Pairs by the beam, their encoding included, median: "
        f"{middle('pairs')} s.",
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--objects", default="all", help="of the twelve, separated by commas")
    parser.add_argument("--words", type=int, default=20, help="of each list")
    parser.add_argument("--pairs", type=int, default=5, help="width of the beam, and pairs of each list; 0: none")
    parser.add_argument("--pictures", type=int, default=2, help="of each word")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of scan.csv, scan.json and scan.md")
    arguments = parser.parse_args()
    be_quiet()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "scan.csv"
    try:
        if not arguments.page:
            measure(arguments, path)
        rows = read_rows(path)
        if not rows:
            raise ConfigurationError(f"{path}: nothing was measured yet; leave --page out.")
        command = command_of(parser, arguments, ("objects", "words", "pairs", "pictures", "steps"))
        cost = path.with_suffix(".json")
        known = json.loads(cost.read_text()) if cost.exists() else None
        text = page(rows, known, command)
        write_atomically(arguments.output / "scan.md", lambda file: file.write_text(text, encoding="utf-8"))
        print(text)
    except ConfigurationError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
