"""The Gram in layer shards: the same sum, and no device that holds more than a layer and its own sum."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rece_lightning.core import Gram
from rece_lightning.core.errors import BaseModelError
from tests.helpers.live_memory import LiveBytes
from tests.helpers.problems import Problem, erasure_problems, relative


def layers(count: int, outputs: int, width: int, dtype: torch.dtype = torch.float32) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(f"layer {n}", torch.randn(outputs, width, generator=generator).to(dtype)) for n in range(count)]


@given(problem=erasure_problems(), shards=st.integers(1, 5))
def test_shards_sum_to_the_gram_of_one_device(problem: Problem, shards: int) -> None:
    """Also with more shards than layers."""
    named = [(str(number), weight) for number, weight in enumerate(problem.weights)]
    whole = Gram.of(named, keep_layers=True)
    sharded = Gram.of(named, keep_layers=True, shards=["cpu"] * shards)
    bound = len(named) * max(len(weight) for weight in problem.weights) * torch.finfo(torch.float64).eps
    assert relative(sharded.total, whole.total) <= bound
    assert torch.equal(sharded.total, sharded.total.T)
    assert sharded.outputs == whole.outputs
    assert whole.layers is not None
    assert sharded.layers is not None
    assert torch.equal(sharded.layers, whole.layers)


def test_one_shard_is_the_device_itself_bit_for_bit() -> None:
    named = layers(5, 24, 16)
    assert torch.equal(Gram.of(named).total, Gram.of(named, shards=["cpu"]).total)


def test_the_layers_go_to_the_shards_in_turn() -> None:
    """On the device ``meta`` nothing can be summed, so the third layer alone is refused there."""
    named = layers(4, 8, 4)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        Gram.of(named, shards=["cpu", "cpu", "meta"])
    assert Gram.of(named[:2], shards=["cpu", "cpu", "meta"]).width == 4


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_beside_what_is_read_a_shard_holds_one_layer_and_its_sum(shards: int) -> None:
    """Counted tensor by tensor; eight layers would show if two of them were held at once."""
    outputs, width = 640, 256
    stored = layers(8, outputs, width)
    layer, square = 8 * outputs * width, 8 * width * width
    totals = []

    def read() -> Iterator[tuple[str, Tensor]]:
        for name, weight in stored:
            totals.append(live.now.get("cpu", 0))
            yield name, weight

    with LiveBytes() as live:
        Gram.of(read(), shards=["cpu"] * shards)
    # Between two layers nothing but the shards' sums is there.
    assert max(totals) <= shards * square * 1.01
    # All shards lie on one device here: their sums, one layer, and at the end the halves that mirror the result.
    assert live.peak["cpu"] <= max(shards * square + layer, (shards + 4) * square) * 1.01
    assert live.peak["cpu"] >= square + layer


def test_a_damaged_layer_is_refused_by_name_on_any_shard() -> None:
    named = layers(3, 8, 4)
    named[1][1][0, 0] = torch.nan
    with pytest.raises(BaseModelError, match=r"^layer 1 holds NaN"):
        Gram.of(named, shards=["cpu", "cpu"])
    with pytest.raises(BaseModelError, match=r"^other reads embeddings 5 wide, other projections 4"):
        Gram.of([*layers(1, 8, 4), ("other", torch.ones(8, 5))], shards=["cpu", "cpu"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here: not run")
def test_shards_on_cuda_and_on_the_host() -> None:
    named = layers(6, 1280, 768, torch.float16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = Gram.of(named, device="cuda", shards=["cuda", "cpu"])
    assert torch.cuda.max_memory_allocated() - before < 8 * (1280 * 768 + 4 * 768 * 768) + (1 << 20)
    assert found.total.device.type == "cuda"
    assert relative(found.total.cpu(), Gram.of(named).total) < 1e-12
