"""`make venv`: what it runs for each state that it can find the environment in."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

INSTALL = Path(__file__).resolve().parents[2] / "requirements" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", INSTALL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def steps(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was run: "venv", "lock" and "unblink"; nothing is really run but the making of a folder."""
    ran: list[str] = []

    def run(*command: str | Path) -> None:
        if "venv" in command:
            make_venv(Path(command[-1]))
            ran.append("venv")
        else:
            ran.append("lock" if "--require-hashes" in command else "unblink")

    monkeypatch.setattr(install, "run", run)
    return ran


def make_venv(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin" / "python").touch()


def test_once_is_enough(install: ModuleType, steps: list[str], tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    assert install.main(venv) == 0
    assert install.main(venv) == 0
    assert steps == ["venv", "lock", "unblink"]


def test_a_new_lock_is_installed_in_place(install: ModuleType, steps: list[str], tmp_path: Path) -> None:
    make_venv(tmp_path)
    install.stamp(tmp_path).write_text("of an older lock\n")
    assert install.main(tmp_path) == 0
    assert steps == ["lock", "unblink"]


def test_an_environment_without_python_or_stamp_is_made_anew(
    install: ModuleType, steps: list[str], tmp_path: Path
) -> None:
    (tmp_path / "stamped").mkdir()
    install.stamp(tmp_path / "stamped").write_text(install.wanted())
    make_venv(tmp_path / "unfinished")
    for venv in ("stamped", "unfinished"):
        steps.clear()
        assert install.main(tmp_path / venv) == 0
        assert steps == ["venv", "lock", "unblink"]


def test_an_old_python_is_refused(
    install: ModuleType,
    steps: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert install.main(tmp_path) == 2
    assert "needs Python 3.11 or later" in capsys.readouterr().err
    assert steps == []


def test_a_python_without_ensurepip_is_refused(
    install: ModuleType,
    steps: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert install.main(tmp_path) == 2
    assert "apt install python3-venv" in capsys.readouterr().err
    assert steps == []


def test_a_step_that_fails_is_named_and_leaves_no_stamp(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert install.main(tmp_path) == 2
    assert "/bin/false -m venv --clear" in capsys.readouterr().err
    assert not install.complete(tmp_path)
