"""Stable Cascade: CLIP's rows and pooled embedding in the prior, the pooled embedding alone in the decoder."""

from rece_lightning.models.families.base import Config, Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import POOLED, TEXT


def _places(config: Config) -> tuple[Place, ...]:
    pooled = Place(POOLED, r"clip_txt_pooled_mapper", POOLED)
    # The decoder's configuration says that it reads no rows.
    return (pooled,) if config.get("clip_text_in_channels", 0) is None else (Place(TEXT, r"clip_txt_mapper"), pooled)


CASCADE = Family(
    name="cascade",
    title="Stable Cascade",
    pipelines=("StableCascadePriorPipeline", "StableCascadeDecoderPipeline"),
    denoisers=("prior", "decoder"),
    prompt_first=True,
    places=_places,
    sources=rows_and_pooled(
        Source("prompt_embeds", 0),
        Source("prompt_embeds_pooled", 1, one_row=True),
    ),
    lora=False,
    draws=False,
    note="Prior and decoder are two models; erase from both.",
)
