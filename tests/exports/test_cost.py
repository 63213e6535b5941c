"""The costs that the report shows, against the files themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from rece_lightning import RECE
from rece_lightning.exports import FORMATS, Erasure, export
from rece_lightning.exports.cost import export_costs
from rece_lightning.reporting.page import render_page


@pytest.mark.parametrize("name", ["tiny", "half", "per_layer", "values_only"])
def test_costs_are_those_of_the_files(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    erasure: Erasure = request.getfixturevalue(name)
    costs = export_costs(erasure, ranks=(1, 4))
    for place, cost in enumerate(costs):
        output = tmp_path / (f"{place}" if cost.format == "pipeline" else f"{place}.safetensors")
        record = export(erasure, cost.format, output, rank=cost.rank if cost.rank else None)
        if cost.format == "single-file":  # nothing but the parts' weights; the names in the headers differ in length
            assert abs(record.bytes - cost.bytes) < 60_000
        elif record.path.is_file():
            assert cost.bytes == sum(tensor.nbytes for tensor in load_file(record.path).values()), cost
        else:  # beside the weights: configurations, the tokenizer, the card, and what the U-Net's file says of itself
            others = sum(
                file.stat().st_size for file in record.path.rglob("*") if file.suffix in (".json", ".txt", ".md")
            )
            assert 0 <= record.bytes - others - cost.bytes < 3_000
        # Rounding, which the run's own file shares with whole models, is not counted.
        loss = record.loss
        error = loss.exact if loss.file is None or FORMATS[cost.format].ranked else loss.file
        assert error.change == pytest.approx(cost.error, rel=1e-4, abs=1e-6), cost
        assert record.rank == cost.rank


def test_a_lora_at_every_rank_and_at_the_full_one(tiny: Erasure) -> None:
    loras = [cost for cost in export_costs(tiny) if cost.format == "lora"]
    assert [cost.rank for cost in loras][:3] == [1, 4, 16]
    assert loras[-1].rank is not None
    assert loras[-1].rank > 16
    assert loras[-1].error < 1e-7
    assert [cost.error for cost in loras] == sorted((cost.error for cost in loras), reverse=True)
    assert {cost.format for cost in export_costs(tiny)} == set(FORMATS)


@pytest.mark.parametrize("name", ["per_layer", "values_only"])
def test_no_map_where_there_is_none(name: str, request: pytest.FixtureRequest) -> None:
    assert "map" not in {cost.format for cost in export_costs(request.getfixturevalue(name))}


def test_the_report_shows_them(tiny_module: RECE, tiny: Erasure) -> None:
    common = {
        "title": None,
        "description": tiny_module.session.description(),
        "settings": dict(tiny_module.hparams),
        "change": tiny_module.session.change(),
        "history": tiny_module.history,
        "placement": {},
        "comparison": None,
        "grid": None,
    }
    costs = export_costs(tiny)
    page = render_page(**common, exports=costs)
    rows = page.split("To take it elsewhere")[-1].split("</table>")[0]
    assert rows.count("<tr>") == len(costs) + 1
    assert f"{costs[0].bytes / 1e6:.2f}" in rows
    assert "To take it elsewhere" not in render_page(**common)
