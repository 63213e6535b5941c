"""Sana: Gemma's rows behind written instructions, through a projector and a norm, then keys and values."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import ENTRY, TEXT

SANA = Family(
    name="sana",
    title="Sana, Sana-Sprint",
    pipelines=("SanaPipeline", "SanaPAGPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline"),
    places=(
        Place(TEXT, r"transformer_blocks\.\d+\.attn2\.to_[kv]", before=("caption_projection", "caption_norm")),
        Place(ENTRY, r"caption_projection\.linear_1", instead_of=TEXT),
    ),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask")),
)
