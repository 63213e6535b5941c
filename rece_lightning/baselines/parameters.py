"""The model that a baseline trains, and which of its parameters, by the choices that the papers offer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

from rece_lightning.core.errors import ConfigurationError, check_choice
from rece_lightning.models.base import BaseModel
from rece_lightning.models.denoisers import denoisers_of
from rece_lightning.models.noising import check_calls, check_reads_latents, prediction_of
from rece_lightning.models.pipelines import check_draws, load_pipeline

KEYS_VALUES, CROSS, ATTENTION, REST, ALL = "keys_values", "cross", "attention", "rest", "all"
OF_UNET: Mapping[str, str] = {
    KEYS_VALUES: r"\.attn2\.to_[kv]\.",
    CROSS: r"\.attn2\.",
    ATTENTION: r"\.attn[12]\.",
    REST: r"^(?!.*\.attn2\.)",
    ALL: "",
}
"""Choice → what of a U-Net: keys and values of the cross-attention, all of it, all attention, what is not it, all."""
OF_MMDIT: Mapping[str, str] = {KEYS_VALUES: r"\.attn2?\.add_[kv]_proj\.", ATTENTION: r"\.attn2?\.", ALL: ""}
"""The same of an MMDiT, whose joint attention reads text and picture at once: keys and values of the text's rows."""
CHOICES = tuple(OF_UNET)


def trained_names(denoiser: nn.Module, choice: str, field: str = "model.parameters") -> list[str]:
    """Names of the parameters that are trained.

    Args:
        denoiser: a U-Net, or an MMDiT.
        choice: one of :data:`CHOICES`.
        field: the setting, for messages.

    Raises:
        ConfigurationError: for another choice, and for one that this kind of denoiser has not.
    """
    check_choice(field, choice, CHOICES)
    patterns = OF_UNET if isinstance(denoiser, UNet2DConditionModel) else OF_MMDIT
    if choice not in patterns:
        raise ConfigurationError(
            f"{field}: {choice!r}: {type(denoiser).__name__} has no cross-attention: text and picture attend to each "
            f"other in one joint attention; give one of {', '.join(patterns)}."
        )
    names = [name for name, _ in denoiser.named_parameters() if re.search(patterns[choice], name)]
    if not names:
        raise ConfigurationError(f"{field}: {choice!r}: this model has no such parameter; give {ALL}.")
    return names


def open_model(base: BaseModel, choice: str, owner: str) -> tuple[DiffusionPipeline, nn.Module, list[str]]:
    """The pipeline without its text encoders, its denoiser, and the names of what is trained, which alone takes
    gradients.

    Args:
        base: the model.
        choice: of parameters.
        owner: the method, for messages.

    Raises:
        BaseModelError: if it cannot be loaded, or its denoiser is called in a way that is not known.
        ConfigurationError: if it makes no pictures from prompts alone, has several denoisers, or no such parameters.
    """
    field = f"model.pretrained: {base.name}: {owner}"
    check_draws(base)
    pipeline = load_pipeline(base)
    parts = denoisers_of(pipeline)
    if len(parts) > 1:
        raise ConfigurationError(f"{field} trains one denoiser, and this model has {', '.join(parts)}.")
    denoiser = next(iter(parts.values()))
    check_calls(denoiser, field)
    prediction_of(pipeline.scheduler, field)
    check_reads_latents(denoiser, pipeline.vae.config.latent_channels, field)
    names = trained_names(denoiser, choice)
    denoiser.eval().requires_grad_(False)
    for name in names:
        denoiser.get_parameter(name).requires_grad_()
    for part in [one for one in pipeline.components if one.startswith("text_encoder")]:
        setattr(pipeline, part, None)  # the prompts are encoded elsewhere
    return pipeline, denoiser, names
