"""`make peers` on machines of every kind, each with a `go` of its own on PATH."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

BUILD = Path(__file__).resolve().parents[2] / "peers" / "build.py"


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", BUILD)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    folder = tmp_path / "peer"
    folder.mkdir()
    for name in ("main.go", "go.mod", "go.sum"):
        (folder / name).touch()
    return folder


def install_go(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    tools = folder / "tools"
    tools.mkdir()
    (tools / "go").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


WRITES_ITS_OUTPUT = 'case "$1" in build) mkdir -p bin; touch bin/it;; esac'


def test_a_peer_is_built_once(
    build: ModuleType,
    peer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_go(monkeypatch, tmp_path, WRITES_ITS_OUTPUT)
    assert build.build(peer, "it") == 0
    assert build.build(peer, "it") == 0
    assert capsys.readouterr().out == "peers: it built\npeers: it is up to date\n"

    later = (peer / "bin" / "it").stat().st_mtime + 10
    os.utime(peer / "main.go", (later, later))
    assert build.build(peer, "it") == 0
    assert capsys.readouterr().out == "peers: it built\n"


def test_without_go_a_peer_is_left_out(
    build: ModuleType, peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.build(peer, "it") == 0
    assert capsys.readouterr().out == "peers: it left out: there is no Go toolchain on PATH\n"


def test_without_its_modules_a_peer_is_left_out(
    build: ModuleType, peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_go(monkeypatch, tmp_path, "echo reading go.sum >&2; echo no route to host >&2; exit 1")
    assert build.build(peer, "it") == 0
    assert capsys.readouterr().out == "peers: it left out: its modules could not be fetched: no route to host\n"


def test_fetching_modules_has_a_limit(
    build: ModuleType, peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_go(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(build, "FETCH_TIMEOUT_S", 0.1)
    assert build.build(peer, "it") == 0
    assert "could not be fetched within 0.1 s" in capsys.readouterr().out


def test_a_peer_that_does_not_compile_is_an_error(
    build: ModuleType, peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_go(monkeypatch, tmp_path, 'case "$1" in build) echo "main.go:1: wrong" >&2; exit 1;; esac')
    assert build.build(peer, "it") == 1
    assert "main.go:1: wrong" in capsys.readouterr().out
