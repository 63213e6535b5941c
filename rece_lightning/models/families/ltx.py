"""LTX-Video: T5's rows through a projector, then keys and values of every block."""

from rece_lightning.models.families.base import Family, Source, behind_projector, rows_and_pooled

LTX = Family(
    name="ltx",
    title="LTX-Video",
    pipelines=("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"),
    places=behind_projector("caption_projection"),
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask")),
    call={"num_frames": 1},
)
