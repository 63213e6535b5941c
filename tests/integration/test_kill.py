"""``kill -9`` at any moment leaves a run that goes on and ends as if nothing had happened, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import kills

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(1800)  # a minute where the machine is idle
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_killed_run_ends_as_the_uninterrupted_one(tiny_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.kills", tiny_model, tmp_path / "runs"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("kill ")]
    assert not [row for row in rows if row["differs"]]
    at_random = [row for row in rows if row["kill"] == "random"]
    aimed = [row for row in rows if row["kill"] != "random"]
    fell = Counter(row["fell"] for row in at_random)
    print(
        f"{len(at_random)} random kills:", dict(fell), f"{len(aimed)} aimed:", dict(Counter(r["fell"] for r in aimed))
    )
    assert len(at_random) == kills.RANDOM_KILLS
    assert len(aimed) == kills.AIMED_KILLS
    # They do not all fall into one phase.
    assert len({row["fell"] for row in rows}) >= 3
