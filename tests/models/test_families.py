"""Every declared family against what a run of its denoiser shows: the readers are those, they are all, and one map on
them equals the map on the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from rece_lightning.models.denoisers import LiveDenoisers, known_family
from rece_lightning.models.families import FAMILIES
from rece_lightning.models.families.kolors import KOLORS
from rece_lightning.models.live_unet import LiveUnet, pooled_width_of
from rece_lightning.models.text_space import TextSpace
from rece_lightning.models.trace import Call, Trace, calls_of, trace, with_text_of
from tests.helpers.tiny import pipelines, unets
from tests.helpers.tiny.pipelines import BUILDERS, build

# As many tokens for every tokenizer: how many there are, no map on embeddings changes.
ONE, OTHER = "a dog", "a axe"
NAMES = [*BUILDERS, *unets.UNETS, "kolors"]


class AloneUnet(LiveUnet):
    """A U-Net of Stable Diffusion's kind, as the only denoiser of its pipeline."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline.unet, "pipeline", pooled_width_of(pipeline))
        self.parts = {"unet": pipeline.unet}


@dataclass(frozen=True)
class Ran:
    """A tiny pipeline and a step of each of its denoisers."""

    pipeline: Any
    live: LiveDenoisers | AloneUnet
    calls: dict[str, tuple[Call, Call, Call]]
    traces: dict[str, Trace]


class KolorsPipeline:
    """Kolors' denoiser alone: its tokenizer is a file that nobody can write but its makers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            sample_size=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            encoder_hid_dim=24,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
            attention_head_dim=4,
            norm_num_groups=8,
        ).to(torch.float64).eval()  # fmt: skip

    def call(self, text: int, step: int) -> Call:
        """Arguments of a step, of numbers that text and step decide."""
        read, drawn = torch.Generator().manual_seed(text), torch.Generator().manual_seed(100 + step)
        rows, pooled = (torch.randn(*shape, generator=read).double() for shape in ((1, 5, 24), (1, 20)))
        sample = torch.randn(1, 4, 4, 4, generator=drawn).double()
        sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).double()
        added = {"text_embeds": pooled, "time_ids": sizes}
        return (sample, 999 - step), {"encoder_hidden_states": rows, "added_cond_kwargs": added}


def ran_kolors() -> Ran:
    pipeline = KolorsPipeline()
    live = LiveDenoisers(pipeline, KOLORS, "pipeline")
    first, later, other = pipeline.call(1, 0), pipeline.call(1, 1), pipeline.call(2, 0)
    return Ran(pipeline, live, {"unet": (first, later, other)}, {"unet": trace(pipeline.unet, first, later, other)})


@cache
def ran(name: str) -> Ran:
    if name == "kolors":
        return ran_kolors()
    makers = unets if name in unets.UNETS else pipelines
    pipeline = makers.build(name, dtype=torch.float64)
    arguments = {
        key: value.double() if isinstance(value, Tensor) else value for key, value in makers.smallest(name).items()
    }
    family = known_family(pipeline)
    live = AloneUnet(pipeline) if family is None else LiveDenoisers(pipeline, family, "pipeline")
    calls, traces = {}, {}
    for part, denoiser in live.parts.items():
        first, later = calls_of(pipeline, denoiser, ONE, **arguments)
        other = with_text_of(first, later, calls_of(pipeline, denoiser, OTHER, **arguments)[0])
        calls[part] = first, later, other
        traces[part] = trace(denoiser, first, later, other)
    return Ran(pipeline, live, calls, traces)


def of_part(live: LiveDenoisers | AloneUnet, part: str, spaces: Sequence[TextSpace]) -> dict[str, str]:
    """Reader of a part, as it is called there without ``.weight`` → its space."""
    found = {}
    for space in spaces:
        for name in space.readers:
            own, rest = name.split(".", 1) if len(live.parts) > 1 else (part, name)
            if own == part:
                found[rest.removesuffix(".weight")] = space.name
    return found


def entries_of(live: LiveDenoisers | AloneUnet) -> list[TextSpace]:
    """Spaces that the text reaches first."""
    replaced = {space.instead_of for space in live.spaces if space.instead_of}
    behind = {space.name for space in live.spaces if space.before and _has_linear(live, space)}
    return [space for space in live.spaces if space.name not in replaced | behind]


def _has_linear(live: LiveDenoisers | AloneUnet, space: TextSpace) -> bool:
    part = live.parts[space.component or next(iter(live.parts))]
    return any(isinstance(one, nn.Linear) for name in space.before for one in part.get_submodule(name).modules())


def first_tensor(answer: Any) -> Tensor:
    while not isinstance(answer, Tensor):
        answer = answer[0]
    return answer


def run(denoiser: nn.Module, call: Call) -> Tensor:
    with torch.no_grad():
        return first_tensor(denoiser(*call[0], **{**call[1], "return_dict": False}))


def test_every_declared_family_is_tried() -> None:
    tried = {known_family(build(name)).name for name in BUILDERS}  # type: ignore[union-attr]

    assert tried | {"kolors"} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_finds_what_the_family_declares(name: str) -> None:
    one = ran(name)
    for part, traced in one.traces.items():
        assert traced.complete
        entries = {reader for group in traced.entries for reader in group.names}
        assert entries == set(of_part(one.live, part, entries_of(one.live)))
        # What is declared behind a projector reads the text alone too, all of it at the same point.
        groups = {reader: number for number, group in enumerate(traced.groups) for reader in group.names}
        for space in one.live.spaces:
            readers = of_part(one.live, part, [space])
            assert set(readers) <= set(groups)
            if space.before:
                assert len({groups[reader] for reader in readers}) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_without_its_readers_a_denoiser_does_not_know_the_text(name: str) -> None:
    one = ran(name)
    for chosen in alternatives(one.live):
        for part, denoiser in one.live.parts.items():
            first, _, other = one.calls[part]
            assert not torch.equal(run(denoiser, first), run(denoiser, other))
            with changed(one.live, chosen, lambda weight: torch.zeros_like(weight)):
                assert torch.equal(run(denoiser, first), run(denoiser, other))


@pytest.mark.parametrize("name", NAMES)
def test_a_map_on_the_readers_equals_the_map_on_what_they_read(name: str) -> None:
    one = ran(name)
    for chosen in alternatives(one.live):
        maps = {
            space.name: torch.eye(space.width, dtype=torch.float64)
            + 0.3 * torch.randn(space.width, space.width, generator=torch.Generator().manual_seed(5)).double()
            for space in chosen
        }
        for part, denoiser in one.live.parts.items():
            first = one.calls[part][0]
            plain = run(denoiser, first)
            with changed(one.live, chosen, None, maps):
                edited = run(denoiser, first)
            with fed(one.live, part, chosen, maps):
                expected = run(denoiser, first)
            assert not torch.allclose(edited, plain)
            torch.testing.assert_close(edited, expected, rtol=1e-9, atol=1e-10)


def alternatives(live: LiveDenoisers | AloneUnet) -> list[list[TextSpace]]:
    """The spaces that are edited by default, and with each that may take another's place."""
    default = [space for space in live.spaces if space.instead_of is None]
    found = [default]
    for space in live.spaces:
        if space.instead_of is not None:
            found.append([*(one for one in default if one.source != (space.source or space.instead_of)
                            and one.name != space.instead_of), space])  # fmt: skip
    return found


@contextmanager
def changed(
    live: LiveDenoisers | AloneUnet, spaces: Sequence[TextSpace], change: Any, maps: dict[str, Tensor] | None = None
) -> Iterator[None]:
    """Within the block the readers' weights are changed in the columns that read the text."""
    kept = {}
    with torch.no_grad():
        for space in spaces:
            for name, reader in space.readers.items():
                weight = live.module.get_parameter(name)
                kept[name] = weight.clone()
                part = reader.part(weight)
                weight.copy_(reader.whole(weight, change(part) if maps is None else part @ maps[space.name]))
        yield
        for name, weight in kept.items():
            live.module.get_parameter(name).copy_(weight)


@contextmanager
def fed(
    live: LiveDenoisers | AloneUnet, part: str, spaces: Sequence[TextSpace], maps: dict[str, Tensor]
) -> Iterator[None]:
    """Within the block every reader is given ``M c`` in place of ``c``."""
    handles = []
    for stem, space in of_part(live, part, spaces).items():
        reader = next(one for one in spaces if one.name == space)

        def mapped(_: nn.Module, args: tuple[Any, ...], matrix: Tensor = maps[space], width: int = reader.width) -> Any:
            rows = args[0].clone()
            rows[..., :width] = rows[..., :width] @ matrix.T
            return (rows, *args[1:])

        handles.append(live.parts[part].get_submodule(stem).register_forward_pre_hook(mapped))
    yield
    for handle in handles:
        handle.remove()
