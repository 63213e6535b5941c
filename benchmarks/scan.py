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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import (
    Piece,
    Table,
    World,
    command,
    command_of,
    digest,
    fill,
    fitted,
    former,
    table_parser,
    unet_digest,
    write_text,
)
from benchmarks.results.plan import UCE, Erasure, State, objects, states
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.reaching import Reaching
from rece_lightning.core.robust import WITHIN
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.data.synonyms import TEMPLATE
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.metrics import EmojiDetector, Share
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text_space import TEXT
from rece_lightning.vocabulary import Scan, scan
from rece_lightning.vocabulary.rows import subject_rows
from rece_lightning.vocabulary.scan import search_pairs

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

    @property
    def key(self) -> tuple[str, str]:
        """Lists of a concept in a state are measured together."""
        return self.concept, self.state


@dataclass(frozen=True)
class Listed:
    """What is to be drawn."""

    ranking: str
    place: int
    word: str
    before: float
    after: float


class Bench:
    """Scans and their pictures.

    Args:
        arguments: how many words, pairs and pictures.
        uce: the state after the edit.
        cache: folder of the encoded vocabulary.
    """

    def __init__(self, arguments: argparse.Namespace, uce: State, cache: Path) -> None:
        self.arguments, self.uce, self.cache, self.world = arguments, uce, cache, World()
        self.sampling = Sampling(arguments.steps, 4.0, 64)
        self.seconds: dict[str, list[float]] = {"encoding": [], "algebra": [], "pairs": []}
        self.vocabulary = 0

    def piece(self, erasure: Erasure) -> Piece[Row]:
        """The lists of a concept in the states that are missing, of one erasure."""
        made = recipe(erasure, self.uce, self.arguments)

        def measured(missing: list[tuple[str, str]]) -> Sequence[list[Row]]:
            session = fitted(self.uce.settings or {}, self.uce.epochs, erasure.data)
            return [self.measure(erasure, session, state, made) for _, state in missing]

        return Piece(erasure.name, {(erasure.name, state): made for state in (BEFORE, AFTER)}, measured)

    def lists(self, session: ErasureSession, state: str) -> list[Listed]:
        """The first words of every ranking."""
        result = scan(session, cache=self.cache)
        words, self.vocabulary = result.words, len(result.words)
        for name, seconds in result.seconds.items():
            if seconds:  # the encoding is there after the first scan
                self.seconds[name].append(seconds)
        if state == BEFORE:
            result = replace(result, after=result.before)
        before, after = result.before[:, 0], result.after[:, 0]
        rankings = {NEAREST: after.argsort(stable=True).tolist()}
        if state == AFTER:
            rankings[BOTH] = before.maximum(after).argsort(stable=True).tolist()
        # What any word shows: an edit may move all prompts of a form towards the concept.
        rankings[RANDOM] = random.Random(result.concepts[0]).sample(range(len(words)), len(words))
        found = [
            Listed(ranking, place, words[word], float(before[word]), float(after[word]))
            for ranking, order in rankings.items()
            for place, word in enumerate(order[: self.arguments.words], 1)
        ]
        started = time.perf_counter()
        pairs = self._pairs(session, result, state)
        self.seconds["pairs"].append(time.perf_counter() - started)
        return found + pairs

    def _pairs(self, session: ErasureSession, result: Scan, state: str) -> list[Listed]:
        if not self.arguments.pairs:
            return []
        maps = EmbeddingMap.identity(session.gram.width) if state == BEFORE else session.maps[TEXT]
        own = subject_rows(session.encoder, [TEMPLATE.format(text) for text in (result.concepts[0], " ")])
        reaching = Reaching.of(session.gram, maps, own[:1], own[1:])
        found = search_pairs(session.encoder, reaching, result, 0, TEMPLATE, self.arguments.pairs)
        return [Listed(PAIRS, place, pair, float("nan"), after) for place, (_, pair, after) in enumerate(found, 1)]

    def measure(self, erasure: Erasure, session: ErasureSession, state: str, made: str) -> list[Row]:
        """Lists of a concept in a state, with what the detector sees; each word is drawn once."""
        listed, pictures = self.lists(session, state), self.arguments.pictures
        words = list(dict.fromkeys(one.word for one in listed))
        self.world.maker.use(None if state == BEFORE else session.erasure().weights())
        rows = [EvaluationPrompt(TEMPLATE.format(word), erasure.name) for word in words for _ in range(pictures)]
        hits = self.world.detect(rows, list(range(pictures)) * len(words), self.sampling)
        seen = dict(zip(words, hits.view(len(words), -1).sum(1).tolist(), strict=True))
        known = {erasure.name, *erasure.name.split(), *(row.prompt for row in erasure.groups["synonyms"])}
        known |= {word for prompt in known for word in prompt.split()} - {"a", "an", "of"}
        return [
            Row(made, erasure.name, state, one.ranking, one.place, one.word, one.before, one.after,
                int(one.word in known), int(seen[one.word]), pictures)
            for one in listed
        ]  # fmt: skip


def measure(arguments: argparse.Namespace, table: Table[Row]) -> None:
    """Measure what the table lacks.

    Raises:
        ConfigurationError: if it is of other weights or settings, or an object is not among the twelve.
    """
    known = {erasure.name: erasure for erasure in objects()}
    names = list(known) if arguments.objects == "all" else arguments.objects.split(",")
    for name in names:
        if name not in known:
            raise ConfigurationError(f"--objects: {name!r} is none of {', '.join(known)}.")
    (uce,) = (state for state in states("objects") if state.name == UCE)
    with tempfile.TemporaryDirectory() as cache:  # so that the first scan encodes, and is timed
        bench = Bench(arguments, uce, Path(cache))
        fill(table, [bench.piece(known[name]) for name in names], overwrite=arguments.overwrite)
    if bench.seconds["encoding"]:
        cost = {"words": bench.vocabulary, "seconds": bench.seconds}
        write_text(table.path.with_suffix(".json"), json.dumps(cost, indent=1) + "\n")


def recipe(erasure: Erasure, state: State, arguments: argparse.Namespace) -> str:
    """Digest of all that decides a concept's lines."""
    what: dict[str, Any] = {"data": erasure.data, "model": former(state.settings or {}), "template": TEMPLATE}
    what |= {name: getattr(arguments, name) for name in ("words", "pairs", "pictures", "steps")}
    return digest({**what, "weights": unet_digest()})


def page(rows: Sequence[Row], cost: dict[str, Any] | None, command: str) -> list[str]:
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
    return lines


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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = table_parser("scan", __doc__, "scan.csv, scan.json and scan.md")
    parser.add_argument("--objects", default="all", help="of the twelve, separated by commas")
    parser.add_argument("--words", type=int, default=20, help="of each list")
    parser.add_argument("--pairs", type=int, default=5, help="width of the beam, and pairs of each list; 0: none")
    parser.add_argument("--pictures", type=int, default=2, help="of each word")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    with command(parser, argv) as arguments:
        table = Table(arguments.output / "scan.csv", Row)
        if not arguments.page:
            measure(arguments, table)
        cost = table.path.with_suffix(".json")
        known = json.loads(cost.read_text(encoding="utf-8")) if cost.exists() else None
        said = command_of(parser, arguments, ("objects", "words", "pairs", "pictures", "steps"))
        written = harness.write_page(arguments.output, "scan", page(table.rows(), known, said))
        print(written.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
