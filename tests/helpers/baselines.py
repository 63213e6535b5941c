"""Baselines that are trained on tiny models: their folders, their fits, and the papers' parts by other means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from rece_lightning import ConceptData, load_pipeline
from rece_lightning.baselines.trained import TrainedErasure
from rece_lightning.models.noising import NoisedPictures
from tests.helpers.tiny.pipelines import build

KINDS = ("epsilon", "v_prediction", "flow")
SMALL: dict[str, Any] = {"batch_size": 2, "batches": 3, "learning_rate": 1e-3}


def model_of(kind: str, tiny_model: Path, folder: Path) -> Path:
    """A tiny model that predicts noise, velocity (a U-Net) or flow (an MMDiT)."""
    if kind == "flow":
        build("sd3").save_pretrained(folder)
        return folder
    shutil.copytree(tiny_model, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": kind}))
    return folder


def data_of(*concepts: dict[str, str], preserve: tuple[str, ...] = (" ",), **more: Any) -> ConceptData:
    given = concepts or ({"prompt": "bomb", "target": "rose"}, {"prompt": "axe", "target": "dog"})
    return ConceptData(list(given), preserve=list(preserve), **more)


def fit(
    module: TrainedErasure, data: ConceptData, *callbacks: Any, resume: Path | None = None, **settings: Any
) -> Trainer:
    """Fit on the CPU; nothing is said, and nothing kept that no callback keeps."""
    keeps = [one for one in callbacks if isinstance(one, ModelCheckpoint)]
    trainer = Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, **settings}, callbacks=list(callbacks),
        enable_checkpointing=bool(keeps), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer


def begun(module: TrainedErasure, data: ConceptData, **settings: Any) -> TrainedErasure:
    """A module whose pictures are drawn, and of which nothing has been trained yet; in float64 for derivatives."""
    fit(module, data, max_steps=1, **settings)
    with torch.no_grad():
        for name, weight in module.original.items():
            module.denoiser.get_parameter(name).copy_(weight)
    module.denoiser.double()
    module.original = {name: weight.double() for name, weight in module.original.items()}
    return module


class Plainly:
    """Predictions of a module's denoiser by diffusers' own calls: the pipeline encodes the prompts."""

    def __init__(self, module: TrainedErasure) -> None:
        self.denoiser: Any = module.denoiser
        self.pipeline: Any = load_pipeline(str(module.hparams["pretrained"]))

    def __call__(self, pictures: NoisedPictures, prompts: list[str]) -> Tensor:
        noisy, times = pictures.noisy.double(), pictures.timesteps
        if hasattr(self.pipeline, "transformer"):
            rows, _, pooled, _ = self.pipeline.encode_prompt(
                prompts, prompts, prompts, do_classifier_free_guidance=False
            )
            answer = self.denoiser(noisy, rows.double(), pooled.double(), times)
        else:
            rows, _ = self.pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
            answer = self.denoiser(noisy, times, rows.double())
        said: Tensor = answer.sample
        return said


def check_gradient(module: TrainedErasure, loss: Callable[[], Tensor], fixed: Callable[[], Tensor]) -> None:
    """The gradient of a loss at a few entries against central differences of ``fixed``, the formula with everything
    held that the method takes no gradient of."""
    module.zero_grad()
    loss().backward()
    source = torch.Generator().manual_seed(5)
    names = sorted(module.original)
    checked = 0
    for name in names[:: max(1, len(names) // 4)][:4]:
        parameter = module.denoiser.get_parameter(name)
        assert parameter.grad is not None
        for place in torch.randint(parameter.numel(), (2,), generator=source).tolist():
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[place] += step
                    values.append(float(fixed().detach()))
                    parameter.view(-1)[place] -= step
            slope = (values[0] - values[1]) / 2e-5
            assert abs(slope - float(parameter.grad.view(-1)[place])) <= 1e-6 * max(1.0, abs(slope)) + 1e-9
            checked += abs(slope) > 1e-9
    assert checked, "every entry that was looked at has no gradient at all"
