"""What all trained baselines share: a denoiser in ordinary Lightning, of which some parameters follow a loss."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from rece_lightning.baselines.parameters import CHOICES, open_model
from rece_lightning.baselines.texts import Texts, drawn_latents
from rece_lightning.core.errors import ConfigurationError, check_choice, check_count, check_number
from rece_lightning.data.concepts import PromptPair
from rece_lightning.data.datamodule import ConceptData
from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.erasure.loaded import LoadedModel
from rece_lightning.erasure.same import check_same_base, differences
from rece_lightning.models.base import BaseModel
from rece_lightning.models.noising import NoisedPictures, noised, said_of
from rece_lightning.models.sampling import Sampling
from rece_lightning.trainer.handed import data_of
from rece_lightning.trainer.stopwatch import ERASE_SECONDS, Stopwatch
from rece_lightning.version import __version__

STATE = "trained"
"""Of a checkpoint: what the weights in it are of."""
NAMING = ("pretrained", "revision", "variant", "config")
PREFIX = "denoiser."


class Turns:
    """A loader of so many batches with nothing in them: each draws its own content, by its number.

    No sampler has to deal them out: every process has its own turns.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class TrainedErasure(LightningModule):
    """A concept that is trained away: the base of every baseline of this kind.

    Ordinary Lightning: any Trainer with any number of processes (DDP), precision, gradient accumulation and loggers. A
    batch draws pictures, noise and noise levels from a generator that depends on seed, epoch, batch and process alone,
    so that a run that goes on draws what an uninterrupted one would. A checkpoint holds what was trained, not the
    model.

    Args:
        pretrained: of the base model, as for ``RECE``; ``revision``, ``variant`` and ``config`` too.
        parameters: what of the denoiser is trained: ``keys_values`` of the cross-attention, ``cross`` (all of it),
            ``attention`` (all of it, self-attention too), ``rest`` (all but the cross-attention), or ``all``. Of an
            MMDiT ``keys_values`` are those of the text's rows, and ``cross`` and ``rest`` do not exist.
        learning_rate: of AdamW, or of what the method names.
        batch_size: pictures of a batch, on every process.
        batches: of an epoch.
        seed: of everything random.

    Raises:
        ConfigurationError: for every setting that makes no sense, before any model is touched.
    """

    name: ClassVar[str]
    """As tables call it."""

    def __init__(
        self,
        pretrained: str,
        revision: str | None,
        variant: str | None,
        config: str | None,
        parameters: str,
        learning_rate: float,
        batch_size: int,
        batches: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_choice("model.parameters", parameters, CHOICES)
        check_number("model.learning_rate", learning_rate, positive=True)
        check_count("model.batch_size", batch_size)
        check_count("model.batches", batches)
        self.learning_rate, self.batch_size, self.batches, self.seed = learning_rate, batch_size, batches, seed
        self.parameters_trained = parameters
        # Encoder and autoencoder stay out of the module tree: nobody trains them.
        self.loaded = LoadedModel((pretrained, revision, variant, config))
        self.denoiser: nn.Module
        self.original: dict[str, Tensor] = {}
        """Name in the denoiser → what is trained, as it was before."""
        self.concepts: dict[str, Any] = {}
        """What is erased and preserved, in plain types; see :meth:`ConceptData.summary`."""
        self.pairs: list[PromptPair] = []
        self.epochs = 0
        """That were trained, here or in the checkpoint that was loaded."""
        self.sampling = Sampling()
        self.seeds: tuple[int, ...] = (0,)
        self.drawn: Callable[[Sequence[EvaluationPrompt]], dict[str, Any]] | None = None
        """Gives pictures of prompts; see :meth:`validation_step`."""
        self.to_erase = Stopwatch()
        """Preparation and batches so far, those before the checkpoint that was loaded too."""
        self._pipeline: Any = None
        self._texts: Texts | None = None

    # What it works on

    @property
    def base(self) -> BaseModel:
        """The base model, found and checked at first use."""
        return self.loaded.base

    @property
    def placement(self) -> Placement:
        """Which device holds which part: the trainer's."""
        return self.loaded.placement

    @property
    def data(self) -> Any:
        """What the trainer works on: its datamodule, or its loaders as one; see :func:`data_of`."""
        return data_of(self._trainer, self.concepts)

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline with the denoiser in it; loaded at first use."""
        self.build()
        return self._pipeline

    @property
    def texts(self) -> Texts:
        """The prompts that it trains with; there once a fit has begun."""
        assert self._texts is not None
        return self._texts

    def build(self) -> None:
        """Load the model, and choose what of it is trained.

        Raises:
            BaseModelError: if it cannot be loaded, or its denoiser has more parts or another call than is known.
            ConfigurationError: if it makes no pictures from prompts alone, or has no such parameters.
        """
        if self._pipeline is not None:
            return
        pipeline, denoiser, names = open_model(self.base, self.parameters_trained, self.name)
        self.original = {name: denoiser.get_parameter(name).detach().clone() for name in names}
        self.denoiser, self._pipeline = denoiser, pipeline

    def setup(self, stage: str) -> None:
        """Check data and base model before any work, and load the denoiser."""
        data: Any = self.data
        if stage == "fit":
            if not isinstance(data, ConceptData):
                raise ConfigurationError(f"{self.name}: give the trainer a ConceptData, with what is to be erased.")
            self.concepts, self.pairs = data.summary(), list(data.pairs)
            self.check_data(data)
            trainer: Any = self.trainer
            trainer._data_connector.attach_dataloaders(self, train_dataloaders=Turns(self.batches))
        self.build()

    def check_data(self, data: ConceptData) -> None:
        """Refuse concepts that this method cannot work with.

        Raises:
            ConfigurationError: naming them.
        """

    def prompts(self) -> list[str]:
        """What is encoded beside the empty prompt."""
        return [prompt for pair in self.pairs for prompt in (pair.prompt, pair.target)]

    def on_fit_start(self) -> None:
        """Encode the prompts, and prepare what the loss needs of the original model."""
        self.original = {name: weight.to(self._parameter(name)) for name, weight in self.original.items()}
        self.loaded.home = self.device
        zeros = getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False)
        self._texts = Texts(self.loaded.encoder, self.prompts(), zero_empty=zeros)
        self.denoiser.eval()
        if self.only_the_end_is_left:
            return
        with self.holding(self.original), self.to_erase.running():
            self.prepare()

    def prepare(self) -> None:
        """Make what the loss needs, the original weights in place; with several processes each makes its share."""

    # The weights

    def _parameter(self, name: str) -> Tensor:
        return self.denoiser.get_parameter(name)

    def trained(self) -> list[Tensor]:
        """The parameters that are trained, in the order of :attr:`original`."""
        return [self._parameter(name) for name in self.original]

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block the denoiser holds other weights; what is trained comes back behind it."""
        own = {name: self._parameter(name) for name in weights}
        kept = {name: parameter.data for name, parameter in own.items()}
        try:
            for name, parameter in own.items():
                parameter.data = weights[name].to(parameter)
            torch.clear_autocast_cache()  # autocast remembers a parameter, not its values
            yield
        finally:
            for name, parameter in own.items():
                parameter.data = kept[name]
            torch.clear_autocast_cache()

    def weights(self) -> dict[str, Tensor]:
        """What is trained, as it is now: name in the denoiser → tensor."""
        self.build()
        return {name: self._parameter(name).detach() for name in self.original}

    def change(self) -> dict[str, float]:
        """Share of the denoiser's parameters that are trained, and ``‖ΔW‖/‖W‖`` over them."""
        pairs = [(self._parameter(name).detach().double(), old.double()) for name, old in self.original.items()]
        moved = sum(float((new - old.to(new)).square().sum()) for new, old in pairs)
        share = sum(new.numel() for new, _ in pairs) / self.base.parameters
        size = sum(float(old.square().sum()) for _, old in pairs)
        return {"parameters_edited_share": share, "weight_change": (moved / size) ** 0.5}

    # Training

    def generator(self, batch_idx: int) -> torch.Generator:
        """What a batch is drawn with: of seed, epoch, batch and process alone."""
        words = f"{self.seed} {self.current_epoch} {batch_idx} {self.global_rank}"
        number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) % 2**63
        return torch.Generator().manual_seed(number)

    def draw(self, prompts: Sequence[str], *, seed: int, steps: int, guidance: float, together: int) -> Tensor:
        """Latents of a picture a prompt, ``[n, c, h, w]``, on the CPU; see :func:`drawn_latents`."""
        return drawn_latents(
            self.pipeline, self.texts, prompts, seed=seed + self.seed * 1_000_003, steps=steps, guidance=guidance,
            batch_size=together,
        )  # fmt: skip

    def noised(self, latents: Tensor, generator: torch.Generator) -> NoisedPictures:
        """Latents ``[n, c, h, w]`` with noise of evenly distributed levels in them."""
        scheduler = self.pipeline.scheduler
        times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        made = noised(scheduler, latents, times, noise, self.name)
        return NoisedPictures(*(part.to(self.device) for part in (made.noisy, made.timesteps, made.answer)))

    def says(self, pictures: NoisedPictures, prompts: Sequence[str]) -> Tensor:
        """What the denoiser, as it is now, predicts of noised pictures under a prompt each, ``[n, c, h, w]``."""
        rows, pooled = self.texts.at(torch.tensor([self.texts.place(prompt) for prompt in prompts]))
        return said_of(self.denoiser, pictures.noisy, pictures.timesteps, rows, pooled)

    @abstractmethod
    def loss(self, generator: torch.Generator) -> Tensor:
        """The loss of a batch that is drawn with this generator."""

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.loss(self.generator(batch_idx))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=self.batch_size, sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        """Its seconds count."""
        self.to_erase.start()

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        """What follows is no training."""
        self.to_erase.stop()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained."""
        return torch.optim.AdamW(self.trained(), lr=self.learning_rate)

    def on_train_epoch_end(self) -> None:
        """Count it, and log how much has changed."""
        self.epochs = self.current_epoch + 1
        self.log("weight_change", self.change()["weight_change"], sync_dist=True)
        self.log(ERASE_SECONDS, self.to_erase.seconds, sync_dist=True)

    @property
    def only_the_end_is_left(self) -> bool:
        """Whether a resumed ``fit`` has all its epochs, and lacks at most what is written at the end."""
        return self.trainer.ckpt_path is not None and 0 < (self.trainer.max_epochs or 0) <= self.epochs

    def validation_step(
        self, batch: tuple[EvaluationPrompt, ...], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any] | None:
        """Pictures of the prompts, where a callback that measures them has said how they are drawn."""
        return self.drawn(batch) if batch and self.drawn is not None else None

    test_step = predict_step = validation_step

    # Checkpoints

    def description(self) -> dict[str, Any]:
        """Base, concepts, method and version: what a file of trained weights should say of itself."""
        settings = {key: value for key, value in self.hparams.items() if key not in NAMING}
        return {
            "base": self.base.published,
            "fingerprint": self.loaded.fingerprint,
            "concepts": self.concepts,
            "method": {"baseline": self.name, **settings},
            "epochs": self.epochs,
            "version": __version__,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep of the weights what was trained, and say what it is of."""
        wanted = {f"{PREFIX}{name}" for name in self.original}
        checkpoint["state_dict"] = {name: weight for name, weight in checkpoint["state_dict"].items() if name in wanted}
        checkpoint[STATE], checkpoint[ERASE_SECONDS] = self.description(), self.to_erase.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights are of this base, method and list of concepts.

        Raises:
            ConfigurationError: saying what differs.
            BaseModelError: for another base model.
        """
        state = checkpoint.get(STATE)
        if not isinstance(state, dict):
            raise ConfigurationError(f"ckpt_path: the file holds nothing that {self.name} trained.")
        own = self.description()
        for key in ("method", "concepts") if self.concepts else ("method",):
            differs = next(differences(key, state[key], own[key]), None)
            if differs is not None:
                raise ConfigurationError(f"ckpt_path: the checkpoint is of another run: {differs}; start a new one.")
        check_same_base(state, self.loaded.fingerprint, self.base.name)
        self.build()
        self.epochs, self.concepts = int(state["epochs"]), state["concepts"]
        self.to_erase.seconds = float(checkpoint.get(ERASE_SECONDS, 0.0))
        # What was not trained is the model's.
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


def squares(said: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance, in float32 where the predictions are narrower."""
    wide = said if said.dtype == torch.float64 else said.float()
    return (wide - wanted.to(wide)).square().mean()
