"""What is known of each family of models: one short file each."""

from __future__ import annotations

from rece_lightning.models.families.auraflow import AURAFLOW
from rece_lightning.models.families.base import Family
from rece_lightning.models.families.cascade import CASCADE
from rece_lightning.models.families.chroma import CHROMA
from rece_lightning.models.families.cogvideox import COGVIDEOX
from rece_lightning.models.families.cogview4 import COGVIEW4
from rece_lightning.models.families.flux import FLUX
from rece_lightning.models.families.flux2 import FLUX2
from rece_lightning.models.families.hidream import HIDREAM
from rece_lightning.models.families.hunyuan_video import HUNYUAN_VIDEO
from rece_lightning.models.families.kolors import KOLORS
from rece_lightning.models.families.ltx import LTX
from rece_lightning.models.families.lumina2 import LUMINA2
from rece_lightning.models.families.pixart import PIXART
from rece_lightning.models.families.qwen_image import QWEN_IMAGE
from rece_lightning.models.families.sana import SANA
from rece_lightning.models.families.sd3 import SD3
from rece_lightning.models.families.wan import WAN
from rece_lightning.models.families.z_image import Z_IMAGE

FAMILIES: tuple[Family, ...] = (
    SD3, FLUX, FLUX2, CHROMA, QWEN_IMAGE, Z_IMAGE, LUMINA2, AURAFLOW, COGVIEW4, HIDREAM, PIXART, SANA, CASCADE, WAN,
    LTX, COGVIDEOX, HUNYUAN_VIDEO, KOLORS,
)  # fmt: skip
"""Every declared family whose text encoders are not Stable Diffusion's pair of CLIP towers."""


def family_named(name: str) -> Family | None:
    """The family of this name; ``None`` for a U-Net of Stable Diffusion's kind."""
    return next((family for family in FAMILIES if family.name == name), None)


def family_of(pipeline: str) -> Family | None:
    """The family that a diffusers pipeline of this class belongs to; ``None`` where none is declared."""
    return next((family for family in FAMILIES if pipeline in family.pipelines), None)
