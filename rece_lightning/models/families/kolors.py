"""Kolors: ChatGLM's rows through a projector, then keys and values of a U-Net of SDXL's kind; its pooled embedding."""

from rece_lightning.models.families.base import Config, Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import ENTRY, POOLED, TEXT


def _pooled_columns(config: Config) -> int:
    """What of the reader's input is not the Fourier features of six numbers: sizes and crops."""
    return int(config["projection_class_embeddings_input_dim"]) - 6 * int(config["addition_time_embed_dim"])


KOLORS = Family(
    name="kolors",
    title="Kolors",
    pipelines=("KolorsPipeline", "KolorsImg2ImgPipeline", "KolorsPAGPipeline"),
    denoisers=("unet",),
    places=(
        Place(TEXT, r"(?:.*\.)?attn2\.to_[kv]", before=("encoder_hid_proj",)),
        Place(ENTRY, r"encoder_hid_proj", instead_of=TEXT),
        Place(POOLED, r"add_embedding\.linear_1", POOLED, columns=_pooled_columns),
    ),
    sources=rows_and_pooled(
        Source("prompt_embeds", 0),
        Source("pooled_prompt_embeds", 2, one_row=True),
    ),
)
