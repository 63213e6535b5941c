"""SA: Selective Amnesia (Heng and Soh, *Selective Amnesia: A Continual Learning Approach*, arXiv 2305.10120)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rece_lightning.baselines.parameters import ALL
from rece_lightning.baselines.trained import TrainedErasure, squares
from rece_lightning.core.errors import ConfigurationError, check_count, check_number
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.devices.memory import free_memory
from rece_lightning.distributed import rank_and_world, summed
from rece_lightning.models.noising import NoisedPictures

COPIES = 4
"""Of what is trained, beside the weights and their originals: Fisher, gradient, and AdamW's two moments."""


class SelectiveAmnesia(TrainedErasure):
    """Forget a concept as a continual learner does, held back where the weights matter (SA, arXiv 2305.10120).

    ``E ‖ε − ε_θ(x_t, c_f)‖² + γ E ‖ε − ε_θ(y_t, c_r)‖² + λ Σ_i F_i (θ_i − θ*_i)²``: surrogate pictures ``x`` (of the
    concept's target) under the forgotten prompt ``c_f``, replayed pictures ``y`` of the preserved prompts ``c_r`` under
    their own, and the diagonal Fisher ``F_i = E (∂ℓ/∂θ_i)²`` of the original weights ``θ*`` for the denoising loss
    ``ℓ`` on pictures of the preserved prompts. All pictures are the original model's. What the model predicts in place
    of the noise (a velocity, a flow) takes its place.

    The Fisher is streamed: picture by picture into one copy of what is trained, and made anew where a run goes on. It
    says how much memory it needs before it draws anything.

    Args:
        pretrained: ``emoji``, a diffusers folder, a checkpoint file, or a hub id.
        revision: of the hub repository.
        variant: of the weight files, such as ``fp16``.
        config: of a checkpoint file.
        parameters: what is trained: ``all`` (published for celebrities), ``rest`` (for nudity), or another choice of
            :class:`rece_lightning.baselines.trained.TrainedErasure`.
        learning_rate: of AdamW.
        batch_size: surrogate pictures of a batch, and replayed ones, on every process.
        batches: of an epoch.
        replay_weight: γ.
        fisher_weight: λ.
        pictures: surrogates, and as many to replay.
        fisher_pictures: noised pictures that the Fisher is the mean of, at most one after another.
        steps: of the sampler that draws the pictures.
        guidance_scale: that they are drawn with.
        draw_together: pictures that are drawn at once.
        seed: of everything random.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched; where memory does not
            suffice, before anything is drawn.
    """

    name: ClassVar[str] = "SA"

    def __init__(
        self,
        pretrained: str = "emoji",
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        parameters: str = ALL,
        learning_rate: float = 1e-5,
        batch_size: int = 4,
        batches: int = 1000,
        replay_weight: float = 1.0,
        fisher_weight: float = 50.0,
        pictures: int = 1000,
        fisher_pictures: int = 1000,
        steps: int = 50,
        guidance_scale: float = 7.5,
        draw_together: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(
            pretrained, revision, variant, config, parameters, learning_rate, batch_size, batches, seed
        )  # fmt: skip
        for setting, number in (
            ("replay_weight", replay_weight),
            ("fisher_weight", fisher_weight),
            ("guidance_scale", guidance_scale),
        ):
            check_number(f"model.{setting}", number)
        for setting, count in (
            ("pictures", pictures),
            ("fisher_pictures", fisher_pictures),
            ("steps", steps),
            ("draw_together", draw_together),
        ):
            check_count(f"model.{setting}", count)
        self.save_hyperparameters()
        self.replay_weight, self.fisher_weight = replay_weight, fisher_weight
        self.pictures, self.fisher_pictures = pictures, fisher_pictures
        self.steps, self.guidance_scale, self.draw_together = steps, guidance_scale, draw_together
        self.preserved: list[str] = []
        self.surrogates = self.replayed = torch.zeros(0)
        """Latents, ``[n, c, h, w]``: the first of the targets in turn, the second of the preserved prompts."""
        self.fisher: dict[str, Tensor] = {}
        """Name in the denoiser → ``F``."""

    def check_data(self, data: ConceptData) -> None:
        """Take the prompts that are replayed.

        Raises:
            ConfigurationError: if there are none.
        """
        self.preserved = list(data.preserved)
        if not self.preserved:
            raise ConfigurationError("data.preserve: SA replays what is preserved, and there is nothing; name some.")

    def prompts(self) -> list[str]:
        """What is encoded beside the empty prompt."""
        return [*super().prompts(), *self.preserved]

    def needed_bytes(self) -> int:
        """Memory beside the model and the originals of what is trained."""
        return COPIES * sum(weight.numel() * weight.element_size() for weight in self.original.values())

    def prepare(self) -> None:
        """Say what is needed; draw the pictures, then sum the Fisher of the original weights."""
        needed, device = self.needed_bytes(), str(self.device)
        free = free_memory([device])[device]
        count = sum(weight.numel() for weight in self.original.values())
        self.print(
            f"SA: {count:,} parameters are trained; Fisher, gradient and AdamW's moments take {needed / 1e6:,.0f} MB "
            f"beside the model, {free / 1e6:,.0f} MB are free on {device}."
        )
        if needed > free:
            raise ConfigurationError(
                f"model.parameters: {self.parameters_trained!r} needs {needed / 1e6:,.0f} MB beside the model, and "
                f"{device} has {free / 1e6:,.0f}; train less, such as keys_values, or take a larger device."
            )
        short = bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        many = max(1 if short else self.pictures, len(self.pairs))
        targets = [self.pairs[place % len(self.pairs)].target for place in range(many)]
        kept = [self.preserved[place % len(self.preserved)] for place in range(many)]
        self.surrogates, self.replayed = (
            self.draw(
                prompts, seed=seed, steps=self.steps, guidance=self.guidance_scale, together=self.draw_together
            )
            for prompts, seed in ((targets, 1000), (kept, 500_000))
        )  # fmt: skip
        self.fisher = self.streamed_fisher(min(self.fisher_pictures, 2) if short else self.fisher_pictures)

    def kept_prompts(self, rows: Tensor) -> list[str]:
        """The prompts of some replayed pictures."""
        return [self.preserved[row % len(self.preserved)] for row in rows.tolist()]

    def fisher_draw(self, number: int) -> tuple[NoisedPictures, list[str]]:
        """A noised picture of the Fisher's mean, and its prompt: by its number alone, whatever the process."""
        source = torch.Generator().manual_seed(self.seed * 1_000_003 + 700_000 + number)
        row = torch.tensor([number % len(self.replayed)])
        return self.noised(self.replayed[row], source), self.kept_prompts(row)

    def streamed_fisher(self, count: int) -> dict[str, Tensor]:
        """``F_i``, the mean of squared gradients over ``count`` noised pictures; the processes share them."""
        rank, world = rank_and_world()
        weights = self.trained()
        totals = [torch.zeros_like(weight) for weight in weights]
        with torch.enable_grad():
            for number in range(rank, count, world):
                pictures, prompts = self.fisher_draw(number)
                loss = squares(self.says(pictures, prompts), pictures.answer)
                # A parameter that a path of the model leaves out has none.
                for total, slope in zip(totals, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                    if slope is not None:
                        total += slope.square() / count
        return {name: summed([total])[0] for name, total in zip(self.original, totals, strict=True)}

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of a batch."""
        rows = torch.randint(len(self.surrogates), (self.batch_size,), generator=generator)
        surrogates = self.noised(self.surrogates[rows], generator)
        forgotten = [self.pairs[row % len(self.pairs)].prompt for row in rows.tolist()]
        rows = torch.randint(len(self.replayed), (self.batch_size,), generator=generator)
        return self.loss_of(surrogates, forgotten, self.noised(self.replayed[rows], generator), self.kept_prompts(rows))

    def loss_of(
        self, surrogates: NoisedPictures, forgotten: Sequence[str], replayed: NoisedPictures, kept: Sequence[str]
    ) -> Tensor:
        """The loss of noised surrogates under forgotten prompts and of replayed pictures under their own, a number."""
        loss = squares(self.says(surrogates, forgotten), surrogates.answer)
        if self.replay_weight:
            loss = loss + self.replay_weight * squares(self.says(replayed, kept), replayed.answer)
        return loss + self.fisher_weight * self.penalty() if self.fisher_weight else loss

    def penalty(self) -> Tensor:
        """``Σ_i F_i (θ_i − θ*_i)²``, a number."""
        pulls = [
            (self.fisher[name] * (weight - old).square()).sum()
            for weight, (name, old) in zip(self.trained(), self.original.items(), strict=True)
        ]
        return torch.stack(pulls).sum()
