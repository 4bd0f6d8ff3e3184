"""The run's folder: its name, its lock, and what is removed after a run that was cut short."""

import os
import subprocess
import sys
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unblink.lab import folder

STARTED = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)


def test_a_run_is_named_by_date_and_its_secrets_go(tmp_path: Path) -> None:
    with folder.run_folder(tmp_path / "runs", "incident", STARTED) as place:
        assert place.name == "2026-03-01T12-30-05Z-incident"
        assert os.environ[folder.RUN] == str(place)
        (place / folder.SECRETS).mkdir()
        (place / folder.SECRETS / "token").write_text("x")
        (place / "result.json").write_text("{}")
        with folder.run_folder(tmp_path / "runs", "incident", STARTED) as second:
            assert second.name == "2026-03-01T12-30-05Z-incident-2"
        folder.point_latest(place)
    assert folder.RUN not in os.environ
    assert sorted(path.name for path in place.iterdir()) == ["result.json"]
    assert (tmp_path / "runs" / "latest").resolve() == place


def test_latest_moves_on(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with folder.run_folder(tmp_path, name, STARTED) as place:
            folder.point_latest(place)
    assert (tmp_path / "latest").resolve().name.endswith("two")


def test_a_run_that_was_cut_short_is_cleaned_and_one_that_lives_is_not(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    (dead / "cells" / "a").mkdir(parents=True)
    (dead / folder.SECRETS).mkdir()
    (dead / folder.LOCK).touch()
    for leftover in ("admin.sock", "tls-keys.log", "reflector.jsonl"):
        (dead / "cells" / "a" / leftover).touch()
    environment = {**os.environ, folder.RUN: str(dead.resolve())}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as orphan:
        with folder.run_folder(tmp_path, "alive", STARTED) as alive:
            (alive / folder.SECRETS).mkdir()
            (said,) = folder.clean(tmp_path)
            assert (alive / folder.SECRETS).exists()
        assert said.startswith("dead: unfinished; 1 processes ended")
        assert orphan.wait(5) == -9
    assert [path.name for path in sorted(dead.rglob("*"))] == ["cells", "a", "reflector.jsonl"]
    assert folder.clean(tmp_path) == []


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(folder.NoRoom, match="Not a directory"),
        folder.run_folder(tmp_path / "file" / "x", "a", STARTED),
    ):
        pass
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(folder.NoRoom, match="only 1 MB free"), folder.run_folder(tmp_path, "a", STARTED):
        pass
