"""Fine-tuning an erased model brings the concept back; with the ``Erase`` callback it stays away.

    python examples/erase_while_finetuning.py --pictures 8

The embedded world loses the bomb, then is fine-tuned twice from there, on the same pictures in the same order:
the world's own, with all its captions, a fifth of them bombs. Once alone, once with the callback. How often a
detector sees the bomb (for kept objects: the object that was asked for), with 95 % intervals, after 60 steps of 16:

=================  ==============  ==============  ================  ============
U-Net              its names       its synonyms    the empty prompt  kept objects
=================  ==============  ==============  ================  ============
original            97 % (84–99)   100 % (86–100)  0 % (0–11)        97 % (84–99)
erased               0 % (0–11)      0 % (0–14)    0 % (0–11)        97 % (84–99)
fine-tuned alone   100 % (89–100)  100 % (86–100)  0 % (0–11)        94 % (80–98)
with the callback    6 % (2–20)     12 % (4–31)    6 % (2–20)        81 % (65–91)
=================  ==============  ==============  ================  ============

This trains the key and value projections, as Custom Diffusion does. Where the whole U-Net is trained the callback
only slows the return: what no edit reaches learns the bomb too. With ``--train all --learning-rate 3e-4 --steps 90
--pictures 8``:

=================  ==============  ==============  ================  ============
fine-tuned alone    97 % (84–99)    88 % (69–96)   22 % (11–39)      94 % (80–98)
with the callback   12 % (5–28)     12 % (4–31)    12 % (5–28)       91 % (76–97)
=================  ==============  ==============  ================  ============

An erased prompt means what its target means. So pictures of the bomb with its captions teach the target, here the
empty prompt, to draw bombs: the first thing to do is to leave them out of the training.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

import rece_lightning
from rece_lightning import Method
from rece_lightning.callbacks import Erase
from rece_lightning.core import Derivation
from rece_lightning.emoji.captions import TEMPLATES, random_caption
from rece_lightning.emoji.catalog import WEIGHTS, Catalog, load_catalog
from rece_lightning.emoji.pictures import Renderer, random_indices
from rece_lightning.emoji.training.loop import mixed_precision, multiplies_bfloat16
from rece_lightning.metrics import EmojiDetector, Share

CONCEPT = "bomb"
CONCEPT_SHARE = 0.2
"""Of the pictures that show the concept."""
EMPTY_SHARE = 0.1
"""Of the captions, for classifier-free guidance."""
TRAINED = {"projections": r"\.attn2\.to_[kv]\.", "cross-attention": r"\.attn2\.", "all": ""}

KEPT = ["rocket", "church", "guitar", "pizza", "monkey", "lemon", "airplane", "postbox"]
"""Objects to measure; none of them is in the list of what is preserved."""


def erasure(catalog: Catalog) -> dict[str, Any]:
    """What is erased: the name and its synonyms, in every sentence that the captions know."""
    item = catalog.objects[catalog.names.index(CONCEPT)]
    return {
        "concepts": [item.name, *item.synonyms],
        "templates": ["{}", "a {}", *(template.format("a {}") for template in TEMPLATES[1:])],
        "preserve": [" ", *(name for name in catalog.names[::2] if name not in (CONCEPT, *KEPT))],
        # UCE alone (one epoch) lets the concept come back under some of its sentences.
        "epochs": 4,
        "method": Method(accumulate=True, derivation=Derivation(1e-3)),
    }


class FineTune(LightningModule):
    """An ordinary fine-tuning on latents; it knows nothing of erasure."""

    def __init__(self, pipeline: Any, trained: str, learning_rate: float) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipeline.unet, pipeline.text_encoder
        self.tokenizer, self.scheduler = pipeline.tokenizer, pipeline.scheduler
        self.text_encoder.requires_grad_(False)
        for name, weight in self.unet.named_parameters():
            weight.requires_grad_(re.search(trained, name) is not None)
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> Tensor:
        """Predict the velocity at noise levels spread over the whole range."""
        latents, captions = batch
        count = len(latents)
        levels = ((torch.arange(count) + torch.rand(count)) / count * 1000).long().to(self.device)
        noise = torch.randn(latents.shape).to(latents)
        ids = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = self.text_encoder(ids.to(self.device)).last_hidden_state
        answer = self.unet(self.scheduler.add_noise(latents, noise, levels), levels, states).sample
        return F.mse_loss(answer.float(), self.scheduler.get_velocity(latents, noise, levels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on what is trained."""
        return torch.optim.AdamW([p for p in self.unet.parameters() if p.requires_grad], lr=self.learning_rate)


@torch.no_grad()
def make_pictures(catalog: Catalog, pipeline: Any, count: int) -> list[tuple[Tensor, str]]:
    """Latents of random pictures of the world with random captions, a share of them of the concept."""
    generator, source = torch.Generator().manual_seed(0), random.Random(0)
    objects, styles, backgrounds = random_indices(catalog, count, generator, trained_only=True)
    objects[torch.rand(count, generator=generator) < CONCEPT_SHARE] = catalog.names.index(CONCEPT)
    pictures = Renderer(catalog).render(objects, styles, backgrounds, generator)
    vae = pipeline.vae
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in pictures.split(64)])
    captions = [
        "" if source.random() < EMPTY_SHARE else random_caption(catalog, *indices, source).text
        for indices in torch.stack([objects, styles, backgrounds], dim=1).tolist()
    ]
    return list(zip((latents * vae.config.scaling_factor).cpu(), captions, strict=True))


def fine_tune(pipeline: Any, data: list[tuple[Tensor, str]], options: argparse.Namespace, *callbacks: Callback) -> None:
    """Fine-tune the pipeline's U-Net in place."""
    seed_everything(0)
    trainer = Trainer(
        max_steps=options.steps,
        devices=1,
        precision="bf16-mixed" if multiplies_bfloat16(pipeline.device.type) else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    loader = DataLoader(data, batch_size=options.batch_size)  # type: ignore[arg-type]  # a list is a dataset
    trainer.fit(FineTune(pipeline, TRAINED[options.train], options.learning_rate), loader)


@torch.no_grad()
def measure(pipeline: Any, detector: EmojiDetector, prompts: list[str], concepts: list[str], count: int) -> Share:
    """How often the pictures of prompt i show concept i, ``count`` pictures a prompt."""
    wanted = [
        (prompt, concept, seed) for seed in range(count) for prompt, concept in zip(prompts, concepts, strict=True)
    ]
    hits = 0
    for first in range(0, len(wanted), 64):
        part = wanted[first : first + 64]
        with mixed_precision(pipeline.device.type):
            pictures = pipeline(
                [prompt for prompt, _, _ in part],
                generator=[torch.Generator().manual_seed(seed) for _, _, seed in part],
                num_inference_steps=12,
                guidance_scale=4.0,
                output_type="pt",
            ).images
        hits += int(detector.detect(pictures.float(), [concept for _, concept, _ in part]).sum())
    return Share(hits, len(wanted))


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Share]]:
    """Erase, fine-tune alone and with the callback, measure each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, default=WEIGHTS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--every-n-steps", type=int, default=10)
    parser.add_argument("--train", choices=TRAINED, default="projections")
    parser.add_argument("--pictures", type=int, default=16, help="for each prompt")
    options = parser.parse_args(arguments)
    catalog, detector = load_catalog(), EmojiDetector()
    pipeline = StableDiffusionPipeline.from_pretrained(options.pretrained, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    # On a CPU in bfloat16 the plain attention takes half the fused one's time at 64 positions.
    pipeline.unet.set_attn_processor(AttnProcessor())
    synonyms = catalog.objects[catalog.names.index(CONCEPT)].synonyms
    names = [CONCEPT, *(template.format(f"a {CONCEPT}") for template in TEMPLATES[1:])]
    # Prompts, what each is searched for, pictures a prompt.
    count = options.pictures
    questions = {
        "its names": (names, [CONCEPT] * len(names), count),
        "its synonyms": (list(synonyms), [CONCEPT] * len(synonyms), count),
        "the empty prompt": ([""], [CONCEPT], 4 * count),
        "kept objects": (KEPT, KEPT, (count + 1) // 2),
    }
    table: dict[str, dict[str, Share]] = {}

    def note(row: str) -> None:
        table[row] = {question: measure(pipeline, detector, *asked) for question, asked in questions.items()}
        print(f"{row:24}" + "".join(f"{share!s:>20}" for share in table[row].values()), flush=True)

    data = make_pictures(catalog, pipeline, options.steps * options.batch_size)
    print(" " * 24 + "".join(f"{question:>20}" for question in questions))
    note("original")
    rece_lightning.erase(pipeline, **erasure(catalog))
    erased = copy.deepcopy(pipeline.unet.state_dict())
    note("erased")
    fine_tune(pipeline, data, options)
    note("fine-tuned alone")
    pipeline.unet.load_state_dict(erased)
    fine_tune(pipeline, data, options, Erase(**erasure(catalog), every_n_steps=options.every_n_steps))
    note("with the callback")
    return table


if __name__ == "__main__":
    main()
