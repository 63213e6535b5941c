"""The documents are true: their links lead somewhere, their Python runs, their commands, keys and flags exist."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningModule

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md") for path in REPOSITORY.glob(pattern))
README = REPOSITORY / "README.md"
LONGEST_README = 200

LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|<(?:a|img)\b[^>]*?(?:href|src)=\"([^\"]+)\"")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\w*)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
COMMENT = re.compile(r"^\s*<!--\s*(not run|file):\s*(.*?)\s*-->\s*$")
FOREIGN = re.compile(r"^(https?|mailto):")
COMMANDS = ("rece", "make", "python", "tensorboard")
OF_EVERY_VERB = {"config", "ckpt_path", "print_config", "help", "protocol", "images", "prompts", "attacks", "overwrite"}
"""Flags of the verbs that have a trainer, beside the keys of a configuration."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str
    line: int
    """Of its first line in the document, from 1."""
    said: tuple[str, str] | None
    """``not run`` with the reason, or ``file`` with its name, from the comment on the line before."""


@dataclass(frozen=True)
class Document:
    """A Markdown file taken apart."""

    path: Path
    prose: str
    """Without its blocks."""
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @property
    def anchors(self) -> set[str]:
        """What ``#…`` may name: the headings, as GitHub writes them."""
        seen: dict[str, int] = {}
        anchors = set()
        for line in self.prose.splitlines():
            heading = HEADING.match(line)
            if heading is None:
                continue
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).strip().lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            anchors.add(f"{anchor}-{seen[anchor]}" if anchor in seen else anchor)
            seen[anchor] = seen.get(anchor, 0) + 1
        return anchors

    @property
    def links(self) -> Iterator[str]:
        """Targets of its links and pictures."""
        for match in LINK.finditer(CODE.sub("code", self.prose)):
            yield match.group(1) or match.group(2)

    @property
    def commands(self) -> Iterator[list[str]]:
        """Words of every command line that it shows, in blocks and between backticks."""
        for block in self.blocks:
            if block.language == "bash":
                yield from (shlex.split(line, comments=True) for line in block.text.splitlines() if line.strip())
        for match in CODE.finditer(self.prose):
            words = match.group(2).split()
            if len(words) > 1 and words[0] in COMMANDS and "…" not in match.group(2):
                yield shlex.split(" ".join(words))


@functools.cache
def read(path: Path) -> Document:
    """Take a Markdown file apart."""
    prose: list[str] = []
    blocks: list[Block] = []
    content: list[str] = []
    fence = language = ""
    said, begun = None, 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = FENCE.match(line)
        if not fence and mark is not None:
            fence, language, begun = mark.group(1), mark.group(2), number + 1
            comment = COMMENT.match(prose[-1]) if prose else None
            said, content = (comment.group(1), comment.group(2)) if comment else None, []
        elif fence and line.strip() == fence:
            blocks.append(Block(language, textwrap.dedent("\n".join(content)) + "\n", begun, said))
            fence = ""
        else:
            (content if fence else prose).append(line)
    assert not fence, f"{path.name}: the block of line {begun - 1} does not end"
    return Document(path, "\n".join(prose), tuple(blocks))


def named(paths: Iterable[Path]) -> dict[str, Any]:
    """Arguments of ``parametrize`` that show a document's name."""
    listed = list(paths)
    return {"argvalues": listed, "ids": [path.relative_to(REPOSITORY).as_posix() for path in listed]}


# Links


@pytest.mark.parametrize("path", **named(DOCUMENTS))
def test_every_link_leads_somewhere(path: Path) -> None:
    document, wrong = read(path), []
    for link in document.links:
        if FOREIGN.match(link):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or not target.is_relative_to(REPOSITORY):
            wrong.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in read(target).anchors:
            wrong.append(f"{link}: no such heading; {', '.join(sorted(read(target).anchors))}")
    assert not wrong, "\n".join([document.name, *wrong])


@pytest.mark.parametrize("path", **named(DOCUMENTS))
def test_every_file_that_is_named_exists(path: Path) -> None:
    """``core/gram.py`` is meant within the package, ``tests/test_docs.py`` within the repository."""
    names = set(re.findall(r"`((?:[\w.]+/)+\w+\.py)\b", path.read_text(encoding="utf-8")))
    homes = (REPOSITORY, REPOSITORY / "rece_lightning", path.parent)
    assert [name for name in sorted(names) if not any((home / name).exists() for home in homes)] == []


def test_the_readme_is_short_and_leads_to_every_document() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST_README
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in read(README).links}
    documents = {path for path in DOCUMENTS if path.parent in (REPOSITORY, REPOSITORY / "docs")}
    assert documents - linked - {README} == set()


# Python


def with_python() -> list[Path]:
    """The README and the pages of ``docs/`` that show Python."""
    paths = [path for path in DOCUMENTS if path == README or path.parent == REPOSITORY / "docs"]
    return [path for path in paths if any(block.language == "python" for block in read(path).blocks)]


@pytest.mark.parametrize("path", **named(with_python()))
def test_every_python_block_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document's blocks in their order, in one namespace and an empty folder."""
    namespace = ModuleType(f"blocks_of_{path.stem.lower().replace('-', '_')}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, namespace.__name__, namespace)
    modules = []
    try:
        for block in read(path).blocks:
            if block.language != "python":
                continue
            kind, value = block.said or ("", "")
            assert value or not kind, f"{path.name}, line {block.line}: {kind}: of nothing"
            if kind == "file":
                (tmp_path / value).write_text(block.text, encoding="utf-8")
                importlib.invalidate_caches()
                modules.append(Path(value).stem)
            elif not kind:
                # So many empty lines that a traceback names the document's own.
                exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), namespace.__dict__)
    finally:
        for name in modules:
            sys.modules.pop(name, None)


# Commands


@pytest.mark.parametrize("path", **named(DOCUMENTS))
def test_every_command_exists(path: Path) -> None:
    faults = [f"{shlex.join(words)}: {fault}" for words in read(path).commands if (fault := fault_of(words))]
    assert not faults, "\n".join([read(path).name, *faults])


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command line; ``None`` for one that exists."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):(?!=)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return None if rest[0] in targets else f"no target {rest[0]}"
    if program == "python" and rest[0] == "-m":
        return None if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    if program == "python":
        return None if (REPOSITORY / rest[0]).is_file() else f"no file {rest[0]}"
    if program == "tensorboard":
        return None if importlib.util.find_spec(program) else "not installed"
    return rece_fault(rest) if program == "rece" else f"no command of this project, {', '.join(COMMANDS)}"


def rece_fault(words: list[str]) -> str | None:
    """The same of the project's own command: its verb, and every flag with its value."""
    from rece_lightning.attacks import LADDER
    from rece_lightning.cli.verbs import TOOLS, VERBS, is_statement, shipped_configs
    from rece_lightning.exports import FORMATS

    verb = words[0]
    if verb not in {**VERBS, **TOOLS}:
        return None if verb == "--help" else f"no verb {verb}"
    listed = help_of(verb, is_statement(words)) if verb in TOOLS or is_statement(words) else ""
    protocols = {path.stem for path in (REPOSITORY / "configs" / "protocols").glob("*.yaml")}
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        flag, _, value = word[2:].partition("=")
        value = value or (words[place + 1] if place + 1 < len(words) else "")
        known = re.search(rf"^\s+(-\w, )?--{re.escape(flag)}\b", listed, re.MULTILINE) is not None
        if not known and (listed == "" or verb == "sweep"):
            known = flag in OF_EVERY_VERB or is_key(flag)
        if not known:
            return f"no flag --{flag} of {verb}"
        plain_name = value.endswith(".yaml") and "/" not in value
        if flag == "config" and plain_name and value not in shipped_configs():
            return f"no shipped configuration {value}"
        if flag == "grid" and not is_key(value.partition("=")[0]):
            return f"no key {value.partition('=')[0]}"
        for names, of_flag in ((protocols, "protocol"), (set(LADDER), "attacks"), (set(FORMATS), "format")):
            unknown = set(value.split(",")) - names if flag == of_flag and value.islower() else set()
            if unknown:
                return f"no {of_flag} {', '.join(sorted(unknown))}"
    return None


@functools.cache
def help_of(verb: str, statement: bool) -> str:
    """What a verb without a trainer says of its flags."""
    asked = [verb, "--certificate", "--help"] if statement else [verb, "--help"]
    command = [sys.executable, "-m", "rece_lightning", *asked]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


# Keys of configurations


def test_every_yaml_block_has_keys_that_exist() -> None:
    wrong = []
    for document in map(read, DOCUMENTS):
        for block in document.blocks:
            if block.language == "yaml":
                content = yaml.safe_load(block.text)
                wrong += [f"{document.name}, line {block.line}: {key}" for key in keys_of(content) if not is_key(key)]
                wrong += [f"{document.name}, line {block.line}: {fault}" for fault in class_faults(content)]
    assert not wrong, "\n".join(wrong)


def keys_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a configuration, as far as mappings go; classes with their arguments are looked at elsewhere."""
    for key, value in content.items():
        if isinstance(value, Mapping) and "class_path" not in value:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def is_key(key: str) -> bool:
    """Whether a configuration has a key, such as ``model.method.editor.lamb``."""
    from lightning.pytorch import Trainer

    from rece_lightning import RECE, ConceptData, Method
    from rece_lightning.core import Derivation, Robust

    section, *steps = key.split(".")
    if section == "model" and (not steps or any(steps[0] in inspect.signature(kind).parameters for kind in trained())):
        return True  # a class of model, looked at elsewhere, or a setting of one that is trained
    owner = {"model": RECE, "data": ConceptData, "trainer": Trainer}.get(section)
    if owner is None or not steps or steps[0] not in inspect.signature(owner.__init__).parameters:
        return False
    if steps[0] != "method":
        return len(steps) == 1 or section == "trainer"
    known: Any = Method
    for place, step in enumerate(steps[1:], 1):
        if step not in {one.name for one in fields(known)}:
            return False
        if step in ("editor", "first_editor"):
            return len(steps) == place + 1 or steps[place + 1] in arguments_of_editors()
        known = {"derivation": Derivation, "robust": Robust}.get(step, known)
    return True


def trained() -> list[Any]:
    """The baselines that are trained."""
    from rece_lightning import baselines

    kinds = [getattr(baselines, name) for name in baselines.__all__]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, LightningModule)]


def arguments_of_editors() -> set[str]:
    """Settings of the project's editors."""
    return {one.name for kind in editors() for one in fields(kind)}


def editors() -> list[Any]:
    """The project's editors."""
    from rece_lightning.core import editors as room

    return [kind for name in room.__all__ if hasattr(kind := getattr(room, name), "plain") and name != "Editor"]


def class_faults(content: Any) -> Iterator[str]:
    """Class paths of the project or of Lightning that lead nowhere, and arguments that they do not take."""
    if isinstance(content, list):
        for value in content:
            yield from class_faults(value)
    if not isinstance(content, Mapping):
        return
    for value in content.values():
        yield from class_faults(value)
    path = content.get("class_path")
    if path is None or path.startswith("my_"):
        return
    kind = class_of(path)
    if kind is None:
        yield f"there is no {path}"
        return
    known = inspect.signature(kind.__init__).parameters
    for argument in content.get("init_args", {}):
        if argument not in known:
            yield f"{path} takes no {argument}"


def class_of(path: str) -> Any:
    """A class by its path, or by its short name where it is the project's; ``None`` where there is none."""
    home, _, name = path.rpartition(".")
    rooms = [
        "rece_lightning.callbacks",
        "rece_lightning.baselines",
        "rece_lightning.core.editors",
        "lightning.pytorch.callbacks",
    ]
    homes = [home] if home else rooms
    return next((kind for one in homes if (kind := getattr(importlib.import_module(one), name, None))), None)


# What must be documented


def test_every_setting_is_documented() -> None:
    from rece_lightning import RECE, ConceptData, Method
    from rece_lightning.core import Derivation, Robust

    text = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    names = {one.name for kind in (Method, Derivation, Robust, *editors()) for one in fields(kind)}
    names |= {name for kind in (RECE, ConceptData) for name in inspect.signature(kind.__init__).parameters} - {"self"}
    names |= {kind.__name__ for kind in editors()}
    assert {name for name in names if not re.search(rf"[`.]{name}[`.]", text)} == set()


def test_every_logged_figure_is_documented(tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from rece_lightning import RECE, ConceptData

    module, data = RECE(certificate=1.0, tune="off"), ConceptData(concepts=["bomb"], preserve=[" ", "dog"])
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, data)
    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    ends = {name: name[name.find("_at_") :] if "_at_" in name else name for name in trainer.callback_metrics}
    assert "certificate" in ends
    assert {name for name, end in ends.items() if f"`{name}`" not in text and f"`{end}`" not in text} == set()
