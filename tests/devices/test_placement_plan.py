"""The plan of the parts: a pure function of what they need and what is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rece_lightning.devices.plan import HOST, Need, Placed, plan

DRAWING = ("denoise", "decode")


def needs(unet: int, autoencoder: int, text_encoder: int, algebra: int, working: int = 0) -> list[Need]:
    return [
        Need("unet", unet, working, "denoise", DRAWING),
        Need("autoencoder", autoencoder, working, "decode", DRAWING),
        Need("text_encoder", text_encoder, working, "encode", ("encode",)),
        Need("algebra", algebra, working, "edit"),
    ]


SIZE = st.integers(0, 12)
NEEDS = st.builds(needs, SIZE, SIZE, SIZE, SIZE, SIZE)
DEVICES = st.sampled_from([["cuda:0"], ["cuda:1"], ["cuda:0", "cuda:1"], ["cuda:1", "cuda:0", "cuda:2"], []])
OFFLOAD = st.sampled_from([None, True, False])


@st.composite
def free_memory(draw: st.DrawFn) -> dict[str, int]:
    return {device: draw(st.integers(0, 40)) for device in [*draw(DEVICES), HOST]}


def held(rows: Sequence[Placed], device: str) -> int:
    """What a device holds at most, told anew: go through a run and count what lies there at each moment."""
    most = 0
    for moment in ("encode", "edit", "denoise", "decode"):
        here = 0
        for row in rows:
            need = row.need
            away = row.waits and moment not in need.present
            if (row.device == device and not away) or (device == HOST and row.waits):
                here += need.weights
            if row.device == device and need.works == moment:
                here += need.working
        most = max(most, here)
    return most


@given(parts=NEEDS, free=free_memory(), offload=OFFLOAD)
def test_no_device_is_given_more_than_it_has_free_unless_it_is_said(
    parts: list[Need], free: Mapping[str, int], offload: bool | None
) -> None:
    found = plan(parts, free, offload=offload)
    assert found.peaks == {device: held(found.rows, device) for device in free}
    fitting = [row for row in found.rows if row.fits]
    for device, size in free.items():
        assert held(fitting, device) <= size
    for row in found.rows:
        assert row.fits or (row.device == HOST and "nothing has room" in row.why)
    assert all(row.fits for row in found.rows) == all(held(found.rows, device) <= size for device, size in free.items())


@given(parts=NEEDS, free=free_memory(), offload=OFFLOAD)
def test_a_part_is_refused_room_only_where_nothing_has_any(
    parts: list[Need], free: Mapping[str, int], offload: bool | None
) -> None:
    found = plan(parts, free, offload=offload)
    for place, row in enumerate(found.rows):
        if row.fits:
            continue
        before = found.rows[:place]
        for device in free:
            other = Placed(row.need, device, False, True, "")
            if device == HOST or offload is not True or not row.need.present:
                assert held([*before, other], device) > free[device]


@given(parts=NEEDS, free=free_memory(), offload=OFFLOAD, given_parts=st.dictionaries(
    st.sampled_from(["unet", "autoencoder", "text_encoder", "algebra"]), st.sampled_from(["cuda:0", "cuda:1", HOST])
))  # fmt: skip
def test_a_device_that_was_given_wins(
    parts: list[Need], free: dict[str, int], offload: bool | None, given_parts: dict[str, str]
) -> None:
    free = {**free, **{device: free.get(device, 3) for device in given_parts.values()}}
    found = plan(parts, free, given=given_parts, offload=offload)
    assert [row.part for row in found.rows] == [need.part for need in parts]
    for row in found.rows:
        assert row.given == (row.part in given_parts)
        if row.given:
            assert row.device == given_parts[row.part]
            assert row.fits or "given, though it needs" in row.why


@given(parts=NEEDS, free=free_memory(), offload=OFFLOAD)
def test_the_same_numbers_give_the_same_plan(parts: list[Need], free: dict[str, int], offload: bool | None) -> None:
    assert plan(parts, free, offload=offload) == plan(list(parts), dict(free), offload=offload)


@given(parts=NEEDS, free=free_memory())
def test_what_waits_is_what_was_asked_for(parts: list[Need], free: dict[str, int]) -> None:
    for row in plan(parts, free, offload=True).rows:
        assert row.waits == (row.device != HOST and bool(row.need.present))
    assert not any(row.waits for row in plan(parts, free, offload=False).rows)


@given(parts=NEEDS, free=free_memory())
def test_where_the_trainers_device_has_room_for_all_everything_stays_there(
    parts: list[Need], free: dict[str, int]
) -> None:
    home = next(iter(free))
    free[home] = sum(need.weights + need.working for need in parts)
    for row in plan(parts, free).rows:
        assert (row.device, row.waits, row.fits, row.why) == (home, False, True, "the trainer's device")


@given(parts=NEEDS, free=free_memory())
def test_a_trainer_on_the_host_uses_no_accelerator(parts: list[Need], free: dict[str, int]) -> None:
    on_host = {HOST: free[HOST], **free}
    assert {row.device for row in plan(parts, on_host).rows} == {HOST}


# Stable Diffusion 1.4 in float32, in megabytes, with a small batch of pictures.
MODEL = [
    Need("unet", 3438, 2300, "denoise", DRAWING),
    Need("autoencoder", 335, 1200, "decode", DRAWING),
    Need("text_encoder", 492, 400, "encode", ("encode",)),
    Need("algebra", 66, 130, "edit"),
]


@pytest.mark.parametrize(
    ("free", "offload", "places"),
    [
        # A card with room: all stays.
        ({"cuda:0": 24000, HOST: 64000}, None, ["cuda:0"] * 4),
        # The host takes what the card does not.
        ({"cuda:0": 5800, HOST: 64000}, False, ["cuda:0", HOST, HOST, HOST]),
        # Waiting makes room: the text encoder is not there while the U-Net works, which takes more than encoding does.
        ({"cuda:0": 5800, HOST: 64000}, None, ["cuda:0", HOST, "cuda:0 waits", HOST]),
        # The next card comes before waiting and before the host.
        ({"cuda:1": 5800, "cuda:0": 2100, HOST: 64000}, None, ["cuda:1", "cuda:0", "cuda:0", "cuda:0"]),
        ({"cuda:0": 2000, HOST: 64000}, None, [HOST, "cuda:0", "cuda:0 waits", "cuda:0"]),
        ({"cuda:0": 24000, HOST: 64000}, True, [*["cuda:0 waits"] * 3, "cuda:0"]),
        # Host memory must hold what waits.
        ({"cuda:0": 24000, HOST: 4000}, True, ["cuda:0 waits", "cuda:0 waits", HOST, "cuda:0"]),
    ],
)
def test_plans_for_stable_diffusion(free: dict[str, int], offload: bool | None, places: list[str]) -> None:
    rows = plan(MODEL, free, offload=offload).rows
    assert [f"{row.device}{' waits' * row.waits}" for row in rows] == places


def test_a_plan_says_why() -> None:
    row = plan(MODEL, {"cuda:0": 5800, HOST: 64000}).rows
    assert row[0].why == "the trainer's device"
    assert row[1].why == "cuda:0 has no room for it"
    assert row[2].why == "the trainer's device, where it cannot stay; waits in host memory"
    assert plan(MODEL, {"cuda:0": 5800, HOST: 64000}, given={"algebra": "cuda:0"}).rows[3].why == "given"
    (lost,) = plan([Need("unet", 4 * 10**9, 10**9, "denoise", DRAWING)], {HOST: 10**9}).rows
    assert lost.why == "nothing has room for it: it needs 4,000 MB, 1,000 MB more at work, and there is cpu 1,000 MB"
