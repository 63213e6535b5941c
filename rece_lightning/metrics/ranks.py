"""States of all ranks together, for figures beside ``compute``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchmetrics import Metric


@contextmanager
def over_ranks(metric: Metric) -> Iterator[None]:
    """Inside, the metric's states are those of all ranks; every rank must come here. Does nothing on one rank."""
    alone = not metric._is_synced
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn, should_sync=alone, should_unsync=alone):
        yield
