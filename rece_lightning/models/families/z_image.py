"""Z-Image: as many rows of a language model as there are tokens, normalized and then through one map."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import TEXT

Z_IMAGE = Family(
    name="z-image",
    title="Z-Image",
    pipelines=("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    places=(Place(TEXT, r"cap_embedder\.1", before=("cap_embedder.0",)),),
    sources=rows_and_pooled(Source("prompt_embeds", 0, packed=True, listed=True)),
    unguided=0.0,
    prompt_first=True,
)
