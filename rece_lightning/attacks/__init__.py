"""Attacks on an erasure, one a file: model, concept and budget in, adversarial prompts or embeddings out."""

from rece_lightning.attacks.base import AdversarialPrompt, Attack, Budget, Goal, key_of
from rece_lightning.attacks.cce import Cce
from rece_lightning.attacks.derived import Derived, derived_curve
from rece_lightning.attacks.ladder import LADDER, make_attacks
from rece_lightning.attacks.mma import Mma
from rece_lightning.attacks.p4d import P4D
from rece_lightning.attacks.pairs import make_goal
from rece_lightning.attacks.paraphrase import Paraphrase
from rece_lightning.attacks.ring_a_bell import RingABell
from rece_lightning.attacks.ring_a_bell_embedding import RingABellEmbedding
from rece_lightning.attacks.store import AttackStore, read_embeddings
from rece_lightning.attacks.unlearndiffatk import UnlearnDiffAtk
from rece_lightning.attacks.victim import Victim

__all__ = [
    "LADDER",
    "P4D",
    "AdversarialPrompt",
    "Attack",
    "AttackStore",
    "Budget",
    "Cce",
    "Derived",
    "Goal",
    "Mma",
    "Paraphrase",
    "RingABell",
    "RingABellEmbedding",
    "UnlearnDiffAtk",
    "Victim",
    "derived_curve",
    "key_of",
    "make_attacks",
    "make_goal",
    "read_embeddings",
]
