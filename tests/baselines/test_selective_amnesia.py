"""SA: its loss and its Fisher against the paper's formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rece_lightning.baselines import SelectiveAmnesia, selective_amnesia
from rece_lightning.core.errors import ConfigurationError
from tests.helpers.baselines import KINDS, SMALL, Plainly, begun, check_gradient, data_of, fit, model_of

DRAWING = {"pictures": 4, "steps": 2, "draw_together": 4, "fisher_pictures": 3}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of(request.param, tiny_model, tmp_path_factory.mktemp("model") / request.param)


def test_the_loss_and_the_fisher_are_the_papers(model: Path) -> None:
    settings = {"parameters": "attention", "replay_weight": 0.6, "fisher_weight": 40.0}
    module = begun(SelectiveAmnesia(str(model), **settings, **SMALL, **DRAWING), data_of(preserve=("church", "dog")))
    said = Plainly(module)
    # The Fisher, picture by picture, by backward passes of the plain predictions.
    fisher = {name: torch.zeros_like(weight) for name, weight in module.original.items()}
    for number in range(3):
        pictures, prompts = module.fisher_draw(number)
        module.zero_grad()
        (said(pictures, prompts) - pictures.answer).square().mean().backward()
        for name, total in fisher.items():
            slope = module.denoiser.get_parameter(name).grad
            total += 0 if slope is None else slope.square() / 3
    module.fisher = module.streamed_fisher(3)
    largest = max(float(total.max()) for total in fisher.values())
    assert largest > 0
    assert all(torch.allclose(module.fisher[name], fisher[name], rtol=1e-3, atol=1e-4 * largest) for name in fisher)

    with torch.no_grad():  # away from the original, where the penalty is nothing
        for name in module.original:
            weight = module.denoiser.get_parameter(name)
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(4)
    surrogates, replayed = (module.noised(latents[:2], source) for latents in (module.surrogates, module.replayed))
    forgotten, kept = ["bomb", "axe"], ["church", "dog"]
    batch = surrogates, forgotten, replayed, kept

    def formula() -> Tensor:
        first = (said(surrogates, forgotten) - surrogates.answer).square().mean()
        second = (said(replayed, kept) - replayed.answer).square().mean()
        moved = [
            (fisher[name] * (module.denoiser.get_parameter(name) - module.original[name]) ** 2).sum() for name in fisher
        ]
        return first + 0.6 * second + 40.0 * torch.stack(moved).sum()

    assert float(module.loss_of(*batch).detach()) == pytest.approx(float(formula().detach()), rel=1e-4)
    check_gradient(module, lambda: module.loss_of(*batch), lambda: module.loss_of(*batch))


def test_a_heavy_penalty_holds_the_weights_where_they_matter(tiny_model: Path) -> None:
    def change(fisher_weight: float) -> float:
        module = SelectiveAmnesia(str(tiny_model), fisher_weight=fisher_weight, **SMALL, **DRAWING)
        fit(module, data_of(), max_epochs=3)
        return float(module.penalty().detach())

    assert change(1e8) < 0.5 * change(0.0)


def test_a_resumed_run_has_the_fisher_of_the_original_weights(tiny_model: Path, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def module() -> SelectiveAmnesia:
        return SelectiveAmnesia(str(tiny_model), fisher_weight=1e4, **SMALL, **DRAWING)

    whole, first, resumed = module(), module(), module()
    fit(whole, data_of(), max_epochs=2)
    fit(first, data_of(), ModelCheckpoint(tmp_path, save_last=True), default_root_dir=tmp_path)
    fit(resumed, data_of(), resume=tmp_path / "last.ckpt", max_epochs=2)
    assert all(torch.equal(whole.fisher[name], resumed.fisher[name]) for name in whole.fisher)
    assert all(torch.equal(whole.weights()[name], resumed.weights()[name]) for name in whole.original)


def test_it_says_what_memory_it_needs_and_does_not_begin_without_it(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SelectiveAmnesia(str(tiny_model), parameters="keys_values", **SMALL, **DRAWING)
    fit(module, data_of())
    count = sum(weight.numel() for weight in module.original.values())
    assert f"SA: {count:,} parameters are trained" in capsys.readouterr().out
    assert module.needed_bytes() == 4 * 4 * count
    # There is no device here that a tiny model does not fit.
    monkeypatch.setattr(selective_amnesia, "free_memory", lambda devices: dict.fromkeys(devices, 1000))
    with pytest.raises(ConfigurationError, match=r"model\.parameters: 'keys_values' needs .* MB.*cpu has"):
        fit(SelectiveAmnesia(str(tiny_model), parameters="keys_values", **SMALL, **DRAWING), data_of())


@pytest.mark.parametrize("setting", ["replay_weight", "fisher_weight", "pictures", "fisher_pictures", "steps"])
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"model\.{setting}"):
        SelectiveAmnesia("nowhere", **{setting: -1})  # type: ignore[arg-type]
