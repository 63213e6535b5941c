"""Erase in a training of LoRAs: whole checkpoints, the live model and a LoRA that is saved alone all erase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from rece_lightning import erase
from rece_lightning.callbacks import Erase
from tests.helpers.erasures import distance
from tests.helpers.loras import computed, fill
from tests.helpers.models import make_checkpoint
from tests.helpers.trainings import SomebodysModule, train

SETTINGS: dict[str, Any] = {"concepts": ["bomb"], "preserve": [" ", "dog"], "epochs": 2, "tune": "off"}
BOTH = LoraConfig(r=2, lora_alpha=3, lora_dropout=0.1, target_modules=["to_k", "to_v"])
VALUES = LoraConfig(r=2, lora_alpha=2, target_modules=["to_v", "to_q"])


def fill_like(unet: torch.nn.Module) -> None:
    """Factors that were trained before; what takes gradients stays as it is."""
    trained = [weight.requires_grad for weight in unet.parameters()]
    fill(unet)
    for weight, is_trained in zip(unet.parameters(), trained, strict=True):
        weight.requires_grad_(is_trained)


class LoraModule(SomebodysModule):
    """A fine-tuning of LoRAs that knows nothing of erasure."""

    def __init__(self, folder: Path, config: LoraConfig = BOTH, learning_rate: float = 0.05) -> None:
        self.config = config
        super().__init__(folder, learning_rate)

    def build(self, folder: Path) -> None:
        super().build(folder)
        self.unet.requires_grad_(False)
        self.text_encoder.requires_grad_(False)
        self.unet.add_adapter(self.config)
        fill_like(self.unet)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [weight for weight in self.unet.parameters() if weight.requires_grad]
        return torch.optim.SGD(trained, lr=self.learning_rate)


class WrappedModule(LoraModule):
    """With peft's own model around the U-Net."""

    def build(self, folder: Path) -> None:
        SomebodysModule.build(self, folder)
        self.text_encoder.requires_grad_(False)
        self.unet = get_peft_model(self.unet, self.config)
        fill_like(self.unet)


class LateModule(LoraModule):
    """That adds its LoRA when Lightning says so."""

    def build(self, folder: Path) -> None:
        SomebodysModule.build(self, folder)
        self.unet.requires_grad_(False)

    def configure_model(self) -> None:
        if not hasattr(self.unet, "peft_config"):
            with torch.random.fork_rng():
                self.unet.add_adapter(self.config)
            fill_like(self.unet)


class LoraAlone(LoraModule):
    """Whose checkpoints hold the LoRA without its base."""

    strict_loading = False  # type: ignore[assignment]

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        whole = super().state_dict(*arguments, **options)
        return {name: weight for name, weight in whole.items() if "lora_" in name}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", width=48, seed=8)


def load(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def fit(module: LightningModule, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    torch.manual_seed(0)
    return train(module, folder, *callbacks, **more)


@pytest.fixture(scope="module")
def wanted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[LoraConfig], dict[str, Tensor]]:
    """What the readers compute once a training without ``Erase`` is over and its pipeline was erased."""
    found: dict[int, dict[str, Tensor]] = {}

    def of(config: LoraConfig) -> dict[str, Tensor]:
        if id(config) not in found:
            module = LoraModule(checkpoint, config)
            fit(module, tmp_path_factory.mktemp("plain"))
            pipeline = load(checkpoint)
            pipeline.unet = module.unet.eval()
            before = computed(pipeline.unet)
            erase(pipeline, **SETTINGS)
            found[id(config)] = computed(pipeline.unet)
            assert distance(found[id(config)], before) > 0.05
            assert distance(before, computed(load(checkpoint).unet)) > 0.05  # the LoRA learnt something
        return found[id(config)]

    return of


@pytest.mark.parametrize(
    ("kind", "config"),
    [(LoraModule, BOTH), (LoraModule, VALUES), (WrappedModule, VALUES), (LateModule, BOTH)],
    ids=["both", "values alone", "get_peft_model", "added in configure_model"],
)
def test_whole_or_alone_what_is_saved_erases(
    checkpoint: Path, tmp_path: Path, wanted: Callable[..., Any], kind: type[LoraModule], config: LoraConfig
) -> None:
    module, original = kind(checkpoint, config), load(checkpoint).unet.state_dict()
    trainer = fit(module, tmp_path, Erase(**SETTINGS))
    module.unet.eval()
    assert distance(computed(module.unet), wanted(config)) < 1e-5
    # The base is the original one, bit for bit: the LoRA erases.
    for name, weight in module.unet.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, original[name.removeprefix("base_model.model.").replace(".base_layer", "")])
    if isinstance(module.unet, PeftModel):
        module.unet.save_pretrained(tmp_path / "lora")
        alone: Any = PeftModel.from_pretrained(load(checkpoint).unet, tmp_path / "lora")
    else:
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(module.unet))
        StableDiffusionPipeline.save_lora_weights(
            tmp_path / "lora", layers, **_collate_lora_metadata({"unet": module.unet})
        )
        fresh = load(checkpoint)
        fresh.load_lora_weights(tmp_path / "lora")
        alone = fresh.unet
    assert distance(computed(alone.eval()), wanted(config)) < 1e-5
    # A checkpoint has the shapes that are trained, whether it was written before the LoRA carried the erasure or after.
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    for file in ("saved.ckpt", "after.ckpt"):
        again = kind(checkpoint, config)
        again.configure_model()
        again.load_state_dict(torch.load(tmp_path / file, weights_only=True)["state_dict"])
        again.unet.eval()
        assert distance(computed(again.unet), wanted(config)) < 1e-5, file


class SavesAlone(Callback):
    """A user's own, that keeps the LoRA whenever an epoch ends and when the training does."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept.append(get_peft_model_state_dict(pl_module.unet))  # type: ignore[arg-type]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept.append(get_peft_model_state_dict(pl_module.unet))  # type: ignore[arg-type]


@pytest.mark.parametrize("saver_first", [True, False])
def test_a_lora_that_is_saved_alone_while_it_trains_erases(
    checkpoint: Path, tmp_path: Path, wanted: Callable[..., Any], saver_first: bool
) -> None:
    saver, eraser = SavesAlone(), Erase(**SETTINGS)
    fit(LoraModule(checkpoint), tmp_path, *([saver, eraser] if saver_first else [eraser, saver]))
    for number, kept in enumerate(saver.kept):
        StableDiffusionPipeline.save_lora_weights(tmp_path / f"lora{number}", convert_state_dict_to_diffusers(kept))
        fresh = load(checkpoint)
        fresh.load_lora_weights(tmp_path / f"lora{number}")
        assert distance(computed(fresh.unet), wanted(BOTH)) < 1e-5
    assert len(saver.kept) == 2


def test_checkpoints_of_the_lora_alone_erase_and_are_gone_on_from(
    checkpoint: Path, tmp_path: Path, wanted: Callable[..., Any]
) -> None:
    fit(LoraAlone(checkpoint), tmp_path, Erase(**SETTINGS))
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    unet = load(checkpoint).unet
    for name, weight in computed(unet).items():
        change = saved[f"unet.{name}.lora_B.default.weight"] @ saved[f"unet.{name}.lora_A.default.weight"]
        torch.testing.assert_close(weight + change, wanted(BOTH)[name], rtol=1e-4, atol=1e-5)
    start = AtTheStart()
    fit(LoraAlone(checkpoint), tmp_path / "on", Erase(**SETTINGS), start, max_epochs=2, resume=tmp_path / "saved.ckpt")
    assert distance(start.found, wanted(BOTH)) < 1e-5


class AtTheStart(Callback):
    """What the readers compute when the training begins, or goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unet: Any = pl_module.unet
        self.found = computed(unet.eval())
        unet.train()


@pytest.mark.parametrize("kind", [LoraModule, LateModule])
def test_after_edits_while_training_and_a_stop_the_lora_still_erases_on_the_original(
    checkpoint: Path, tmp_path: Path, kind: type[LoraModule]
) -> None:
    """Edits change the base that is trained on; a LoRA alone is meant for the one that the training began with."""
    first = kind(checkpoint)
    fit(first, tmp_path, Erase(**SETTINGS, every_n_steps=1), steps=2)
    module = kind(checkpoint)
    fit(
        module,
        tmp_path / "on",
        Erase(**SETTINGS, every_n_steps=2),
        steps=2,
        max_epochs=2,
        resume=tmp_path / "saved.ckpt",
    )
    module.unet.eval()
    module.unet.save_lora_adapter(tmp_path / "lora")
    fresh = load(checkpoint)
    fresh.unet.load_lora_adapter(tmp_path / "lora", prefix=None, use_safetensors=True)
    assert distance(computed(fresh.unet.eval()), computed(module.unet)) < 1e-5
    whole = torch.load(tmp_path / "on" / "saved.ckpt", weights_only=True)["state_dict"]
    again = kind(checkpoint)
    again.configure_model()
    again.load_state_dict(whole)
    again.unet.eval()
    assert distance(computed(again.unet), computed(module.unet)) < 1e-5


def test_two_callbacks_compose_in_the_lora(checkpoint: Path, tmp_path: Path) -> None:
    module, pipeline = LoraModule(checkpoint, learning_rate=0.0), load(checkpoint)
    pipeline.unet.add_adapter(BOTH)
    pipeline.unet.load_state_dict(module.unet.state_dict())
    fit(module, tmp_path, Erase(["bomb"], epochs=1, tune="off"), Erase(["axe"], epochs=1, tune="off"))
    erase(pipeline, ["bomb"], epochs=1, tune="off")
    erase(pipeline, ["axe"], epochs=1, tune="off")
    for one in (module, pipeline):
        one.unet.eval()
    assert distance(computed(module.unet), computed(pipeline.unet)) < 1e-5


def test_a_smaller_rank_prints_its_error(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = LoraModule(checkpoint)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(module, tmp_path, Erase(**SETTINGS, lora_rank=1))
    assert "a rank of 1 beside its own" in caplog.text
    assert "% of the change are lost" in caplog.text
    ranks = {layer.r["default"] for name, layer in module.unet.named_modules() if name.endswith("attn2.to_k")}
    assert ranks == {3}


@pytest.mark.parametrize("reason", ["the base is trained", "no LoRA is in force"])
def test_what_no_lora_can_carry_stays_in_the_base_and_is_said(checkpoint: Path, tmp_path: Path, reason: str) -> None:
    module = LoraModule(checkpoint, learning_rate=0.0)
    if reason == "the base is trained":
        module.unet.requires_grad_(True)
    else:
        module.unet.disable_adapters()
        module.unet.conv_in.requires_grad_(True)
    module.unet.eval()
    before = computed(module.unet)
    with pytest.warns(UserWarning, match=rf"Erase.unet: .*{reason}.*saved alone does not erase"):
        fit(module, tmp_path, Erase(**SETTINGS))
    module.unet.eval()
    assert distance(computed(module.unet), before) > 0.05
    ranks = {layer.r["default"] for name, layer in module.unet.named_modules() if name.endswith("attn2.to_k")}
    assert ranks == {2}


def test_a_lora_of_queries_alone_is_said_to_carry_nothing(checkpoint: Path, tmp_path: Path) -> None:
    module = LoraModule(checkpoint, LoraConfig(r=2, target_modules=["to_q"]))
    module.unet.eval()
    with pytest.warns(UserWarning, match=r"Erase.unet: .*around no layer that reads the text.*put it around to_k"):
        fit(module, tmp_path, Erase(**SETTINGS))
