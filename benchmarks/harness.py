"""What every benchmark stands on: settings of a method, rows with their recipe, the embedded world, and pages.

A benchmark is a list of pieces of work. Each makes rows of a table, and each row has a recipe: a digest of all that
decides its figures. :func:`fill` measures what the table lacks and writes it after every piece, so that a run which was
stopped goes on; the page is made from the table alone. Tables, pages and pictures lie beside this file, where documents
link to them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
import platform
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import diffusers
import torch
import transformers
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import Victim
from rece_lightning.cli.explain import former as moved
from rece_lightning.cli.verbs import PACKAGE, fail
from rece_lightning.core.editors.base import editor_class
from rece_lightning.core.embedding_map import AnyMap
from rece_lightning.core.errors import ConfigurationError, ReceError, nearest
from rece_lightning.core.gram import Gram
from rece_lightning.data.csv_rows import rows_of
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.strategy import DEFAULT_EPOCHS
from rece_lightning.emoji.catalog import MMDIT, WEIGHTS
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.session import ErasureSession
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.files import write_atomically, write_text
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.denoisers import denoisers_of, together
from rece_lightning.models.sampling import Request, Sampling
from rece_lightning.models.text_space import TEXT

HERE = Path(__file__).parent
WEIGHT_FILES = {
    "emoji": WEIGHTS / "unet" / "diffusion_pytorch_model.safetensors",
    "emoji-mmdit": MMDIT / "transformer" / "diffusion_pytorch_model.safetensors",
}
"""Embedded world → its denoiser's weights."""

# Settings of a method

Settings = Mapping[str, Any]
"""Key below ``model.method`` → value, as the command line names them: ``{"editor": "Projection", "editor.rank": 2}``.
An argument of an editor counts where that editor has it, so that settings can be laid over others."""

FORMER = {
    "editor.erase_scale": "erase_scale",
    "editor.preserve_scale": "preserve_scale",
    "editor.lamb": "lamb",
    "derivation.scale": "regular_scale",
    "derivation.regularizer": "regularizer",
    "derivation.surrogate_items": "surrogate_items",
    "first_editor": "first_edit",
    "editor": "editor",
    "projections": "projections",
    "editor.rank": "erased_rank",
    "editor.shrinkage": "shrinkage",
    "editor.threshold": "null_space_threshold",
    "editor.augmented_rank": "augmented_rank",
    "accumulate": "accumulate",
    "tokens": "tokens",
    "layers": "layers",
    "robust": "robust",
}
"""Key → its name before :class:`Method`. What was measured then stays: recipes are digests of the former names, and the
tables tell settings in them."""
FORMER_EDITORS = {"UCE": "uce", "Projection": "projection", "NullSpace": "null_space"}


def method_of(settings: Settings) -> Method:
    """The method that settings describe.

    Raises:
        ConfigurationError: for a key or a value that makes no sense.
    """
    editor, arguments, plain = settings.get("editor", "UCE"), dict[str, Any](), dict[str, Any]()
    taken = [one.name for one in fields(editor_class(editor, "model.method.editor"))]  # type: ignore[arg-type]
    for key, value in settings.items():
        owner, _, name = key.partition(".")
        if owner == "editor" and name not in taken and key not in FORMER:
            raise ConfigurationError(f"model.method.{key}: no such setting of {editor}; {nearest(name, taken)}.")
        if owner == "editor":
            arguments |= {name: value} if name in taken else {}
        elif name:
            plain[owner] = {**plain.get(owner, {}), name: value}
        else:
            plain[key] = value
    return Method.from_plain({**plain, "editor": {"class_path": editor, "init_args": arguments}})


def former(settings: Settings) -> dict[str, Any]:
    """The same under the former names, in the same order; what there was not yet keeps its own."""
    words = {FORMER.get(key, key): value for key, value in settings.items()}
    if "editor" in words:
        words["editor"] = FORMER_EDITORS.get(words["editor"], words["editor"])
    if words.get("first_edit"):
        words["first_edit"] = words["first_edit"]["init_args"]
    return words


def former_loop(settings: Settings) -> str:
    """How the former loop's settings printed themselves: some recipes are digests of that text."""
    found = {
        "erase_scale": 1.0, "preserve_scale": 0.1, "lamb": 0.1, "first_edit": None, "regular_scale": 0.1,
        "regularizer": "norm", "surrogate_items": "both", "editor": "uce", "erased_rank": None, "shrinkage": 3.0,
        "null_space_threshold": 0.1, "augmented_rank": 1, "accumulate": False, "robust": None, **former(settings),
    }  # fmt: skip
    return (
        "LoopSettings(scales=EditScales(erase_scale={erase_scale!r}, preserve_scale={preserve_scale!r}, "
        "lamb={lamb!r}), first_scales={first_edit!r}, regular_scale={regular_scale!r}, regularizer={regularizer!r}, "
        "surrogate_items={surrogate_items!r}, technique='replace', editor={editor!r}, projection=Projection("
        "erased_rank={erased_rank!r}, shrinkage={shrinkage!r}), null_space=NullSpace("
        "threshold={null_space_threshold!r}, augmented_rank={augmented_rank!r}), accumulate={accumulate!r}, "
        "robust={robust!r})"
    ).format(**found)


def told(words: Mapping[str, Any], epochs: int) -> str:
    """Settings and epochs for a table, in short."""
    return ", ".join([*(f"{key} {value}" for key, value in words.items()), f"epochs {epochs}"])


@dataclass(frozen=True)
class Configuration:
    """What a YAML file says of an erasure."""

    settings: Settings
    epochs: int | None
    data: Mapping[str, Any]
    certificate: float | str | None = None
    threshold: float | None = None
    """Of the certificate: ``EarlyStopping`` ends the run there."""

    @classmethod
    def read(cls, path: Path, field: str = "--config") -> Configuration:
        """Read a file.

        Args:
            path: of the YAML.
            field: that named it, for messages.

        Raises:
            ConfigurationError: if it cannot be read, has no section ``model``, or is of the former layout.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{field}: {path} cannot be read ({' '.join(str(error).split())}).") from error
        model = content.get("model") if isinstance(content, dict) else None
        if not isinstance(model, dict):
            raise ConfigurationError(
                f"{field}: {path} has no section 'model'; give a configuration such as emoji.yaml."
            )
        for key in model:
            if now := moved(f"model.{key}"):
                raise ConfigurationError(f"{field}: {path}: {now}")
        trainer = content.get("trainer") or {}
        stops = [one["init_args"] for one in trainer.get("callbacks") or [] if one["class_path"] == "EarlyStopping"]
        return cls(
            flat(model.get("method") or {}),
            trainer.get("max_epochs"),
            content.get("data") or {},
            model.get("certificate"),
            next((one["stopping_threshold"] for one in stops if one["monitor"] == "certificate"), None),
        )

    @classmethod
    @cache
    def shipped(cls, name: str) -> Configuration:
        """One of those that come with the package."""
        return cls.read(PACKAGE / "configs" / name)

    @property
    def words(self) -> dict[str, Any]:
        """The settings under the former names; the certificate that ends a run was one of the robust loop's."""
        words = former(self.settings)
        if self.threshold is not None:
            words["robust"] = {**(words.get("robust") or {}), "certificate": self.threshold}
            if self.certificate != "any":
                words["robust"]["budget"] = self.certificate
        return words

    @property
    def stopping(self) -> list[Callback]:
        """The callback that ends a run at its certificate, where there is one."""
        if self.threshold is None:
            return []
        return [
            EarlyStopping(
                "certificate", mode="max", stopping_threshold=self.threshold, patience=1000,
                check_on_train_epoch_end=True,
            )
        ]  # fmt: skip


def flat(method: Mapping[str, Any]) -> dict[str, Any]:
    """A section ``model.method`` as settings, in one order. The editor UCE is the default and needs no name."""
    found: dict[str, Any] = {}
    for key, value in method.items():
        if key == "editor":
            given = {"class_path": value} if isinstance(value, str) else value
            found |= {} if given["class_path"] == "UCE" else {key: given["class_path"]}
            found |= {f"editor.{name}": one for name, one in (given.get("init_args") or {}).items()}
        elif key == "derivation":
            found |= {f"derivation.{name}": one for name, one in value.items()}
        else:
            found[key] = value
    return {key: found.pop(key) for key in FORMER if key in found} | found


# Recipes


@cache
def weights_digest(pretrained: str) -> str:
    """SHA-256 of an embedded world's denoiser: its figures are of these weights. Read once."""
    return hashlib.sha256(WEIGHT_FILES[pretrained].read_bytes()).hexdigest()


def unet_digest(pretrained: str = "emoji") -> str:
    """The first digits of it, by which tables name the weights that they were measured on."""
    return weights_digest(pretrained)[:12]


def digest(what: Any) -> str:
    """Of plain values, whatever the order of their keys."""
    return digest_of(json.dumps(what, sort_keys=True, default=str))


def digest_of(text: str) -> str:
    """Of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain_shots(shots: Mapping[str, Sequence[tuple[EvaluationPrompt, int]]]) -> dict[str, list[tuple[Any, int]]]:
    """Of a recipe: prompts with their seeds, by group, in plain values."""
    return {group: [(row.plain(), seed) for row, seed in rows] for group, rows in shots.items()}


# Rows

BETWEEN = "|"
"""Stands between the items of a list in a cell."""


class Measured(Protocol):
    """A row of a table."""

    @property
    def key(self) -> Hashable:
        """What names it, or all rows that were measured with it."""

    @property
    def recipe(self) -> str:
        """Digest of all that decides its figures."""


Row = TypeVar("Row", bound=Measured)


def _items(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda cell: tuple(convert(part) for part in cell.split(BETWEEN) if part)


READ: dict[Any, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda cell: float(cell) if cell else None,
    "tuple[str, ...]": _items(str),
    "tuple[float, ...]": _items(float),
}
"""Type of a field, as it is written → how a cell becomes one."""


def check_lists(row: Any, *lists: str) -> None:
    """Refuse a row of detections whose lists are not one item a prompt each.

    Args:
        row: with its ``prompts``, and their ``hits`` by seed.
        lists: further fields with an item a prompt.

    Raises:
        ValueError: naming the row.
    """
    if any(len(getattr(row, name)) != len(row.prompts) for name in ("hits", *lists)):
        raise ValueError(f"{BETWEEN.join(row.key)}: lists of different lengths")
    if any(set(hits) - {"0", "1"} for hits in row.hits):
        raise ValueError(f"{BETWEEN.join(row.key)}: hits that are neither 0 nor 1")


@dataclass(frozen=True)
class Table(Generic[Row]):
    """A CSV of what was measured, read and written whole.

    Args:
        path: of the file.
        kind: a dataclass whose fields are the columns; raises ValueError for values that do not belong together.
        digits: of the numbers; all of them unless given.
    """

    path: Path
    kind: type[Row]
    digits: int | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """Name → type."""
        return {column.name: column.type for column in fields(self.kind)}  # type: ignore[arg-type]

    def read(self) -> list[Row]:
        """What was measured so far; nothing where there is no file.

        Raises:
            ConfigurationError: if the file is damaged.
        """
        if not self.path.exists():
            return []
        try:
            with self.path.open(encoding="utf-8", newline="") as stream:
                return [
                    self.kind(**{name: READ[kind](line[name]) for name, kind in self.columns.items()})
                    for _, line in rows_of(stream)
                ]
        except (OSError, UnicodeDecodeError, KeyError, AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); move it away, or give --overwrite."
            ) from error

    def rows(self) -> list[Row]:
        """What was measured.

        Raises:
            ConfigurationError: if the file is damaged, or nothing was.
        """
        rows = self.read()
        if not rows:
            raise ConfigurationError(f"{self.path}: nothing was measured yet; leave --page out.")
        return rows

    def write(self, rows: Iterable[Row]) -> Path:
        """The whole file, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: self._cell(value) for name, value in asdict(row).items()} for row in rows)  # type: ignore[call-overload]
        return write_text(self.path, text.getvalue())

    def _cell(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return BETWEEN.join(str(self._cell(one)) for one in value)
        return f"{value:.{self.digits}g}" if isinstance(value, float) and self.digits is not None else value


@dataclass(frozen=True)
class Piece(Generic[Row]):
    """Rows that are measured together."""

    name: str
    """For the progress."""
    recipes: Mapping[Hashable, str]
    """Key of every row that it makes → its recipe."""
    measure: Callable[[list[Any]], Iterable[Sequence[Row]]]
    """Given the missing keys, gives their rows: all at once, or in parts that are written one after the other."""


def check_same(
    rows: Sequence[Row], wanted: Mapping[Any, str], path: Path, weights: str | None = None, *, whole: bool = False
) -> None:
    """Refuse a table that this measurement cannot go on with.

    Args:
        rows: that are there.
        wanted: key → recipe of all rows that are wanted.
        path: of the table, for messages.
        weights: of the world at hand, for rows that name theirs; those of this checkout unless given.
        whole: refuse rows that nobody asks for too, because the page shows everything.

    Raises:
        ConfigurationError: if rows are of other weights, settings, prompts or seeds.
    """
    remedy = "give --overwrite to measure anew, or --output for another folder"
    weights = weights or unet_digest()
    for row in rows:
        own = getattr(row, "weights", weights)
        if own != weights:
            raise ConfigurationError(f"{path}: measured on the weights {own}, these are {weights}; {remedy}.")
        if wanted.get(row.key, "" if whole else row.recipe) != row.recipe:
            name = ", ".join(map(str, row.key)) if isinstance(row.key, tuple) else str(row.key)
            raise ConfigurationError(
                f"{path}: {name} was measured with other settings, prompts or seeds; {remedy}."
            )  # fmt: skip


def fill(
    table: Table[Row],
    pieces: Sequence[Piece[Row]],
    *,
    overwrite: bool = False,
    whole: bool = False,
    weights: str | None = None,
) -> list[Row]:
    """Measure what a table lacks, and write it after every part.

    Args:
        table: that may hold some of it.
        pieces: all of the work.
        overwrite: measure anew what is there.
        whole: see :func:`check_same`.
        weights: see :func:`check_same`.

    Returns:
        All rows.

    Raises:
        ConfigurationError: if the table is damaged, or of other weights or settings.
    """
    rows = [] if overwrite else table.read()
    wanted = {key: recipe for one in pieces for key, recipe in one.recipes.items()}
    check_same(rows, wanted, table.path, weights, whole=whole)
    done = {row.key for row in rows}
    work = [(piece, [key for key in piece.recipes if key not in done]) for piece in pieces]
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        bar = progress.add_task("measuring", total=sum(len(missing) for _, missing in work))
        for piece, missing in work:
            if not missing:
                continue
            progress.update(bar, description=piece.name)
            for fresh in piece.measure(missing):
                own = {row.key for row in fresh}
                rows = [row for row in rows if row.key not in own] + list(fresh)
                table.write(rows)
                progress.advance(bar, len(own.intersection(missing)))
    return rows


# The embedded world


def be_quiet() -> None:
    """Leave the terminal to the progress: every fit and every loaded part would say something."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


class World:
    """An embedded world with its detector; each part is loaded at first use, once."""

    def __init__(self, pretrained: str = "emoji") -> None:
        self.pretrained, self.detector = pretrained, EmojiDetector()
        self.loaded = LoadedModel((pretrained, None, None, None))

    @cached_property
    def maker(self) -> PictureMaker:
        """Makes pictures; its projections are exchanged."""
        loaded = self.loaded
        return PictureMaker.load(loaded.base, loaded.encoder, loaded.placement, torch.device("cpu"))

    @property
    def gram(self) -> Gram:
        """``G`` of all that reads the text."""
        return self.loaded.gram(self.loaded.base.spaces[0])

    def readers(self) -> dict[str, list[Tensor]]:
        """Text space → the columns ``[o, d]`` of all that reads it in the pipeline as it is now, in float64."""
        parameters = dict(together(denoisers_of(self.maker.pipeline)).named_parameters())
        return {
            space.name: [reader.part(parameters[name].detach()).double() for name, reader in space.readers.items()]
            for space in self.loaded.base.spaces
        }

    def detect(
        self,
        prompts: Sequence[EvaluationPrompt],
        seeds: Sequence[int],
        sampling: Sampling,
        derive: Callable[[Request], Request] | None = None,
    ) -> Tensor:
        """Which pictures of prompts show the prompt's concept, ``[n]``, on the projections that are in."""
        made = self.maker.make(prompts, seeds, sampling, derive=derive)
        return self.detector.detect(made, [row.concept for row in prompts])

    def erased(self, settings: Settings, epochs: int, data: Mapping[str, Any]) -> ErasureSession:
        """The erasure that ``fit`` gives, without a trainer and on what is loaded already."""
        session, prompts = ErasureSession(self.loaded, method_of(settings)), ConceptData(**data)
        session.concepts = prompts.summary()
        for batch in prompts.batches():
            session.count(batch)
        for _ in range(epochs):
            session.step()
        return session

    def victim(self, session: ErasureSession, maps: Mapping[str, AnyMap] | None, sampling: Sampling) -> Victim:
        """An erasure for attacks.

        Args:
            session: with the erasure.
            maps: of the edit; ``None``: the original model.
            sampling: of the pictures.
        """
        gram, met = (session.gram, None) if maps is None else session.attacked(maps)[TEXT]
        weights = None if maps is None else dict(session.erasure(maps).weights())
        return Victim(
            self.maker, gram=gram, maps=met, weights=weights, detector=self.detector, sampling=sampling
        )  # fmt: skip


def quiet_trainer(epochs: int | None, callbacks: Sequence[Callback] = (), folder: Path | None = None) -> Trainer:
    """A trainer on the CPU that writes and says nothing of its own; without ``epochs`` tuning chooses how many."""
    return Trainer(
        max_epochs=DEFAULT_EPOCHS if epochs is None else epochs, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), default_root_dir=folder,
    )  # fmt: skip


def fitted(
    settings: Settings,
    epochs: int | None,
    data: Mapping[str, Any],
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
    certificate: float | str | None = None,
    pretrained: str = "emoji",
    tune: str | None = None,
) -> ErasureSession:
    """The erasure after ``fit``: what a configuration with these settings gives, tuned where it says so."""
    module = RECE(pretrained, method=method_of(settings), certificate=certificate, tune=tune)
    with redirect_stdout(io.StringIO()):  # what was chosen stands in the tables
        quiet_trainer(epochs, callbacks, folder).fit(module, ConceptData(**data))
    return module.session


# Pages


def write_page(
    folder: Path, name: str, lines: Iterable[str], figure: Figure | None = None, *, dpi: int = 90, vector: bool = False
) -> Path:
    """``NAME.md``, and its plot as ``NAME.png``.

    Args:
        folder: of both.
        name: of both.
        lines: of the page.
        figure: the plot.
        dpi: of the picture.
        vector: also write ``NAME.svg``.
    """
    for kind in [] if figure is None else ["png", "svg"] if vector else ["png"]:
        options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": dpi}
        place = folder / f"{name}.{kind}"
        write_atomically(place, lambda path, k=kind, o=options: figure.savefig(path, format=k, **o))  # type: ignore[union-attr,misc]
    return write_text(folder / f"{name}.md", "\n".join(lines) + "\n")


def machine(device: str = "cpu") -> str:
    """What a timing was measured on."""
    name = f"{torch.get_num_threads()} threads of a CPU with {torch.backends.cpu.get_cpu_capability()}"
    if device != "cpu":
        name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__.split('+')[0]}, {platform.system()}"


@dataclass(frozen=True)
class Section:
    """What was measured for a part of a page of timings."""

    where: str
    lines: list[str]


def fill_sections(
    name: str,
    titles: Mapping[str, str],
    arguments: argparse.Namespace,
    measure: Callable[[str], Section | None],
    heading: Callable[[str], list[str]],
) -> Path:
    """Measure the sections that are asked for, and write the page of these and of those in its JSON from before.

    Args:
        name: of page and JSON, and of the module.
        titles: section → its title, in the order of the page.
        arguments: of :func:`section_parser`.
        measure: gives a section; ``None`` for one that there is not on this device.
        heading: given the command, the page's first lines.
    """
    suffix, flag = ("", "") if arguments.device == "cpu" else (f"_{arguments.device}", f" --device {arguments.device}")
    record = arguments.output / f"{name}{suffix}.json"
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for section in filter(None, arguments.sections.split(",")):
        print(titles[section], flush=True)
        measured = measure(section)
        if measured is not None:
            found[section] = asdict(measured)
            write_text(record, json.dumps(found, indent=1) + "\n")
    lines = heading(f"python -m benchmarks.{name}{flag}")
    for section, title in titles.items():
        if section in found:
            lines += ["", f"## {title}", "", f"On {found[section]['where']}.", "", *found[section]["lines"]]
    return write_page(arguments.output, f"{name}{suffix}", lines)


# The command line


def plain_parser(name: str, doc: str | None, files: str) -> argparse.ArgumentParser:
    """``python -m benchmarks.NAME`` with what every benchmark has: ``--output``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=HERE, help=f"folder of {files}")
    return parser


def table_parser(name: str, doc: str | None, files: str) -> argparse.ArgumentParser:
    """The same for one with a table: ``--page`` and ``--overwrite`` too."""
    parser = plain_parser(name, doc, files)
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--overwrite", action="store_true", help="measure anew what is there")
    return parser


def section_parser(name: str, doc: str | None, titles: Mapping[str, str], repeats: int) -> argparse.ArgumentParser:
    """The same for one whose sections are timed on a device."""
    parser = plain_parser(name, doc, f"{name}.json and {name}.md")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--checkpoint", type=Path, default=Path("full-size-sd1"), help="made where there is none: 2 GB")
    parser.add_argument(
        "--sections", default=",".join(titles), help="those to measure anew; the others stay, and so do all with ''"
    )
    return parser


def check_sections(parser: argparse.ArgumentParser, asked: str, titles: Mapping[str, str]) -> None:
    """End the command for a section that there is not."""
    if unknown := [section for section in asked.split(",") if section and section not in titles]:
        parser.error(f"--sections: there is no {unknown[0]!r}; choose from {', '.join(titles)}")


@contextmanager
def command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, trials: Iterable[str] = ()
) -> Iterator[argparse.Namespace]:
    """The arguments of a command that is quiet, makes its folder, and ends on a mistake with one message.

    Args:
        parser: of the command.
        argv: its words.
        trials: names of options that are for trying: with one of them what was measured must not be written over.
    """
    arguments = parser.parse_args(argv)
    for name in trials:
        if getattr(arguments, name) != parser.get_default(name) and arguments.output.resolve() == HERE.resolve():
            parser.error(f"--{name} is for trying: give --output FOLDER")
    be_quiet()
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        yield arguments
    except ReceError as error:
        fail(str(error))


def command_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: Iterable[str]) -> str:
    """The parser's command with those of the named arguments that differ from their defaults."""
    asked = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name in names
        if (value := getattr(arguments, name)) != parser.get_default(name)
    ]
    return " ".join([parser.prog, *asked])
