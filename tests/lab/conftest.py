"""What tests of the lab share."""

from pathlib import Path

import pytest


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a test's own run goes."""
    return tmp_path / "runs"
