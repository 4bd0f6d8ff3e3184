"""Runs that several tests read: each is made once."""

from pathlib import Path

import pytest
from tests.lab import runs
from tests.lab.runs import Run


@pytest.fixture(scope="session")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`unblink lab run incident`, once."""
    return runs.run(tmp_path_factory.mktemp("incident"), "incident")


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`unblink lab run faults`, once."""
    return runs.run(tmp_path_factory.mktemp("faults"), "faults")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a test's own run goes."""
    return tmp_path / "runs"
