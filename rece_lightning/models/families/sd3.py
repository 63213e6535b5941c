"""Stable Diffusion 3 and 3.5: CLIP's rows with T5's behind them, and both CLIP towers' pooled embeddings."""

from rece_lightning.models.families.base import CONTEXT, POOLED_BESIDE_TIME, Family, Source, rows_and_pooled

SD3 = Family(
    name="sd3",
    title="Stable Diffusion 3, 3.5",
    pipelines=(
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    ),
    places=(CONTEXT, POOLED_BESIDE_TIME),
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, ("text_encoder", "text_encoder_3")),
        Source("pooled_prompt_embeds", 2, ("text_encoder", "text_encoder_2"), one_row=True),
    ),
    optional=("text_encoder_3",),
    original={"context_embedder": "context_embedder", "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0"},
    note="Without T5, which may be left out, its rows are zeros.",
)
