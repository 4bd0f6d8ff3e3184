"""A run on the kube-apiserver and etcd of the machine's own: the same lab, the same predictions."""

import re
from pathlib import Path

import pytest
from tests.inside import inside
from tests.lab import runs
from tests.lab.runs import Run
from tests.lab.test_loopback import forbid_namespaces

from unblink.lab import folder

pytestmark = pytest.mark.needs_namespaces
needs_kube_apiserver = pytest.mark.needs_kube_apiserver

HEALTH_CHECK = "{upstream: {health_check: {path: /readyz, interval_ms: 500, timeout_ms: 300, unhealthy_threshold: 2}}}"
CELLS = [
    runs.QUICK,
    f"{{id: health-check, cure: health check, fault: drop, gateway: {HEALTH_CHECK}}}",
    "{id: rolling-restart, cure: none, fault: rolling-restart, observe_s: 25}",
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of three cells."""
    place = tmp_path_factory.mktemp("real")
    scenario = runs.write(place / "real.yaml", *CELLS, clients="[kubectl, reflector]")
    return runs.run(place / "runs", scenario, "--apiserver", "real")


@needs_kube_apiserver
def test_it_is_what_was_predicted(real: Run) -> None:
    assert real.code == 0, real.out + real.errors
    assert [(row.id, row.ended_by) for row in real.result.cells if row.client == "reflector"] == [
        ("ping", "http2-ping"),
        ("health-check", None),
        ("rolling-restart", "tcp-close"),
    ]
    for row in real.result.cells:
        assert row.exec_survived is None, "exec needs a kubelet"
        assert row.duplicated == 0
        assert (row.blind_s is None) is (row.id == "health-check")


@needs_kube_apiserver
def test_a_rolling_restart_ends_watches_cleanly(real: Run) -> None:
    (reflector,) = [row for row in real.rows("rolling-restart") if row.client == "reflector"]
    assert (reflector.relists, reflector.lost) == (0, 0)
    endings = [line["by"] for line in real.lines("rolling-restart", "reflector.jsonl") if line["event"] == "ended"]
    assert endings[0] == "server-closed"


@needs_kube_apiserver
def test_the_result_names_the_programs(real: Run) -> None:
    assert re.fullmatch(r"kube-apiserver \d+\.\d+\.\d+\S*, etcd \d+\.\d+\.\d+\S*", real.result.versions["apiserver"])


@needs_kube_apiserver
def test_no_data_and_no_process_is_left(real: Run) -> None:
    assert not (real.place / folder.SECRETS).exists()
    assert not list(real.place.rglob("*.wal"))
    assert runs.processes(real.place) == []
    for path in real.place.rglob("*"):
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes(), path


@needs_kube_apiserver
@inside
async def test_on_loopback_a_kill_is_shown_and_a_drop_is_unknown(tmp_path: Path, out: Path) -> None:
    await forbid_namespaces()
    scenario = runs.write(tmp_path / "two.yaml", runs.QUICK, "{id: kill, cure: none, fault: kill}")
    ended = runs.run(out, scenario, "--apiserver", "real")
    assert ended.code == 3, ended.out + ended.errors
    verdicts = {row.id: (row.verdict.value, row.reason) for row in ended.result.cells}
    assert verdicts["kill"][0] == "pass"
    assert verdicts["ping"][0] == "unknown"
    assert "cannot be told to go deaf" in verdicts["ping"][1]


def test_an_etcd_that_ends_is_what_the_lab_tells(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {"kube-apiserver": "exec sleep 60", "etcd": "echo no space left on device >&2; exit 1"}
    for name, script in scripts.items():
        version = f'[ "$1" = --version ] && echo {name} 1.2.3 && exit'
        (tmp_path / name).write_text(f"#!/bin/sh\n{version}\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    ended = runs.run(out, runs.write(tmp_path / "quick.yaml", runs.QUICK), "--apiserver", "real")
    assert ended.code == 2
    assert "unblink: cell ping: store ended by itself with exit code 1: no space left on device" in ended.errors
    assert runs.processes(out) == []
