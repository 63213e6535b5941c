"""Which text spaces are so wide that an erasure keeps their matrices in factors."""

from __future__ import annotations

from collections.abc import Iterable

from rece_lightning.core.factored import pays
from rece_lightning.core.method import Method
from rece_lightning.models.text_space import TextSpace


def kept_in_factors(space: TextSpace, method: Method) -> bool:
    """Whether nothing of a space is formed that is ``d × d``.

    Embeddings wider than 4,096, which all readers together give fewer outputs than that, and a method whose formulas
    take factors: UCE without a robust loop, alone or in RECE's.
    """
    outputs = sum(reader.shape[0] for reader in space.readers.values())
    return method.keeps_factors and pays(space.width, outputs)


def names_in_factors(spaces: Iterable[TextSpace], method: Method) -> frozenset[str]:
    """Names of the spaces that :func:`kept_in_factors`."""
    return frozenset(space.name for space in spaces if kept_in_factors(space, method))
