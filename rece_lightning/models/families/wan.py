"""Wan 2.1 and 2.2: UMT5's rows through a projector, then keys and values; 2.2 has a denoiser for each half."""

from rece_lightning.models.families.base import Family, Place, Source, rows_and_pooled
from rece_lightning.models.text_space import ENTRY, TEXT

KEYS_AND_VALUES, PROJECTOR = r"blocks\.\d+\.attn2\.to_[kv]", "condition_embedder.text_embedder"

WAN = Family(
    name="wan",
    title="Wan 2.1, 2.2",
    pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline"),
    denoisers=("transformer", "transformer_2"),
    places=(
        # Each denoiser has a projector of its own, so that what lies behind is two spaces.
        Place(TEXT, KEYS_AND_VALUES, TEXT, (PROJECTOR,), component="transformer"),
        Place(f"{TEXT}_2", KEYS_AND_VALUES, TEXT, (PROJECTOR,), component="transformer_2"),
        Place(ENTRY, r"condition_embedder\.text_embedder\.linear_1", instead_of=TEXT),
    ),
    sources=rows_and_pooled(Source("prompt_embeds", 0)),
    call={"num_frames": 1},
)
