"""The ladder of attacks on the report: it says what the table says, and shows the pictures that got through."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import Cce, Derived
from rece_lightning.attacks.outcome import Rung, figures_of, over_control, together, write_rungs
from rece_lightning.callbacks import Evaluation, RedTeam, Report
from rece_lightning.callbacks.terminal import ladder_table
from rece_lightning.core import Derivation
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.results.sheets import save_sheet, sheet_path
from rece_lightning.metrics import Difference, EmojiDetector, Share
from rece_lightning.reporting.ladder import Ladder, ladder_findings, read_ladder, tiles_to_show
from rece_lightning.reporting.ladder_section import curves_of, curves_svg, ladder_section, ladder_svg
from rece_lightning.reporting.templates import render

EMBEDDINGS = "weights, embedding input, pictures"


def rung(attack: str, concept: str, edited: int, variant: str = "", control: bool = False, has: str = "") -> Rung:
    """Of four pictures of two prompts; the original model shows the concept in all."""
    before, after = (Share.of([True] * hits + [False] * (4 - hits), [0, 0, 1, 1]) for hits in (4, edited))
    broken = Share((edited + 1) // 2, 2)
    return Rung(attack, concept, variant, control, has, before, after, Share(2, 2), broken, 1234, 5.25)


RUNGS = [
    rung("no attack", "bomb", 0, has="the concept's prompt"),
    rung("no attack", "axe", 1, has="the concept's prompt"),
    rung("mma", "bomb", 1, has="text encoder"),
    rung("mma", "axe", 2, has="text encoder"),
    *(rung("cce", "bomb", hits, f"steps={steps}", has=EMBEDDINGS) for steps, hits in ((0, 0), (40, 4))),
    *(rung("cce", "bomb", hits, f"steps={steps} tokens=2", has=EMBEDDINGS) for steps, hits in ((0, 0), (40, 1))),
    *(rung("cce", "owl", hits, f"steps={steps}", True, EMBEDDINGS) for steps, hits in ((0, 0), (40, 3))),
    *(rung("cce", "owl", hits, f"steps={steps} tokens=2", True, EMBEDDINGS) for steps, hits in ((0, 0), (40, 0))),
]


def written(folder: Path, rungs: list[Rung]) -> Ladder:
    path = write_rungs([*rungs, *together(rungs)], folder / "red_team.csv", {"detector": "emoji-top1", "sampling": "s"})
    ladder = read_ladder(path)
    assert ladder is not None
    return ladder


def shade(place: int) -> float:
    """Grey of the picture that got through as number ``place``."""
    return place / 20


def sheet(folder: Path, rungs: list[Rung]) -> Path:
    """As RedTeam writes it: what got through of every attack, one behind the other."""
    count = sum(one.edited.hits for one in rungs if one.attack != "no attack")
    pictures = torch.stack([torch.full((3, 32, 32), shade(place)) for place in range(count)])
    return save_sheet(pictures, sheet_path(folder, "red_team"))


def test_table_is_read_back_as_it_was_measured(tmp_path: Path) -> None:
    ladder = written(tmp_path, RUNGS)
    for row, own in zip((*ladder.concepts, *ladder.whole), (*RUNGS, *together(RUNGS)), strict=True):
        assert (row.title, row.concept, row.control, row.has) == (own.title, own.concept, own.control, own.has)
        assert (row.queries, row.seconds) == (own.queries, own.seconds)
        for read, share in ((row.original, own.original), (row.edited, own.edited), (row.prompts, own.edited_prompts)):
            assert str(read) == str(share)
            assert read.interval == pytest.approx(share.interval, abs=1e-4)
    assert ladder.detector == "emoji-top1"


def test_an_original_model_that_was_not_drawn_is_no_zero(tmp_path: Path) -> None:
    empty = Share(0, 0)
    one = Rung("mma", "bomb", "", False, "text encoder", empty, Share(1, 2), empty, Share(1, 2), 1, 1.0)
    ladder = written(tmp_path, [one])
    assert str(ladder.whole[0].original) == "–"
    assert "original model" not in " ".join(ladder_findings(ladder))
    assert "nan" not in ladder_svg(ladder)


def test_sentences_name_the_strongest_and_set_it_beside_its_control(tmp_path: Path) -> None:
    says = ladder_findings(written(tmp_path, RUNGS))
    assert "strongest prompt attack is mma" in says[0]
    assert str(Share(3, 8, ((1, 2), (0, 2), (2, 2), (0, 2)))) in says[0]
    assert "strongest embedding attack is cce steps=40" in says[1]
    assert "not clearly more than" in says[2]
    assert "a difference of " in says[2]
    many = [
        rung("cce", f"{role}{number}", hits, "steps=40", role == "owl", EMBEDDINGS)
        for role, hits in (("bomb", 4), ("owl", 0))
        for number in range(8)
    ]
    assert "something was left to find" in ladder_findings(written(tmp_path, many))[-1]
    found = written(tmp_path, many)
    attack = next(row for row in found.whole if not row.control)
    above = found.over_control(attack)
    control = next(row for row in found.whole if row.control)
    assert above is not None
    assert above.value == pytest.approx(attack.edited.rate - control.edited.rate)
    assert above.interval[0] > 0
    assert found.over_control(control) is None
    assert over_control(together(many), together(many)[0]) == Difference.of(
        together(many)[0].edited, together(many)[1].edited
    )
    assert figures_of(many)["attack_above_control/cce_steps_40"] == pytest.approx(above.value)
    assert "points above its control" in {str(column.header) for column in ladder_table(many, "").columns}
    assert "points above its control" not in {str(column.header) for column in ladder_table(many[:8], "").columns}
    nothing = ladder_findings(written(tmp_path, [rung("mma", "bomb", 0, has="text encoder")]))
    assert nothing[0].startswith("No picture got through under a prompt attack: mma 0 %")
    # A noise to begin with goes into no prompt box.
    noises = [
        rung("inverted", "bomb", hits, f"noise={noise} text=none", has="weights, starting noise, pictures")
        for noise, hits in (("inverted", 4), ("alike", 1))
    ]
    beside = ladder_findings(written(tmp_path, [*RUNGS, *noises]))
    assert beside[:2] == says[:2]
    assert "strongest noise attack is inverted noise=inverted text=none" in beside[2]


def test_curves_hold_attack_and_control_side_by_side_for_each_number_of_free_positions(tmp_path: Path) -> None:
    ladder = written(tmp_path, RUNGS)
    curves = curves_of(ladder)
    found = {(curve.setting, curve.control): [(x, share.hits) for x, share in curve.points] for curve in curves}
    assert found == {
        ("all positions free", False): [(0, 0), (40, 4)],
        ("2 free positions", False): [(0, 0), (40, 1)],
        ("all positions free", True): [(0, 0), (40, 3)],
        ("2 free positions", True): [(0, 0), (40, 0)],
    }
    page = curves_svg(curves)
    assert "cce (control, 2 free positions): 0 %" in page
    only = [one for one in RUNGS if one.attack != "cce"]
    assert curves_svg(curves_of(written(tmp_path, only))) == ""


def test_every_picture_on_the_page_is_of_the_attack_and_concept_that_it_is_named_by(tmp_path: Path) -> None:
    ladder = written(tmp_path, RUNGS)
    # mma: bomb 0, axe 1 and 2; cce steps=40: 3 to 6; with two tokens: 7; the control: 8 to 10.
    shown = tiles_to_show(ladder.concepts, 2)
    assert [(title, [(tile, row.concept) for tile, row in rows]) for title, rows in shown.items()] == [
        ("mma", [(0, "bomb"), (1, "axe")]),
        ("cce steps=40", [(3, "bomb"), (4, "bomb")]),
        ("cce steps=40 tokens=2", [(7, "bomb")]),
        ("cce steps=40 (control)", [(8, "owl"), (9, "owl")]),
    ]  # fmt: skip
    section = ladder_section(ladder, sheet(tmp_path, RUNGS))
    greys = {row["title"]: [grey(picture["tile"]) for picture in row["pictures"]] for row in section["gallery"]}
    assert greys["mma"] == pytest.approx([shade(0), shade(1), shade(2)], abs=0.02)
    assert greys["cce steps=40 tokens=2"] == pytest.approx([shade(7)], abs=0.02)
    assert "owl, which the model never knew" in section["gallery"][-1]["pictures"][0]["alt"]


def grey(tile: str) -> float:
    """Mean of a ``data:`` picture."""
    with Image.open(io.BytesIO(base64.b64decode(tile.partition(",")[2]))) as picture:
        pixels = torch.frombuffer(bytearray(picture.convert("L").tobytes()), dtype=torch.uint8)
    return float(pixels.float().mean()) / 255


def test_section_is_whole_without_network_and_can_be_read_without_eyes(tmp_path: Path) -> None:
    section = ladder_section(written(tmp_path, RUNGS), sheet(tmp_path, RUNGS))
    page = render("ladder.j2", ladder=section)
    assert not re.search(r"(src|href)=.?https?://", page)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 11
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    figures = re.findall(r"<svg [^>]*>", page)
    assert len(figures) == 2
    assert all('role="img"' in figure and "aria-label=" in figure for figure in figures)
    assert "strongest prompt attack is mma" in figures[0]
    regions = re.findall(r'<div class="wide" role="region" tabindex="0" aria-label="([^"]+)">', page)
    assert len(regions) == len(set(regions)) == 5
    for row in section["rows"]:
        assert f'<th scope="row">{row.title}' in page
        assert str(row.edited) in page
    assert "1,234" in page


def test_a_run_without_attacks_has_no_section_and_a_damaged_table_is_refused(tmp_path: Path) -> None:
    assert read_ladder(tmp_path / "red_team.csv") is None
    (tmp_path / "red_team.csv").write_text("attack,variant\nmma,\n")
    with pytest.raises(ConfigurationError, match=r"red_team.csv is damaged"):
        read_ladder(tmp_path / "red_team.csv")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page of every verb: ``test`` goes on with what ``fit`` edited, ``validate`` measures the original model."""
    edited, found = RECE(pretrained="emoji", method=Method(derivation=Derivation(1e-3))), {}
    for verb in ("fit", "test", "validate"):
        module = edited if verb != "validate" else RECE(pretrained="emoji", tune="off")
        folder = tmp_path_factory.mktemp(verb)
        callbacks = [Evaluation(EmojiDetector(), pictures_per_prompt=1, steps=2, attack=False), Report()]
        if verb != "validate":
            attacks = [Derived(ratios=[0.5]), Cce(steps=1, tokens=1, pictures=1, batch_size=1)]
            callbacks.insert(1, RedTeam(attacks=attacks, pictures_per_prompt=1, original=False))  # type: ignore[arg-type]
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            callbacks=callbacks,
            logger=CSVLogger(folder, name="", version=0),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        data = ConceptData(concepts=["bomb"], preserve=[" ", "dog"], validation=["bomb"], test=["bomb"])
        getattr(trainer, verb)(module, data)
        found[verb] = (folder / "version_0" / "report.html").read_text(encoding="utf-8")
    return found


def test_fit_test_and_validate_each_write_a_page(pages: dict[str, str]) -> None:
    for verb in ("fit", "test"):
        assert "What attacks bring back" in pages[verb]
        assert "derived ratio=0.5" in pages[verb]
        assert "cce steps=1 tokens=1 (control)" in pages[verb]
        assert "The epochs" in pages[verb]
    assert "What attacks bring back" not in pages["validate"]
    # Nothing was edited yet: no epochs, and no share of parameters.
    assert "The epochs" not in pages["validate"]
    assert "parameters were edited" not in pages["validate"]
    assert "measured by <code>rece validate</code>" in pages["validate"]
    assert "measured by <code>rece test</code>" in pages["test"]
    # Without the original model's pictures nothing is before or after.
    assert "before and after" in pages["fit"]
    assert "before" not in pages["validate"].split("<main>")[1]
    assert 'alt="The measured model. Concepts detected in its pictures: erased: ' in pages["validate"]
    for page in pages.values():
        assert "Detections" in page
        # What counts comes first, and every entry of the table of contents leads somewhere.
        places = [page.index(part) for part in ('class="headline"', "<nav", 'id="concepts"', 'id="detections"')]
        assert places == sorted(places)
        for target in re.findall(r'href="#(\w+)"', page):
            assert f'id="{target}"' in page
        assert not re.search(r"(src|href)=.?https?://", page)
    assert pages["fit"].index('id="concepts"') < pages["fit"].index('<img class="grid"')
