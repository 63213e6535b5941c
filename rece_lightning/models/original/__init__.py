"""The original layout of Stable Diffusion: one file, the names of the code that the models were trained with.

WebUIs read it and model sites share it. Its names follow the layers one after another (``input_blocks.4.1``) where
diffusers groups them into blocks (``down_blocks.1.attentions.0``). A few tensors have another form too. SD 1.x, 2.x
and XL share the names of U-Net and autoencoder; their text encoders differ. An inpainting model has the same names.
"""

from rece_lightning.models.original.model import (
    PARTS,
    ToDiffusers,
    original_shapes,
    pieces_in_file,
    projections_in,
    sgm_names,
    text_prefixes,
    to_original,
    unet_projections,
)
from rece_lightning.models.original.pieces import Piece
from rece_lightning.models.original.text import text_pieces
from rece_lightning.models.original.unet import PREFIX as UNET
from rece_lightning.models.original.unet import unet_names
from rece_lightning.models.original.vae import vae_names

__all__ = [
    "PARTS",
    "UNET",
    "Piece",
    "ToDiffusers",
    "original_shapes",
    "pieces_in_file",
    "projections_in",
    "sgm_names",
    "text_pieces",
    "text_prefixes",
    "to_original",
    "unet_names",
    "unet_projections",
    "vae_names",
]
