"""What stands beside a pipeline's U-Net: what reads the same text is edited with it, what might is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from rece_lightning.core.errors import ConfigurationError

SILENT = frozenset({
    *("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"),
    *("safety_checker", "feature_extractor", "image_encoder", "image_processor", "depth_estimator"),
    *("adapter", "motion_adapter", "low_res_scheduler", "inverse_scheduler"),
    *("image_normalizer", "image_noising_scheduler", "watermark", "watermarker", "vqgan"),
})  # fmt: skip
"""Parts of U-Net pipelines that are edited anyway, make the embeddings, or read none."""
SILENT_CLASS = re.compile(
    "Scheduler|Tokenizer|Processor|Extractor|Autoencoder|VQModel|Vision|SafetyChecker|T2IAdapter|MultiAdapter|"
    "MotionAdapter|Watermark"
)


def may_read_text(part: str, kind: str) -> bool:
    """Whether a part of a pipeline beside the U-Net may read the text: every one of which it is not known.

    Args:
        part: its name in the pipeline.
        kind: name of its class.
    """
    return part not in SILENT and not SILENT_CLASS.search(kind)


def unwrapped(module: Any) -> Any:
    """The module that holds the weights: a compiled one wraps it."""
    return getattr(module, "_orig_mod", module)


def control_nets(pipeline: Any) -> dict[str, nn.Module]:
    """Path → each ControlNet of a pipeline: copies of half a U-Net that read the text through projections of their own.

    Args:
        pipeline: of diffusers, or anything with the same attributes.

    Raises:
        ConfigurationError: for another part that may read the text.
    """
    found: dict[str, nn.Module] = {}
    # Not ``components``: it is refused by pipelines of somebody's own whose constructors take any keyword.
    for name, part in getattr(pipeline, "__dict__", {}).items():
        module = unwrapped(part)
        kind = type(module).__name__
        if not isinstance(module, nn.Module) or name == "unet" or not may_read_text(name, kind):
            continue
        if not is_control_net(module):
            raise ConfigurationError(
                f"erase: pipeline.{name}: a {kind} may read the text too, and an edit of the U-Net leaves it as it is; "
                f"erase from a pipeline without it (pipeline.{name} = None where it can do without)."
            )
        nets = getattr(module, "nets", None)
        several = nets if isinstance(nets, nn.ModuleList) else [module]
        for number, net in enumerate(several):
            found[f"{name}.nets.{number}" if several is nets else name] = unwrapped(net)
    return found


def is_control_net(module: nn.Module) -> bool:
    """Whether it is one of diffusers' ControlNets, or several of them, or a class made from one."""
    return any("ControlNet" in kind.__name__ for kind in type(module).__mro__)


def together(unet: nn.Module, beside: Mapping[str, nn.Module]) -> nn.Module:
    """A U-Net and what is edited with it as one module: names stay the U-Net's, or begin with a path.

    Args:
        unet: it is given back where nothing stands beside it.
        beside: path → module.
    """
    if not beside:
        return unet
    whole = nn.Module()
    for name, child in unet.named_children():
        whole.add_module(name, child)
    for path, module in beside.items():
        *parents, name = path.split(".")
        home = whole
        for parent in parents:
            if parent not in dict(home.named_children()):
                home.add_module(parent, nn.Module())
            home = home.get_submodule(parent)
        home.add_module(name, module)
    return whole


def part_at(pipeline: Any, path: str) -> Any:
    """What a pipeline has now at the path of a part."""
    part: Any = pipeline
    for step in path.split("."):
        part = unwrapped(getattr(part, step, None))
    return part
