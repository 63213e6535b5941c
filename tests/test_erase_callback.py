"""RECE in somebody else's training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from rece_lightning import RECE, ConceptData, ConfigurationError
from rece_lightning.callbacks import Erase
from tests.models import make_checkpoint


class SomebodysModule(LightningModule):
    """A fine-tuning that knows nothing of erasure."""

    def __init__(self, folder: Path, learning_rate: float) -> None:
        super().__init__()
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        self.unet, self.text_encoder, self.tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
        self.learning_rate = learning_rate

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        ids = self.tokenizer(["bomb"] * len(batch), padding="max_length", return_tensors="pt").input_ids
        states = self.text_encoder(ids).last_hidden_state
        return F.mse_loss(self.unet(batch, torch.tensor(10), states).sample, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.unet.parameters(), lr=self.learning_rate)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", seed=8)


def train(module: LightningModule, folder: Path, *callbacks: object, steps: int = 2) -> Trainer:
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, ModelCheckpoint(folder, filename="saved")],  # type: ignore[list-item]
    )
    trainer.fit(module, DataLoader(torch.randn(steps, 4, 4, 4), batch_size=1))
    return trainer


def test_saved_and_live_model_equal_a_rece_run_on_the_trained_weights(checkpoint: Path, tmp_path: Path) -> None:
    # With a learning rate of 0 the trained weights are the base's: a run of RECE on the base must give the same.
    module = SomebodysModule(checkpoint, 0.0)
    train(module, tmp_path, Erase(concepts=["bomb", "axe"], preserve=[" ", "dog"], epochs=3))
    reference = RECE(str(checkpoint))
    trainer = Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(reference, ConceptData(["bomb", "axe"], preserve=[" ", "dog"]))
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    for name, weight in reference.edited_weights():
        torch.testing.assert_close(state[f"unet.{name}"], weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(module.unet.get_parameter(name).data, weight, rtol=1e-5, atol=1e-7)


def test_training_itself_is_untouched(checkpoint: Path, tmp_path: Path) -> None:
    plain, erased = SomebodysModule(checkpoint, 0.01), SomebodysModule(checkpoint, 0.01)
    torch.manual_seed(0)
    train(plain, tmp_path / "plain")
    torch.manual_seed(0)
    train(erased, tmp_path / "erased", Erase(concepts=["bomb"]))
    edited = 0
    for (name, mine), (_, theirs) in zip(plain.named_parameters(), erased.named_parameters(), strict=True):
        if "attn2.to_k" in name or "attn2.to_v" in name:
            edited += not torch.equal(mine, theirs)
        else:
            assert torch.equal(mine, theirs), name
    assert edited


def test_a_missing_attribute_is_named_before_training(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Erase.unet.*no 'denoiser'"):
        train(SomebodysModule(checkpoint, 0.0), tmp_path, Erase(concepts=["bomb"], unet="denoiser"))


def test_example_runs_on_the_embedded_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    import finetune_and_erase

    output = finetune_and_erase.main(["--steps", "2", "--output", str(tmp_path / "out")])
    unet = UNet2DConditionModel.from_pretrained(output)
    original = UNet2DConditionModel.from_pretrained(Path(finetune_and_erase.WEIGHTS) / "unet")
    names = [name for name, _ in unet.named_parameters() if "attn2.to_v" in name]
    assert all(not torch.allclose(unet.get_parameter(n), original.get_parameter(n), atol=1e-3) for n in names)
