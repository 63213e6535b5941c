"""The editor ``NullSpace`` in runs: what is held, checkpoints, exports, the sweep, certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from rece_lightning import RECE, ConceptData, ConfigurationError, EmbeddingMap, Method
from rece_lightning.cli.grid import parse_grid, settings_of
from rece_lightning.core import UCE, Derivation, NullSpace, Projection, TensorUCE
from rece_lightning.erasure.certificates import certificates
from rece_lightning.erasure.encoding import with_invariants
from rece_lightning.erasure.transfer import transfer
from rece_lightning.exports import export
from rece_lightning.sweep.grid import Setting
from rece_lightning.sweep.ranking import Figures, Ranking
from tests.helpers.command import run_command, write_config
from tests.helpers.models import make_checkpoint

DATA: dict[str, Any] = {"concepts": ["bomb", "axe"], "preserve": ["dog", "key"]}
METHOD = Method(editor=NullSpace(threshold=1e-3), derivation=Derivation(0.01))


def fit(pretrained: Path, folder: Path, epochs: int = 3, resume: Path | None = None, **settings: Any) -> RECE:
    module = RECE(str(pretrained), method=replace(METHOD, **settings))
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(**DATA), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "saved.ckpt")
    return module


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that 16 rows of the empty prompt and 32 of what is preserved leave something."""
    return make_checkpoint(tmp_path_factory.mktemp("model") / "wide", width=64, seed=11)


@pytest.fixture(scope="module")
def run(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RECE, Path]:
    folder = tmp_path_factory.mktemp("run")
    return fit(wide_model, folder), folder / "saved.ckpt"


def test_empty_prompt_and_begin_of_text_stay_exactly_and_preserved_prompts_nearly(run: tuple[RECE, Path]) -> None:
    """Though neither is in the preserve list; UCE's edit moves them."""
    module = run[0]
    encoded = module.session.encoder.encode(["", "rocket", "dog", "bomb"]).embeddings.double()
    change = module.maps["text"].change
    moved = torch.linalg.norm(encoded @ change.mT, dim=-1) / torch.linalg.norm(encoded, dim=-1)
    rows = module.session.statistics.first.invariants
    assert rows is not None
    assert float(torch.linalg.norm(rows.double() @ change.mT)) < 1e-9 * float(torch.linalg.norm(rows))
    # Beside other prompts a network may round the same rows otherwise, in their last digits of float32.
    assert float(moved[0].max()) < 1e-5
    assert float(moved[1, 0]) < 1e-5  # the begin of any text
    assert float(moved[2].max()) < 0.2 * float(moved[3].max())
    uce = fit_uce(module)
    assert float(torch.linalg.norm(encoded[0] @ uce.maps["text"].change.mT)) > 1e-3


def fit_uce(module: RECE) -> RECE:
    other = RECE(module.hparams["pretrained"], method=Method(derivation=Derivation(0.01)))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(other, ConceptData(**DATA))
    return other


def test_the_objective_is_logged_and_falls(run: tuple[RECE, Path]) -> None:
    for row in run[0].history:
        assert row["objective_after"] < row["objective_before"]


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_resumed_run_ends_with_the_same_bits(wide_model: Path, tmp_path: Path, accumulate: bool) -> None:
    whole = fit(wide_model, tmp_path / "whole", accumulate=accumulate)
    fit(wide_model, tmp_path / "part", epochs=2, accumulate=accumulate)
    resumed = fit(wide_model, tmp_path / "rest", resume=tmp_path / "part" / "saved.ckpt", accumulate=accumulate)
    assert torch.equal(resumed.maps["text"].of_layer(0), whole.maps["text"].of_layer(0))
    assert len(resumed.history) == 3


def test_an_encoder_that_is_let_go_is_not_loaded_again(
    wide_model: Path, run: tuple[RECE, Path], tmp_path: Path
) -> None:
    class LetGo(RECE):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            self.keeps_encoder = False

    module = LetGo(str(wide_model), method=METHOD)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(**DATA))
    assert module.session.loaded._encoder is None
    assert torch.equal(module.maps["text"].of_layer(0), run[0].maps["text"].of_layer(0))


def test_a_checkpoint_holds_the_rows_and_is_refused_under_other_settings(
    run: tuple[RECE, Path], tmp_path: Path
) -> None:
    module, checkpoint = run
    content = torch.load(checkpoint, weights_only=True)
    stored = content["rece"]["statistics"]["spaces"]["text"]
    torch.testing.assert_close(stored["invariants"], module.session.encoder.encode([""]).embeddings[0])
    loaded = RECE.load_from_checkpoint(checkpoint, weights_only=True)
    assert torch.equal(loaded.maps["text"].of_layer(0), module.maps["text"].of_layer(0))
    assert loaded.session.loaded._encoder is None
    for named, editor in (
        ("threshold", NullSpace(threshold=0.5)),
        ("augmented_rank", NullSpace(threshold=1e-3, augmented_rank=0)),
        ("", UCE()),
    ):
        changed = rf"settings \([^)]*model\.method\.editor{'.' if named else ''}{named}: .* → "
        with pytest.raises(ConfigurationError, match=changed):
            RECE.load_from_checkpoint(checkpoint, weights_only=True, method=replace(METHOD, editor=editor))
    stored["invariants"] = torch.zeros(4, 3)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(ConfigurationError, match=r"text\.invariants is \[4, 3\], not \[4, 64\]; give a checkpoint"):
        RECE.load_from_checkpoint(tmp_path / "damaged.ckpt", weights_only=True)


def test_without_such_rows_the_evidence_stays(run: tuple[RECE, Path]) -> None:
    evidence = run[0].session.erasers.first.evidence
    assert evidence.invariants is not None
    assert with_invariants(evidence, None, "cpu") is evidence


def test_exports_are_the_edited_weights(run: tuple[RECE, Path], tmp_path: Path) -> None:
    module = run[0]
    erasure, expected = module.erasure(), dict(module.erasure().weights())
    for name, weight in load_file(export(erasure, "delta", tmp_path / "delta.safetensors").path).items():
        assert torch.equal(weight, expected[name])
    pipeline = module.pipeline()
    plain = RECE(module.hparams["pretrained"], tune="off").base
    adapters = load_file(export(erasure, "kohya", tmp_path / "kohya.safetensors").path)
    assert adapters
    lora = load_file(next(path for path in files(export(erasure, "lora", tmp_path / "lora").path)))
    mapped = EmbeddingMap.load(export(erasure, "map", tmp_path / "map.safetensors").path)
    rows = torch.randn(5, erasure.text.gram.width, generator=torch.Generator().manual_seed(0))
    for name, weight in plain.read_projections():
        layer = name.removesuffix(".weight")
        down, up = (lora[f"unet.{layer}.lora_{part}.weight"] for part in ("A", "B"))
        torch.testing.assert_close(weight + up @ down, expected[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mapped(rows) @ weight.mT, rows @ expected[name].mT, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pipeline.unet.get_parameter(name).data, expected[name])


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.safetensors"))


def test_certificates_lie_below_what_an_attack_reaches(run: tuple[RECE, Path]) -> None:
    session = run[0].session
    for row in certificates(session.erasure(), session.erased_prompts, session.pairs, (0.5, 1.0)):
        for budget, reached in row.residuals.items():
            assert 0 <= row.bounds[budget] <= reached
            assert row.bounds[None] <= row.bounds[budget] * (1 + 1e-9) or row.holds_to < budget


def test_the_erasure_moves_to_another_model_of_the_same_text_encoder(run: tuple[RECE, Path]) -> None:
    """Applied to the model it was made from it is itself, and the rows are encoded anew."""
    content = torch.load(run[1], weights_only=True)
    moved = transfer(content, (run[0].hparams["pretrained"], None, None, None), reuse_map=False)
    torch.testing.assert_close(moved.erasure.maps["text"].of_layer(0), run[0].maps["text"].of_layer(0))


# The sweep


def test_a_sweep_varies_what_the_editor_reads_and_only_there(wide_model: Path) -> None:
    base = Setting(METHOD, 3, " ")
    grid = parse_grid(
        [
            "model.method.editor.threshold=0.001,0.1,1",
            "model.method.editor=UCE,NullSpace",
            "trainer.max_epochs=1,3",
        ]
    )
    settings = settings_of(grid, base)
    # UCE is tried once for every number of epochs, whatever the threshold.
    assert len(settings) == 2 * (1 + 3)
    data = ConceptData(**DATA, validation=[{"prompt": "rocket", "kind": "preserved"}])
    loaded = RECE(str(wide_model), tune="off").session.loaded
    ranking = Ranking(loaded, {" ": data.pairs}, data.preserved, data.held_out)
    found = dict(ranking.rank(settings))
    figures, logged = found[base], fit_of(wide_model, data).history[-1]
    assert isinstance(figures, Figures)
    assert figures.residual == pytest.approx(logged["regeneration_residual"], rel=1e-6)
    assert figures.drift == pytest.approx(logged["preservation_drift"], rel=1e-6)


def fit_of(pretrained: Path, data: ConceptData) -> RECE:
    module = RECE(str(pretrained), method=METHOD)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return module


def test_a_configuration_of_another_editor_keeps_its_own_settings_in_a_sweep(wide_model: Path) -> None:
    method = Method(editor=Projection(rank=2, shrinkage=20.0))
    module = RECE(str(wide_model), method=method)
    (setting,) = settings_of({}, Setting(module.method, 1, " "))
    assert setting.values["model.method.editor.shrinkage"] == 20.0
    assert RECE(str(wide_model), method=setting.method.plain()).method == module.method == method  # type: ignore[arg-type]


# Settings and the command


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threshold": -1.0}, r"NullSpace\.threshold: -1"),
        ({"threshold": float("inf")}, r"NullSpace\.threshold: inf"),
        ({"augmented_rank": -1}, r"NullSpace\.augmented_rank: -1"),
        ({"augmented_rank": 1.5}, r"NullSpace\.augmented_rank: 1\.5"),
        ({"lamb": -1.0}, r"NullSpace\.lamb: -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        NullSpace(**settings)


def test_an_editor_with_a_map_a_layer_cannot_begin() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.method\.first_editor: .* does not go with NullSpace"):
        Method(editor=NullSpace(), first_editor=TensorUCE())


def test_too_much_preserved_is_one_message(
    wide_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [f"{first} {second}" for first in ("dog", "key", "rose") for second in ("door", "tent", "pizza", "guitar")]
    config = write_config(
        tmp_path,
        wide_model,
        model={"method": {"editor": {"class_path": "NullSpace", "init_args": {"threshold": 0.0}}}},
        data={"concepts": ["bomb"], "preserve": many},
    )
    found = run_command(capsys, "fit", "--config", config)
    assert found.code == 2
    assert "NullSpace.threshold" in found.err
    assert "Traceback" not in found.err


@pytest.mark.filterwarnings("ignore:No regeneration residual")
def test_a_figure_that_cannot_be_had_stops_no_run_and_is_a_dash_in_the_report(
    wide_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker's ridge below the rounding of a singular map: the erasure is written all the same."""
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path,
        wide_model,
        model={"attacker_scale": 1e-300, "method": {"editor": "Projection"}},
        trainer={"max_epochs": 1, "callbacks": [{"class_path": "Export"}, {"class_path": "Report"}]},
    )
    found = run_command(capsys, "fit", "--config", config)
    assert found.code == 0, found.err
    folder = next(tmp_path.rglob("edited.safetensors")).parent
    text = (folder / "report.html").read_text(encoding="utf-8")
    row = text[text.index('<th scope="row">regeneration residual') :]
    assert '<td class="n">–</td>' in row[: row.index("</tr>")]
