"""FLUX.1 (dev, schnell, Kontext, Fill, Krea): T5's rows and CLIP's pooled embedding, each through one map."""

from rece_lightning.models.families.base import CONTEXT, POOLED_BESIDE_TIME, Family, Source, rows_and_pooled

FLUX = Family(
    name="flux",
    title="FLUX.1",
    pipelines=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    ),
    places=(CONTEXT, POOLED_BESIDE_TIME),
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, ("text_encoder_2",)),
        Source("pooled_prompt_embeds", 1, one_row=True),
    ),
    negative=False,
    original={"context_embedder": "txt_in", "time_text_embed.text_embedder.linear_1": "vector_in.in_layer"},
)
