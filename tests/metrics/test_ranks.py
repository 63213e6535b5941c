"""Two processes give the figures of one."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import pytest
import torch

from tests.helpers.figures import figures, run, run_second


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    second = multiprocessing.get_context("spawn").Process(target=run_second, args=(port, str(tmp_path)))
    second.start()
    alone = figures(0, 1)
    both = run(0, port)
    second.join()
    of_second = torch.load(tmp_path / "second.pt", weights_only=False)  # the test's own file
    for found in (both, of_second):
        assert found["counts"] == alone["counts"]
        for name, value in alone["sums"].items():
            # float64 sums, taken in another order.
            assert found["sums"][name] == pytest.approx(value, rel=1e-7, abs=1e-9), name
    # The pictures are not all alike, or nothing would have been shown.
    assert alone["counts"]["rate"][1] > 0.8
    assert alone["counts"]["change"][2] < -0.5
    assert len(set(alone["sums"]["kid of seeds"])) == 3
    # Importing the metrics loads no network and nothing that only some of them need.
    assert of_second["loaded"] == []
