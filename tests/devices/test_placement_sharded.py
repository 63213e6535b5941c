"""Weights that no process holds whole are refused before anything is edited: on a real process group of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor

import rece_lightning
from rece_lightning.callbacks import Erase
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.devices.sharded import refuse_sharded
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Attention(nn.Module):
    """Cross-attention named as diffusers names it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2 = nn.ModuleDict({"to_k": nn.Linear(8, 6, bias=False), "to_v": nn.Linear(8, 6, bias=False)})


def fsdp(module: nn.Module, *, use_orig_params: bool = False) -> nn.Module:
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=use_orig_params)


def fsdp2(module: nn.Module) -> nn.Module:
    return fully_shard(module, mesh=init_device_mesh("cpu", (1,)))


def on_a_mesh(module: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                part._parameters[name] = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Replicate()]))
    return module


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "FSDP (FullyShardedDataParallel)": fsdp,
    "FSDP2 (fully_shard)": fsdp2,
    "a device mesh (DTensor)": on_a_mesh,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_module_is_refused_with_what_shards_it(one_process: None, kind: str) -> None:
    wrapped = WRAPPERS[kind](nn.Sequential(Attention()))
    with pytest.raises(ConfigurationError) as refused:
        refuse_sharded(wrapped, "Erase.unet: 'unet'")
    message = str(refused.value)
    assert message.startswith(f"Erase.unet: 'unet': {kind} shards ")
    assert "train with ddp" in message
    assert "full state dict" in message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_a_module_inside_a_wrapped_one_is_refused(one_process: None, use_orig_params: bool) -> None:
    """FSDP takes the parameters out of what lies in it."""
    whole = nn.ModuleDict({"unet": Attention(), "other": nn.Linear(3, 3)})
    unet = whole["unet"]
    around = fsdp(whole, use_orig_params=use_orig_params)
    with pytest.raises(ConfigurationError, match="FSDP"):
        refuse_sharded(unet, "Erase.unet", within=around)


@pytest.mark.filterwarnings("ignore")
def test_what_is_whole_is_let_through(one_process: None) -> None:
    """Also beside another part that is sharded, and under ddp, which keeps a whole copy."""
    unet = Attention()
    refuse_sharded(unet, "Erase.unet")
    refuse_sharded(unet, "Erase.unet", within=nn.ModuleDict({"unet": unet, "text_encoder": fsdp(nn.Linear(3, 3))}))
    refuse_sharded(nn.parallel.DistributedDataParallel(unet), "Erase.unet")


def test_a_parameter_of_zero_3_is_refused() -> None:
    """DeepSpeed marks the parameters that it took away; it is not installed here, its mark is."""
    unet = Attention()
    unet.attn2["to_k"].weight.ds_id = 0  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"DeepSpeed ZeRO-3 shards attn2\.to_k\.weight"):
        refuse_sharded(unet, "Erase.unet")


class Training(LightningModule):
    """Somebody's own training, whose U-Net is wrapped at once or once Lightning asks for it."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], *, late: bool) -> None:
        super().__init__()
        pipeline: Any = load_pipeline(find_base("emoji"))
        self.unet = pipeline.unet if late else wrap(pipeline.unet)
        self.text_encoder, self.tokenizer = pipeline.text_encoder, pipeline.tokenizer
        self.wrap, self.late, self.steps = wrap, late, 0

    def configure_model(self) -> None:
        if self.late:
            self.unet, self.late = self.wrap(self.unet), False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.steps += 1

    def configure_optimizers(self) -> None:
        return None

    def train_dataloader(self) -> list[Tensor]:
        return [torch.zeros(1)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [fsdp, fsdp2])
@pytest.mark.parametrize("late", [False, True])
def test_erase_refuses_a_sharded_training_before_its_first_step(
    one_process: None, wrap: Callable[[nn.Module], nn.Module], late: bool
) -> None:
    training = Training(wrap, late=late)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", devices=1, callbacks=[Erase(["bomb"], tune="off")], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"Erase\.unet: 'unet': FSDP2? .* shards .*train with ddp"):
        trainer.fit(training)
    assert training.steps == 0


@pytest.mark.filterwarnings("ignore")
def test_the_live_erasure_refuses_a_sharded_unet(one_process: None) -> None:
    pipeline: Any = load_pipeline(find_base("emoji"))
    before = pipeline.unet.state_dict()
    parts = SimpleNamespace(unet=fsdp2(pipeline.unet), text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer)
    with pytest.raises(ConfigurationError, match=r"erase: pipeline\.unet: FSDP2"):
        rece_lightning.erase(parts, ["bomb"], tune="off")
    after = parts.unet.state_dict()
    assert all(torch.equal(after[name].full_tensor(), weight) for name, weight in before.items())
