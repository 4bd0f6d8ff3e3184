"""Whole runs of the lab in namespaces: the incident as predicted, its evidence, and nothing left."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.lab import runs
from tests.lab.runs import Run

from unblink.lab import folder
from unblink.lab.result import CellResult, Result

pytestmark = pytest.mark.needs_namespaces

DOCS = Path(__file__).parents[2] / "docs" / "lab.md"
TOLD_CELLS = {"kill", "rolling-restart"}
BLIND_CELLS = {"a-no-cure", "d-tcp-keepalive-busy", "f-host-vanishes"}
EVIDENCE = {
    "client-leg.pcapng", "server-leg.pcapng", "sockets.jsonl", "kubectl.jsonl", "reflector.jsonl", "access.jsonl",
    "stats.json", "envoy.json", "envoy.log", "writer.jsonl", "exec.jsonl", "apiserver-1.jsonl", "store.jsonl",
    "timeline.jsonl",
}  # fmt: skip


def test_the_incident_is_what_was_predicted(incident: Run) -> None:
    assert incident.code == 0, incident.out + incident.errors
    for row in incident.result.cells:
        assert row.verdict.value == "pass", (row.id, row.client, row.reason)
        if row.id == "b-stream-idle-timeout":
            assert row.ended_by == "stream-idle-timeout"  # whether the client sees again then is chance
        else:
            assert (row.blind_s is None) is (row.id in BLIND_CELLS)
        assert row.exec_survived is (row.id != "b-stream-idle-timeout")
        assert row.duplicated == 0
        if row.bound_s is not None:
            assert row.blind_s is not None
            assert 0 < row.blind_s <= row.bound_s
        if row.id in BLIND_CELLS:
            assert row.client_port_changed is False
            assert row.lost > 10


def test_other_faults_are_what_was_predicted(faults: Run) -> None:
    assert faults.code == 0, faults.out + faults.errors
    ended_by = {row.id: row.ended_by for row in faults.result.cells if row.client == "reflector"}
    assert ended_by == {
        "to-apiserver-tcp-keepalive": "tcp-keepalive",
        "from-apiserver-tcp-keepalive": "tcp-keepalive",
        "gateway-output-http2-ping": "http2-ping",
        "busy-tcp-user-timeout": "tcp-user-timeout",
        "freeze-tcp-keepalive": None,
        "freeze-http2-ping": "http2-ping",
        "drop-health-check": None,
        "kill": "tcp-close",
        "rolling-restart": "tcp-close",
        "drop-watch-idle-timeout": "watch-idle-timeout",
    }
    assert {row.relists for row in faults.rows("rolling-restart") if row.client != "kubectl"} == {0}


def test_the_informer_keeps_its_bound_where_the_others_are_blind(informer: Run) -> None:
    assert informer.code == 0, informer.out + informer.errors
    for row in informer.result.cells:
        assert row.verdict.value == "pass", (row.id, row.client, row.reason)
        if row.client != "informer":
            assert (row.blind_s is None) is (row.id not in TOLD_CELLS), (row.id, row.client)
            continue
        assert row.blind_s is not None
        assert row.bound_s is not None
        assert row.blind_s <= row.bound_s <= 11.5
        assert row.duplicated == 0
        if row.id != "host-vanishes":  # its resourceVersion may be no longer good there
            assert (row.relists, row.lost) == (0, 0)
        assert row.ended_by in {"proof-of-life"} | ({"tcp-close"} if row.id in TOLD_CELLS else set())


def test_the_cut_between_an_apiserver_and_its_store_is_proven(informer: Run) -> None:
    steps = informer.lines("store-cut", "timeline.jsonl")
    (proof,) = [step for step in steps if (step["who"], step["event"]) == ("fault", "proof")]
    assert re.match(r"\d+ packets came to the router and none left it", proof["evidence"])
    (on,) = [step["t"] for step in steps if (step["who"], step["event"]) == ("fault", "on")]
    lost = [step["who"] for step in steps if step["event"] == "store-lost" and step["t"] < on + 22]
    assert lost == ["apiserver-1"]
    sockets = [line for line in informer.lines("store-cut", "sockets.jsonl") if line["host"] == "gateway"]
    served = [row for row in sockets[-1]["sockets"] if row["remote"] == "198.18.11.10:6443"]
    assert served
    assert all((row["state"], row["unacked"]) == ("established", 0) for row in served)


def test_the_table_has_every_row_and_the_report_is_one_file(incident: Run) -> None:
    for row in incident.result.cells:
        assert re.search(rf"{row.id} .*{row.client} .*{row.verdict.value}", incident.out)
    assert str(incident.place / "report.html") in incident.out
    report = (incident.place / "report.html").read_text()
    assert all(row.id in report for row in incident.result.cells)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", report)


def test_the_result_has_the_fields_of_its_page(incident: Run) -> None:
    page = DOCS.read_text()
    table = page[page.index("## result.json") : page.index("## A scenario of your own")]
    named = set(re.findall(r"`(?:cells\[\])?\.?([a-z_]+)`", table))
    assert set(Result.__struct_fields__) | set(CellResult.__struct_fields__) <= named
    assert incident.result.mode == "namespaces"
    assert incident.result.mode_reason is None


def test_every_cell_has_its_evidence(incident: Run) -> None:
    for row in incident.result.cells:
        assert {path.name for path in (incident.place / row.evidence).iterdir()} >= EVIDENCE
    steps = incident.lines("a-no-cure", "timeline.jsonl")
    assert [step["t"] for step in steps] == sorted(step["t"] for step in steps)
    (proof,) = [step for step in steps if (step["who"], step["event"]) == ("fault", "proof")]
    assert proof["proven"]
    assert re.match(r"\d+ packets came to the router and none left it", proof["evidence"])


def test_the_captures_hold_the_keys_of_both_legs(incident: Run) -> None:
    for name in ("client-leg.pcapng", "server-leg.pcapng"):
        capture = (incident.place / "cells" / "a-no-cure" / name).read_bytes()
        assert b"CLIENT_TRAFFIC_SECRET_0 " in capture
        assert len(capture) > 20_000


def test_the_watch_handler_ages_while_its_socket_is_established(incident: Run) -> None:
    ages = [line["watch_age_s"] for line in incident.lines("a-no-cure", "reflector.jsonl") if line["event"] == "alive"]
    assert max(ages) > 22
    last = [line for line in incident.lines("a-no-cure", "sockets.jsonl") if line["host"] == "gateway"][-1]
    (server_leg,) = [row for row in last["sockets"] if row["remote"].startswith("198.18.11.10")]
    assert (server_leg["state"], server_leg["timer"]) == ("established", "off")
    assert server_leg["last_data_recv_ms"] > 20_000


@pytest.mark.needs_go
def test_the_goroutine_dump_shows_the_hung_watch_handler(incident: Run) -> None:
    dump = (incident.place / "cells" / "a-no-cure" / "goroutines.txt").read_text()
    assert "client-go/tools/cache.handleAnyWatch" in dump or "watchHandler" in dump


def test_no_secret_and_no_process_is_left(incident: Run) -> None:
    assert not (incident.place / folder.SECRETS).exists()
    assert not (incident.place / folder.LOCK).exists()
    kept = [path for path in incident.place.rglob("*") if path.is_file()]
    assert not [path for path in kept if path.suffix in {".sock", ".key"} or path.name == "tls-keys.log"]
    for path in kept:
        text = path.read_bytes()
        assert b"PRIVATE KEY" not in text, path
        assert path.suffix == ".pcapng" or b"Bearer " not in text, path
    assert runs.processes(incident.place) == []


def namespaces() -> int:
    """How many network namespaces the processes of this machine are in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(link.readlink())
        except OSError:
            continue
    return len(found)


def until_observing(lab: "subprocess.Popen[str]") -> None:
    assert lab.stderr is not None
    for line in lab.stderr:
        if "observing" in line:
            return
    raise AssertionError("the run ended before it observed anything")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_cut_short_leaves_nothing(tmp_path: Path, out: Path, signum: signal.Signals, code: int) -> None:
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK, observe_s=60)
    lab = runs.start(out, scenario)
    until_observing(lab)
    assert len(runs.processes(out)) == 7
    lab.send_signal(signum)
    lab.communicate(timeout=20)
    assert lab.returncode == code
    deadline = time.monotonic() + 5
    while runs.processes(out):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if signum is signal.SIGKILL:
        cleaned = subprocess.run(runs.command("clean", "--out", str(out)), capture_output=True, text=True, check=True)
        assert "unfinished" in cleaned.stdout
    (place,) = [path for path in out.iterdir() if path.is_dir()]
    assert not (place / folder.SECRETS).exists()
    assert not list(place.rglob("*.sock"))


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path, out: Path) -> None:
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK)
    both = [runs.start(out, scenario) for _ in range(2)]
    for lab in both:
        printed, errors = lab.communicate(timeout=120)
        assert lab.returncode == 0, printed + errors
    assert len([path for path in out.iterdir() if path.is_dir() and not path.is_symlink()]) == 2


def test_an_apiserver_that_dies_by_itself_is_an_error(tmp_path: Path, out: Path) -> None:
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK, observe_s=60)
    lab = runs.start(out, scenario)
    until_observing(lab)
    (victim,) = [pid for pid in runs.processes(out) if b"apiserver-2.json" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    subprocess.run(["kill", "-KILL", str(victim)], check=True)
    _, errors = lab.communicate(timeout=20)
    assert lab.returncode == 2
    assert "unblink: cell ping: apiserver-2 ended by itself with exit code -9" in errors
    assert runs.processes(out) == []
