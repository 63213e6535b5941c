"""CogView4: GLM's rows, padded on the left to a multiple of 16, through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

COGVIEW4 = Family(
    name="cogview4",
    title="CogView4",
    pipelines=("CogView4Pipeline", "CogView4ControlPipeline"),
    places=(Place(TEXT, r"patch_embed\.text_proj"),),
    sources=rows_and_pooled(Source("prompt_embeds", 0)),
)
