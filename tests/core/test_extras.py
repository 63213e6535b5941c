"""An extra that fails is one warning; what it is for is decided by the caller."""

from __future__ import annotations

from typing import Any

import pytest

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.core.extras import LONGEST, extra, guard, reason_of


def test_an_error_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with extra("the report") as outcome:
        raise IndexError("list index\nout of range")
    assert capsys.readouterr().err == "Warning: the report is missing: IndexError: list index out of range\n"
    assert outcome.failure == "IndexError: list index out of range"


def test_what_works_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with extra("the report") as outcome:
        pass
    assert outcome.failure is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_goes_through(error: type[BaseException]) -> None:
    with pytest.raises(error), extra("the report"):
        raise error


def test_what_others_wait_for_goes_through() -> None:
    with pytest.raises(IndexError), extra("the report", together=True):
        raise IndexError


def test_a_mistake_goes_through_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigurationError), extra("the report", refusals=True):
        raise ConfigurationError("a field")
    with extra("the report", refusals=True):
        raise IndexError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigurationError("field: value"), "field: value"),
        (ValueError(), "ValueError"),
        (ValueError("\x1b[31mred"), "ValueError: [31mred"),
        (ValueError("x" * 1000), "ValueError: " + "x" * LONGEST + " …"),
    ],
)
def test_a_reason_is_one_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


class Remote:
    """A logger whose server goes away after two calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> str:
        self.calls.append("log_metrics")
        if len(self.calls) > 2:
            raise ConnectionError("gone")
        return "kept"

    def finalize(self, status: str) -> None:
        raise ConnectionError("gone")


def test_a_logger_that_fails_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger: Any = Remote()
    guard([logger])
    guard([logger])
    answers = [logger.log_metrics({}, step=1) for _ in range(4)]
    logger.finalize("success")
    assert answers == ["kept", "kept", None, None]
    assert len(logger.calls) == 4
    said = capsys.readouterr().err
    assert said == "Warning: what Remote logs is missing from now on: ConnectionError: gone\n"
