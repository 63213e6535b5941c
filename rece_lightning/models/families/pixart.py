"""PixArt-α and -Σ: T5's rows through a projector, then keys and values of every block."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import ENTRY, TEXT

PIXART = Family(
    name="pixart",
    title="PixArt-α, PixArt-Σ",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
    places=(
        Place(TEXT, r"transformer_blocks\.\d+\.attn2\.to_[kv]", before=("caption_projection",)),
        Place(ENTRY, r"caption_projection\.linear_1", instead_of=TEXT),
    ),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask")),
)
