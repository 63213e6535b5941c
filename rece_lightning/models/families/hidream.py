"""HiDream-I1: every block reads a layer of its own of a language model; T5's rows; both CLIP towers' pooled ones."""

from rece_lightning.models.families.base import Config, Family, Place, Source
from rece_lightning.models.text_space import POOLED, TEXT


def _layers(config: Config) -> list[int]:
    return [int(layer) for layer in config.get("llama_layers") or ()]


def _places(config: Config) -> tuple[Place, ...]:
    tapped = _layers(config)
    spaces = []
    for layer in dict.fromkeys(tapped):
        blocks = "|".join(str(block) for block, one in enumerate(tapped) if one == layer)
        name = f"llama.{layer}"
        spaces.append(Place(name, rf"caption_projection\.(?:{blocks})\.linear", name))
    return (
        Place(TEXT, rf"caption_projection\.{len(tapped)}\.linear"),
        *spaces,
        Place(POOLED, r"p_embedder\.pooled_embedder\.linear_1", POOLED),
    )


def _sources(config: Config) -> dict[str, Source]:
    rows = {
        f"llama.{layer}": Source("prompt_embeds_llama3", 2, ("text_encoder_4",), layer=layer)
        for layer in dict.fromkeys(_layers(config))
    }
    return {
        TEXT: Source("prompt_embeds_t5", 0, ("text_encoder_3",)),
        **rows,
        POOLED: Source("pooled_prompt_embeds", 4, ("text_encoder", "text_encoder_2"), one_row=True),
    }


HIDREAM = Family(
    name="hidream",
    title="HiDream-I1",
    pipelines=("HiDreamImagePipeline",),
    places=_places,
    sources=_sources,
    note="One text space for every layer of the language model that a block reads.",
)
