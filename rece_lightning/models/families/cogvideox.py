"""CogVideoX: T5's rows through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

COGVIDEOX = Family(
    name="cogvideox",
    title="CogVideoX",
    pipelines=(
        "CogVideoXPipeline",
        "CogVideoXImageToVideoPipeline",
        "CogVideoXVideoToVideoPipeline",
        "CogVideoXFunControlPipeline",
    ),
    places=(Place(TEXT, r"patch_embed\.text_proj"),),
    sources=rows_and_pooled(Source("prompt_embeds", 0)),
    call={"num_frames": 1},
)
