"""Lumina 2: Gemma's rows behind a system prompt, normalized and then through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

LUMINA2 = Family(
    name="lumina2",
    title="Lumina 2",
    pipelines=("Lumina2Pipeline",),
    places=(
        Place(TEXT, r"time_caption_embed\.caption_embedder\.1", before=("time_caption_embed.caption_embedder.0",)),
    ),
    # Instructions stand before a prompt, not before the empty one that guidance leads away from.
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask", negative=2, negative_mask=3)
    ),
)
