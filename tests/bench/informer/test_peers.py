"""Peers that cannot be had are left out with the reason. Nothing is installed here."""

import subprocess
from pathlib import Path

import pytest

from bench.informer import peers


def test_without_go_client_go_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    clients, frames, left_out = peers.client_go()
    assert (clients, frames) == ([], None)
    assert {one.name for one in left_out} == {
        peers.CLIENT_GO_JSON,
        peers.CLIENT_GO_PROTOBUF,
        peers.CLIENT_GO_METADATA,
    }
    assert all("no Go toolchain" in one.why for one in left_out)


def test_a_python_peer_that_cannot_be_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "looking\nno matching distribution\n")

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    clients, left_out = peers.python_peers()
    assert clients == []
    assert [one.name for one in left_out] == list(peers.PYTHON_PEERS)
    assert all(one.why.endswith("cannot be installed: no matching distribution") for one in left_out)


def test_an_environment_that_is_complete_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    (tmp_path / "it-1.0").mkdir()
    (tmp_path / "it-1.0" / "complete").touch()
    monkeypatch.setattr(subprocess, "run", None)
    assert peers.environment("it==1.0") == tmp_path / "it-1.0" / "bin" / "python"


def test_every_peer_has_an_exact_version() -> None:
    assert all("==" in requirement for _, requirement in peers.PYTHON_PEERS.values())
