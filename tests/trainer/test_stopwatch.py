"""Seconds of an erasure are added up over what is done for it, and over the runs that it took."""

from __future__ import annotations

import pytest

from rece_lightning.trainer import stopwatch
from rece_lightning.trainer.stopwatch import ERASE_SECONDS, Stopwatch, ToErase


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test moves."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_it_counts_between_start_and_stop_alone(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] += 5
    with watch.running():
        clock[0] += 2
        watch.start()  # it runs already
        clock[0] += 1
    clock[0] += 7
    watch.stop()  # it stands already

    def work(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    assert watch.of(work, 4.0) == 4.0
    assert watch.seconds == 7.0
    with watch.running():
        clock[0] += 1
        assert watch.lap() == 8.0
        clock[0] += 2
    assert watch.lap() == 2.0

    def fails() -> None:
        clock[0] += 3
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watch.of(fails)
    assert watch.seconds == 3.0


def test_an_epochs_seconds_hold_those_before_it_and_begin_anew_with_a_fit(clock: list[float]) -> None:
    spent, history = ToErase(), list[dict[str, float]]()

    def epoch(seconds: float, spent: ToErase = spent) -> float:
        history.append({ERASE_SECONDS: 0.0})
        with spent.watch.running():
            clock[0] += seconds
            history[-1][ERASE_SECONDS] = spent.after(history)
        clock[0] += 50  # pictures
        return history[-1][ERASE_SECONDS]

    with spent.watch.running():
        clock[0] += 1  # what was chosen
    assert [epoch(2), epoch(3)] == [3.0, 6.0]
    # The epochs so far were run anew, without a figure: they are not forgotten.
    history[:] = [{}, {}]
    assert epoch(1) == 7.0
    # A run that goes on counts those of the run before it.
    assert epoch(2, ToErase()) == 9.0
    history.clear()
    assert epoch(4) == 4.0
