"""PixArt-α and -Σ: T5's rows through a projector, then keys and values of every block."""

from rece_lightning.models.families.base import Family, Source, behind_projector, rows_and_pooled

PIXART = Family(
    name="pixart",
    title="PixArt-α, PixArt-Σ",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
    lora=False,
    places=behind_projector("caption_projection"),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask")),
)
