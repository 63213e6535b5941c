"""HunyuanVideo: a language model's rows, read one by one and as their mean; CLIP's pooled embedding."""

from rece_lightning.models.families.base import POOLED_BESIDE_TIME, Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

HUNYUAN_VIDEO = Family(
    name="hunyuan-video",
    title="HunyuanVideo",
    pipelines=("HunyuanVideoPipeline",),
    places=(
        # The mean of mapped rows is the mapped mean: both readers are of one space.
        Place(TEXT, r"context_embedder\.(?:proj_in|time_text_embed\.text_embedder\.linear_1)"),
        POOLED_BESIDE_TIME,
    ),
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, mask=2, mask_argument="prompt_attention_mask"),
        Source("pooled_prompt_embeds", 1, ("text_encoder_2",), one_row=True),
    ),
    negative=False,
    call={"num_frames": 1},
)
