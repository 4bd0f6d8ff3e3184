"""The command: a quick run of what needs neither Go nor another package."""

import json
from pathlib import Path

import pytest

from bench.informer import __main__ as command
from bench.informer import peers, table
from bench.informer.run import Client, Wrong


def test_a_quick_run_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "figures.json"
    assert command.main(["--quick", "--ours", "--json", str(written)]) == table.MADE
    figures = json.loads(written.read_text())
    ours = {peers.OURS, peers.OURS_FULL, peers.OURS_METADATA, peers.MSGSPEC, peers.RAW}
    assert set(figures["speeds"]) == ours
    assert {one["events"] for measured in figures["speeds"].values() for one in measured} == {command.QUICK.changes}
    assert figures["exit_code"] == table.MADE
    printed = capsys.readouterr().out
    assert all(f"{name}  " in printed for name in ours)


def test_ours_failing_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(client: Client, *_: object) -> None:
        raise Wrong(f"{client.name} ended with 1: it fell")

    monkeypatch.setattr(command, "speed", fails)
    assert command.main(["--quick", "--ours"]) == table.FAILED
    assert "unblink ended with 1: it fell" in capsys.readouterr().err
