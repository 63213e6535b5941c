"""``Erase`` in a training of a model with more in it that reads the text than a plain U-Net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from rece_lightning import ConfigurationError
from rece_lightning.callbacks import Erase
from tests.helpers.models import make_checkpoint
from tests.helpers.tiny.pipelines import build as build_family


class Training(LightningModule):
    """Of the weights that ``trained`` names, with a learning rate of 0."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        self.unet, self.text_encoder, self.tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        states = torch.zeros(len(batch), 16, self.unet.config.cross_attention_dim)
        return mse_loss(self.unet(batch, torch.tensor(10), states).sample, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.unet.parameters(), lr=0.0)


@pytest.fixture
def module(tmp_path: Path) -> Training:
    return Training(make_checkpoint(tmp_path / "base", seed=8))


def fit(module: LightningModule, folder: Path, *more: Erase) -> None:
    trainer = Trainer(
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        callbacks=[Erase(concepts=["bomb"], tune="off"), *more],
    )
    trainer.fit(module, DataLoader(torch.randn(1, 4, 4, 4)))
    trainer.save_checkpoint(folder / "saved.ckpt")


def test_custom_diffusion_is_erased_where_it_is_saved(module: Training, tmp_path: Path) -> None:
    processors = {}
    for name in module.unet.attn_processors:
        attention, cross = module.unet.get_submodule(name.removesuffix(".processor")), "attn2" in name
        processors[name] = CustomDiffusionAttnProcessor2_0(
            train_kv=cross, hidden_size=attention.to_q.in_features, cross_attention_dim=24 if cross else None
        )
    module.unet.set_attn_processor(processors)
    before = {name: weight.detach().clone() for name, weight in module.unet.named_parameters()}
    fit(module, tmp_path)
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    own = [name for name in before if name.endswith(("to_k_custom_diffusion.weight", "to_v_custom_diffusion.weight"))]
    assert own
    for name in own:
        assert not torch.equal(saved[f"unet.{name}"], before[name])
        assert torch.equal(saved[f"unet.{name}"], module.unet.get_parameter(name))


def test_a_control_net_beside_the_unet_is_refused(module: Training, tmp_path: Path) -> None:
    """Before the first step, and wherever in the module it lies."""
    module.conditioning = torch.nn.ModuleDict({"edges": ControlNetModel.from_unet(module.unet)})
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    with pytest.raises(ConfigurationError, match=r"conditioning\.edges \(ControlNetModel\) reads the same text"):
        fit(module, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    # The remedy of the message.
    fit(module, tmp_path, Erase(concepts=["bomb"], unet="conditioning.edges", tune="off"))
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    reading = [name for name in before if ".attn2.to_k." in name]
    assert {name.split(".")[0] for name in reading} == {"unet", "conditioning"}
    assert not any(torch.equal(saved[name], before[name]) for name in reading)


def test_another_way_of_the_text_is_refused_before_the_first_step(module: Training, tmp_path: Path) -> None:
    config = {**module.unet.config, "encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj"}
    module.unet = UNet2DConditionModel.from_config(config)
    with pytest.raises(ConfigurationError, match="encoder_hid_proj"):
        fit(module, tmp_path)


def test_a_transformer_in_training_is_refused_in_one_sentence() -> None:
    pipeline = build_family("sd3")
    module = LightningModule()
    module.transformer, module.text_encoder, module.tokenizer = (
        pipeline.transformer, pipeline.text_encoder, pipeline.tokenizer,
    )  # fmt: skip
    callback = Erase(concepts=["bomb"], unet="transformer")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback])
    with pytest.raises(ConfigurationError, match=r"'transformer': a SD3Transformer2DModel is no U-Net.*saved"):
        callback.setup(trainer, module, "validate")
