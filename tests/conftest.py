"""Settings of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: a failure on one machine is a failure on the next.
settings.register_profile("suite", max_examples=25, deadline=None, derandomize=True, database=None)
# ``pytest --hypothesis-profile=search`` looks further.
settings.register_profile("search", max_examples=500, deadline=None, database=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in Stable Diffusion's layout. Copy it before changing a file."""
    from tests.helpers.models import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=11)
