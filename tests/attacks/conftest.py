"""The embedded world as a victim, loaded once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from rece_lightning.attacks import Goal, Victim, make_goal
from rece_lightning.core.embedding_map import EmbeddingMap
from rece_lightning.core.gram import Gram
from rece_lightning.devices.placement import Placement
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling
from rece_lightning.models.text import PromptEncoder


@pytest.fixture(scope="package")
def base() -> BaseModel:
    return find_base("emoji")


@pytest.fixture(scope="package")
def encoder(base: BaseModel) -> PromptEncoder:
    return load_encoder(base)


@pytest.fixture(scope="package")
def maker(base: BaseModel, encoder: PromptEncoder) -> PictureMaker:
    return PictureMaker.load(base, encoder, Placement(), torch.device("cpu"))


@pytest.fixture(scope="package")
def gram(base: BaseModel) -> Gram:
    return Gram.of(base.read_projections())


@pytest.fixture
def original(maker: PictureMaker, gram: Gram) -> Victim:
    """The original model itself."""
    return Victim(maker, gram=gram, detector=EmojiDetector(), sampling=Sampling(6, 4.0, 16))


@pytest.fixture
def edited(base: BaseModel, maker: PictureMaker, gram: Gram, encoder: PromptEncoder) -> Victim:
    """The model with two directions of the prompt ``bomb`` taken down to a tenth: an edit that can be undone."""
    rows = encoder.encode(["bomb"]).embeddings[0, 1:3].double()
    directions = torch.linalg.qr(rows.mT).Q
    maps = EmbeddingMap(torch.eye(gram.width, dtype=torch.float64) - 0.9 * directions @ directions.mT)
    weights = {name: maps.applied_to(weight) for name, weight in base.read_projections()}
    sampling = Sampling(2, 4.0, 16)
    return Victim(maker, gram=gram, maps=maps, weights=weights, detector=EmojiDetector(), sampling=sampling)


def goal_without_its_words(concept: str, others: Sequence[str] = ()) -> Goal:
    """A goal that no search may reach by the concept's name or synonyms."""
    synonyms = next(item.synonyms for item in load_catalog().objects if item.name == concept)
    return make_goal(concept, synonyms=synonyms, others=others, forbid=(concept, *synonyms))
