"""The embedded world's CLIP: its text tower is the pipeline's text encoder."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from rece_lightning.emoji.captions import Caption, describe, random_caption
from rece_lightning.emoji.catalog import Catalog
from rece_lightning.emoji.pictures import PICTURE_SIZE, Renderer, random_indices
from rece_lightning.emoji.training.loop import mixed_precision, train
from rece_lightning.emoji.training.tokenizer import POSITIONS

WIDTH = 128
CAPTIONS_A_PICTURE = 2


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP in the shapes of the embedded world, with random weights."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_act": "quick_gelu",
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "projection_dim": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": PICTURE_SIZE,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids ``[n, 16]``, padded as Stable Diffusion pads."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt")
    return torch.as_tensor(encoded["input_ids"])


def agreement(captions: list[Caption], triples: list[tuple[int, int, int]]) -> Tensor:
    """Which caption is true of which picture, ``[pictures, captions]`` of 0 and 1.

    Two pictures of a batch often share a caption; counting the second as wrong would teach nonsense.
    """
    rows = [(caption.object, caption.style, caption.background) for caption in captions]
    said = torch.tensor([[-1 if value is None else value for value in row] for row in rows])
    shown = torch.tensor(triples)
    fits = (said[None] == shown[:, None]) | (said[None] == -1)
    return fits.all(dim=-1).float()


def train_clip(
    catalog: Catalog, tokenizer: CLIPTokenizer, folder: Path, *, steps: int, batch: int, device: str, seed: int
) -> tuple[CLIPModel, float]:
    """Train contrastively, several captions a picture. Returns the model and the seconds spent."""
    torch.manual_seed(seed)
    clip = build_clip(tokenizer).to(device)
    # On a CPU in bfloat16 the plain attention takes less than half the fused one's time at 16 tokens.
    clip.set_attn_implementation("eager")
    renderer = Renderer(catalog, device)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        objects, styles, backgrounds = random_indices(catalog, batch, generator, trained_only=False)
        pictures = renderer.render(objects, styles, backgrounds, generator)
        source = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        triples = list(zip(objects.tolist(), styles.tolist(), backgrounds.tolist(), strict=True))
        captions = [random_caption(catalog, *triple, source) for _ in range(CAPTIONS_A_PICTURE) for triple in triples]
        ids = tokenize(tokenizer, [caption.text for caption in captions]).to(device)
        fits = agreement(captions, triples).to(device)
        with mixed_precision(device):
            image = clip.visual_projection(clip.vision_model(pictures).pooler_output)
            text = clip.text_projection(clip.text_model(ids).pooler_output)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = clip.logit_scale.clamp(max=4.6).exp() * image @ text.T
        to_text = -(F.log_softmax(logits, dim=1) * fits / fits.sum(1, keepdim=True)).sum(1).mean()
        to_image = -(F.log_softmax(logits, dim=0) * fits / fits.sum(0, keepdim=True)).sum(0).mean()
        return (to_text + to_image) / 2

    seconds = train("clip", clip, loss_of, steps=steps, learning_rate=1e-3, folder=folder, seed=seed, decay=0.998)
    return clip, seconds


@torch.no_grad()
def zero_shot_accuracy(
    clip: CLIPModel, tokenizer: CLIPTokenizer, catalog: Catalog, *, count: int, device: str, seed: int
) -> tuple[int, int]:
    """Right answers among ``count`` pictures, object by name and style by name."""
    generator = torch.Generator().manual_seed(seed)
    objects, styles, backgrounds = random_indices(catalog, count, generator, trained_only=False)
    pictures = Renderer(catalog, device).render(objects, styles, backgrounds, generator)
    image = F.normalize(clip.visual_projection(clip.vision_model(pictures).pooler_output), dim=-1)

    def answers(texts: list[str]) -> Tensor:
        text = clip.text_projection(clip.text_model(tokenize(tokenizer, texts).to(device)).pooler_output)
        return F.normalize(text, dim=-1)

    right_objects = (image @ answers(list(catalog.names)).T).argmax(1).cpu() == objects
    captions = [[describe(catalog.names[i], style) for i in objects] for style in catalog.styles]
    by_style = torch.stack([(image * answers(texts)).sum(1) for texts in captions])
    return int(right_objects.sum()), int((by_style.argmax(0).cpu() == styles).sum())
