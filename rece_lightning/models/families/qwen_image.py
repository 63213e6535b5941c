"""Qwen-Image: rows of a language model behind a template, normalized and then through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

QWEN_IMAGE = Family(
    name="qwen-image",
    title="Qwen-Image",
    pipelines=(
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
        "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline",
    ),
    places=(Place(TEXT, r"txt_in", before=("txt_norm",)),),
    sources=rows_and_pooled(
        Source("prompt_embeds", 0, mask=1, mask_argument="prompt_embeds_mask", packed=True),
    ),
    guidance="true_cfg_scale",
)
