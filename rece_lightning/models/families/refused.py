"""Pipelines whose text no map on embeddings reaches, or not all of it, and why."""

LLM = (
    "its transformer is a language model that reads the tokens themselves, so there is no text embedding that a linear "
    "map could take in"
)
IMAGE_PRIOR = (
    "its U-Net is given the embedding of a picture that another model, the prior, makes of the text; what it draws is "
    "decided there"
)

REFUSED: dict[str, str] = {
    "OmniGenPipeline": LLM,
    "GlmImagePipeline": (
        "what its picture shows is decided by tokens that a vision-language model makes of the text; the denoiser "
        "reads those as indices, and of the text itself only the letters to draw"
    ),
    **dict.fromkeys(
        (
            "KandinskyPipeline", "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline", "KandinskyCombinedPipeline",
            "KandinskyV22Pipeline", "KandinskyV22Img2ImgPipeline", "KandinskyV22InpaintPipeline",
            "KandinskyV22CombinedPipeline", "KandinskyImg2ImgCombinedPipeline", "KandinskyInpaintCombinedPipeline",
            "KandinskyV22Img2ImgCombinedPipeline", "KandinskyV22InpaintCombinedPipeline",
            "KandinskyV22ControlnetPipeline", "KandinskyV22ControlnetImg2ImgPipeline",
        ),
        IMAGE_PRIOR,
    ),
}  # fmt: skip
"""Class of diffusers → the reason."""
