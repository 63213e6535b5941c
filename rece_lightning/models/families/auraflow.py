"""AuraFlow: UMT5's rows through one map, beside learnt register tokens."""

from rece_lightning.models.families.base import CONTEXT, Family, Source, rows_and_pooled

AURAFLOW = Family(
    name="auraflow",
    title="AuraFlow",
    pipelines=("AuraFlowPipeline",),
    places=(CONTEXT,),
    # Rows of padding are zeros, which is what a map leaves of them.
    sources=rows_and_pooled(Source("prompt_embeds", 0, mask=1, mask_argument="prompt_attention_mask")),
)
