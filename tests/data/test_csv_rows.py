"""CSV and text files: no cell is merged, cut or dropped in silence, whoever wrote the file."""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning import ConceptData, ConfigurationError
from rece_lightning.attacks.store import write_table
from rece_lightning.data.concepts import read_preserved
from rece_lightning.data.csv_rows import TableError, rows_of, typed_rows
from rece_lightning.data.prompts import read_prompts
from rece_lightning.data.tables import read_table
from rece_lightning.evaluation.folders import ExistingPictures
from rece_lightning.evaluation.results.tables import reading_rows, write_rows
from rece_lightning.runs.csv_logger import former_rows
from rece_lightning.sweep.table import SweepTable

FIELDS = ("concepts", "preserve", "validation", "test", "predict", "preserve_vocabulary", "synonyms_vocabulary")
TORN = [
    ("an unquoted comma", "prompt,target\naxe,toy\na bomb, lit, on a table\n", ["line 3", "'on a table'", "quotes"]),
    ("an unquoted comma in a file of one column", "prompt\na bomb, lit\n", ["line 2", "'lit'", "double quotes"]),
    ("an unquoted semicolon", "prompt;target\na bomb; lit; it;toy\n", ["line 2", "'it'", "double quotes"]),
    ("a quote that nothing closes", 'prompt,target\naxe,toy\n"bomb,toy\ngun,dog\n', ["line 3", "nothing closes it"]),
    ("a quote alone in a line", 'prompt\na bomb\nan axe\n"\n', ["line 4", "nothing closes it"]),
    ("a quote within quotes", 'prompt\n"a "large" bomb"\n', ["line 2", "twice"]),
    ("a column twice", "prompt,target,prompt\nbomb,toy,axe\n", ["'prompt' twice", "rename one"]),
    ("text under no name", "prompt,target,\nbomb,toy, lit\n", ["line 2", "'lit'", "under no column's name"]),
    ("text under no name, the second column", "prompt,\na bomb, lit\n", ["line 2", "'lit'", "under no column's name"]),
    ("no header", "a bomb\nan axe\n", ["no column 'prompt'", ".txt"]),
]  # fmt: skip


def setting_of(field: str, path: Path) -> dict[str, object]:
    """Arguments of ConceptData with the file in one of them."""
    asked: dict[str, object] = {"concepts": ["sword"], field: str(path)}
    if field == "preserve_vocabulary":
        asked["preserve"] = "auto"
    if field == "synonyms_vocabulary":
        asked["synonyms"] = "auto"
    return asked


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("content", "parts"), [row[1:] for row in TORN], ids=[row[0] for row in TORN])
def test_a_row_that_would_be_merged_or_cut_is_refused(
    tmp_path: Path, field: str, content: str, parts: list[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        ConceptData(**setting_of(field, path))  # type: ignore[arg-type]
    for part in (f"data.{field}", str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ['prompt,target\nbomb,"toy\naxe,dog"\n', 'prompt\n"bomb\naxe"\n'])
def test_lines_that_a_quote_takes_together_are_refused_where_they_are_erased(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    for field in ("concepts", "preserve"):
        with pytest.raises(ConfigurationError, match=r"line 2: .* has several lines; a double quote takes them togeth"):
            ConceptData(**setting_of(field, path))  # type: ignore[arg-type]


def test_captions_of_several_lines_are_read_and_told_of(tmp_path: Path) -> None:
    """COCO's have a line end after them, some of I2P's one within: neither may be refused."""
    path = tmp_path / "captions.csv"
    path.write_bytes(b'prompt,seed\n"two dogs\n",1\n"let it rain,\nlet it pour",2\n"a cat",3\n')
    with pytest.warns(UserWarning, match=r"1 rows have several lines, such as 'let it rain,\\nlet it pour' \(line 4\)"):
        read = read_prompts("data.validation", str(path))
    assert [(row.prompt, row.seed) for row in read] == [
        ("two dogs", 1),
        ("let it rain,\nlet it pour", 2),
        ("a cat", 3),
    ]


READ = [
    ("quoted commas", 'prompt,target\n"a bomb, lit",toy\n'),
    ("a space before the quote", 'prompt, target\n "a bomb, lit", "toy"\n'),
    ("semicolons", "prompt;target\na bomb, lit;toy\n"),
    ("tabs", "prompt\ttarget\na bomb, lit\ttoy\n"),
    ("CR LF", 'prompt,target\r\n"a bomb, lit",toy\r\n'),
    ("CR", 'prompt,target\r"a bomb, lit",toy\r'),
    ("a mark", '\ufeffprompt,target\n"a bomb, lit",toy\n'),
    ("two marks", '\ufeff\ufeffprompt,target\n"a bomb, lit",toy\n'),
    ("blank lines", '\n\nprompt,target\n\n"a bomb, lit",toy\n\n'),
    ("no last line end", 'prompt,target\n"a bomb, lit",toy'),
    ("empty cells beyond the header", 'prompt,target\n"a bomb, lit",toy,,\n'),
    ("columns without names and text", 'prompt,target,,\n"a bomb, lit",toy,,\n'),
    ("pandas' index", ',prompt,target\n0,"a bomb, lit",toy\n'),
    ("cells left out at the end", 'target,prompt,weight\ntoy,"a bomb, lit"\n'),
]


@pytest.mark.parametrize("content", [row[1] for row in READ], ids=[row[0] for row in READ])
def test_every_way_to_write_the_same_row_gives_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "concepts.csv"
    path.write_bytes(content.encode())
    pairs = ConceptData(str(path)).pairs
    assert [(pair.prompt, pair.target) for pair in pairs] == [("a bomb, lit", "toy")]


def test_a_quoted_mark_within_a_text_stays(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text('prompt\n"a ""large"" bomb"\na 5" disk\n')
    assert [row.prompt for row in read_prompts("data.predict", str(path))] == ['a "large" bomb', 'a 5" disk']


def test_a_column_whose_name_is_nearly_read_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text("prompt,wieght\nbomb,2\n")
    with pytest.warns(UserWarning, match=r"column 'wieght' is not read; if it is 'weight', call it so"):
        ConceptData(str(path))
    path.write_text("prompt,Seed,categories\nbomb,2,violence\n")
    with pytest.warns(UserWarning, match=r"column 'Seed' is not read; if it is 'seed'") as caught:
        read_prompts("data.test", str(path))
    assert len(caught) == 1


cells = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
wild = st.text('a ,;\t"\n\r\x00\ufeff\u2028', max_size=8)
tables = st.lists(st.tuples(cells | wild, cells | wild, cells | wild), min_size=1, max_size=5)


@given(rows=tables)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    """Whatever the texts hold, in the tables of runs and in those of attacks."""
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    columns = ["prompt", "concept", "note"]
    write_rows(path, columns, rows)
    with reading_rows(path) as found:
        assert [tuple(row.values()) for row in found] == rows
    write_table(path, columns, [dict(zip(columns, row, strict=True)) for row in rows])
    with path.open(encoding="utf-8", newline="") as stream:
        assert [tuple(row.values()) for _, row in rows_of(stream)] == rows


@given(rows=tables, delimiter=st.sampled_from(",;\t"), ending=st.sampled_from(["\n", "\r\n"]))
def test_what_a_spreadsheet_writes_is_read(rows: list[tuple[str, ...]], delimiter: str, ending: str) -> None:
    """Up to the spaces around a text."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "target", "note"), *rows])
    read = [tuple(row.values()) for _, row in typed_rows(io.StringIO(stream.getvalue(), newline=""), "prompt")]
    assert read == [("prompt", "target", "note"), *(tuple(cell.strip() for cell in row) for row in rows)]


@given(text=wild | st.text('ab,"\n', max_size=30))
def test_no_text_of_a_table_is_lost(text: str) -> None:
    """Whatever stands in a file is read, or the file is refused: every letter of it is in some cell."""
    content = "prompt,target\n" + text
    try:
        rows = [row for _, row in typed_rows(io.StringIO(content, newline=""), "prompt")]
    except TableError:
        return
    letters = re.findall("[ab]", text)
    assert re.findall("[ab]", "".join("".join(row.values()) for row in rows[1:])) == letters


@pytest.mark.parametrize("content", ["epoch,loss\n0,1,2\n", "epoch,loss\n0\n", 'epoch,loss\n0,"1\n'])
def test_a_damaged_table_of_a_run_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"metrics.csv is damaged .*line 2.*move it away"):
        former_rows(path, 3)
    with pytest.raises(ConfigurationError, match=r"damaged .*line 2"), reading_rows(path) as rows:
        list(rows)
    with pytest.raises(ConfigurationError, match=r"--output: .*damaged .*line 2"):
        SweepTable(path)


def test_a_number_of_pictures_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "7_0.png").write_bytes(b"")
    (tmp_path / "made_for.csv").write_text("case_number,prompt\n[7],a dog\n")
    with pytest.raises(ConfigurationError, match=r"has no \[7\]_0\.png"):
        ExistingPictures(str(tmp_path), str(tmp_path / "made_for.csv"))


# Text files


@pytest.mark.parametrize("content", ["bomb\naxe, large\n", "\ufeffbomb\r\n\r\n  axe, large  \r\n", "bomb\raxe, large"])
def test_a_text_file_is_a_prompt_a_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.TXT"
    path.write_bytes(content.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ConceptData(str(path), validation=str(path), predict=str(path), preserve=["rocket"])
        assert read_preserved(str(path)) == ["bomb", "axe, large"]
    assert [pair.prompt for pair in data.pairs] == ["bomb", "axe, large"]
    assert [row.prompt for row in data.validation] == [row.prompt for row in data.predict] == ["bomb", "axe, large"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["holds no prompt", "one a line"]),
        (b" \n\n", ["holds no prompt", "one a line"]),
        ("café\n".encode("latin-1"), ["not UTF-8", "save it as UTF-8"]),
        ("bomb\n".encode("utf-16"), ["not UTF-8", "save it as UTF-8"]),
        (b"prompt,target\nbomb,toy\n", ["line 1", "header of a CSV", ".csv"]),
        (None, ["No such file", "list of prompts"]),
    ],
)
def test_a_text_file_that_cannot_be_read(tmp_path: Path, field: str, content: bytes | None, parts: list[str]) -> None:
    path = tmp_path / "artists.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        ConceptData(**setting_of(field, path))  # type: ignore[arg-type]
    for part in (f"data.{field}", str(path), *parts):
        assert part in str(caught.value)


def test_a_row_of_a_text_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "artists.txt"
    path.write_text("Monet\n\nRembrandt\n")
    with pytest.raises(ConfigurationError, match=r"line 3 of .*artists\.txt"):
        ConceptData(str(path), preserve=["Rembrandt"])
    assert [row["prompt"] for row in read_table("x", _csv(tmp_path))] == ["Monet"]


def _csv(folder: Path) -> Path:
    path = folder / "one.csv"
    path.write_text("prompt\nMonet\n")
    return path
