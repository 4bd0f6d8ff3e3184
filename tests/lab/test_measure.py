"""From made files of a cell to its observation: who ended the watch, ports, watches elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab import stages

from unblink.chain import Gateway
from unblink.lab import measure
from unblink.lab.cell import Stage
from unblink.lab.judge import Observation

AHEAD_S = 1_000_000.0
STEADY_S, FAULT_S, UNTIL_S = 10.0, 20.0, 40.0
SERVED, OTHER = "127.1.11.10:6443", "127.1.12.10:6443"
LEG = "127.1.2.10:40000"
AGENTS = {
    "kubectl": "kubectl/v1.36.2 (linux/amd64) kubernetes/0000000",
    "reflector": "unblink-reflector",
    "informer": "unblink-informer/0.1.0",
    "client-go": "client-go-informer/v0.0.0 (linux/amd64) kubernetes/$Format",
}
Line = dict[str, Any]


def made(folder: Path, gateway: Gateway | None = None) -> Stage:
    stage = stages.made(folder, gateway=gateway)
    stage.steady_s, stage.fault_s, stage.until_s, stage.settled_s = STEADY_S, FAULT_S, UNTIL_S, UNTIL_S
    write(folder / "access.jsonl", [])
    write(folder / "sockets.jsonl", [])
    return stage


def write(path: Path, lines: Sequence[Line]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def stream(watcher: str = "reflector", start_s: float = 5.0, **changes: Any) -> Line:
    """A line of Envoy's access log for an open watch that began at `start_s` of the lab's clock."""
    return {
        "start_s": f"{AHEAD_S + start_s:.6f}",
        "type": "DownstreamPeriodic",
        "stream": f"{watcher}-{start_s}",
        "method": "GET",
        "path": "/api/v1/namespaces/lab/configmaps?watch=true",
        "protocol": "HTTP/2",
        "user_agent": AGENTS[watcher],
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "bytes_received": 0,
        "bytes_sent": 100,
        "duration_ms": 1000,
        "client": "127.1.1.10:50000",
        "listener": "127.1.2.10:8443",
        "client_connection": 1,
        "cluster": "apiserver",
        "server": SERVED,
        "server_leg": LEG,
        "server_connection": 2,
        "server_failure": None,
    } | changes


def ended(at_s: float, flags: str, start_s: float = 5.0, **changes: Any) -> Line:
    """The last line of a watch that ended at `at_s` of the lab's clock."""
    duration_ms = round((at_s - start_s) * 1000)
    return stream(start_s=start_s, type="DownstreamEnd", flags=flags, duration_ms=duration_ms, **changes)


def sockets(t: float, timer: str, local: str = LEG, probes: int = 0, retransmits: int = 0, unacked: int = 0) -> Line:
    row = {"local": local, "timer": timer, "probes": probes, "retransmits": retransmits, "unacked": unacked}
    return {"t": t, "host": "gateway", "sockets": [row]}


def observed(stage: Stage, client: str = "reflector") -> Observation:
    return measure.observation(stage, client, AHEAD_S)


def test_every_client_of_the_lab_is_known_by_its_user_agent() -> None:
    assert measure.USER_AGENTS.keys() == AGENTS.keys()
    assert [agent.partition("/")[0] for agent in AGENTS.values()] == [measure.USER_AGENTS[name] for name in AGENTS]
    assert len(set(measure.USER_AGENTS.values())) == len(AGENTS)


def test_a_watch_is_that_of_the_client_whose_product_it_names(tmp_path: Path) -> None:
    stage = made(tmp_path)
    for client, agent in AGENTS.items():
        others = [stream(other, server=OTHER) for other in AGENTS if other != client]
        for named in (agent, agent.partition("/")[0]):
            write(tmp_path / "access.jsonl", [stream(client, user_agent=named), *others])
            assert observed(stage, client).was_hit


def test_what_the_watcher_held_and_what_it_missed(tmp_path: Path) -> None:
    stage = made(tmp_path)
    events = [(12.0 + number * 0.5, 100 + number) for number in range(48)]
    write(tmp_path / "writer.jsonl", [{"t": t, "event": "written", "rv": str(rv)} for t, rv in events])
    seen = [
        {"t": t, "event": "object", "name": "canary", "type": "MODIFIED", "rv": str(rv), "source": "watch"}
        for t, rv in events
        if not FAULT_S < t < 26
    ]
    relist = {"t": 25.9, "event": "list", "rv": "127", "items": 1, "reason": "relist"}
    late = {**seen[-1], "t": UNTIL_S + 0.1, "rv": "999"}
    write(tmp_path / "reflector.jsonl", [*seen, relist, seen[3], late])
    write(
        tmp_path / "exec.jsonl",
        [{"t": 9.0, "event": "opened"}, *({"t": t, "event": "echo", "ok": True, "seconds": 0.01} for t in (9.1, 40.2))],
    )
    found = observed(stage)
    assert found.blindness.blind_s == pytest.approx(6.0)
    assert (found.lost, found.duplicated, found.relists) == (11, 1, 1)
    assert (found.observed_for_s, found.exec_survived) == (20.0, True)
    assert (found.client_port_changed, found.ended_by, found.ended_after_s) == (None, None, None)


@pytest.mark.parametrize(
    ("flags", "details", "detector"),
    [
        ("SI", "stream_idle_timeout", "stream-idle-timeout"),
        ("-", "via_upstream", "tcp-close"),
        ("UR", "upstream_reset_after_response_started{remote_reset}", "tcp-close"),
        ("UC", "upstream_reset_after_response_started{connection_termination}", "tcp-close"),
        ("DC", "downstream_remote_disconnect", "client-closed"),
        ("UT", "response_timeout", "gateway-request-timeout"),
    ],
)
def test_who_ended_the_watch(tmp_path: Path, flags: str, details: str, detector: str) -> None:
    stage = made(tmp_path)
    write(tmp_path / "access.jsonl", [stream(), ended(24.5, flags, details=details)])
    found = observed(stage)
    assert found.ended_by == detector
    assert found.ended_after_s == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("watcher", "end", "detector"),
    [
        ("informer", ended(24.5, "DC", details="downstream_remote_disconnect"), "proof-of-life"),
        ("informer", ended(24.5, "-", details="downstream_remote_reset"), "proof-of-life"),
        ("informer", ended(10.0, "-"), "proof-of-life"),
        ("informer", ended(9.9, "-"), "tcp-close"),
        ("informer", ended(24.5, "UR"), "tcp-close"),
        ("client-go", ended(10.0, "-"), "tcp-close"),
        ("client-go", ended(24.5, "DC", details="downstream_remote_disconnect"), "client-closed"),
    ],
)
def test_a_watcher_that_asks_for_proof_of_life_ends_its_watches_itself(
    tmp_path: Path, watcher: str, end: Line, detector: str
) -> None:
    stage = made(tmp_path)
    stage.fault_s = 8.0
    path = f"{end['path']}&timeoutSeconds=5"
    write(tmp_path / "access.jsonl", [end | {"user_agent": AGENTS[watcher], "path": path}])
    assert observed(stage, watcher).ended_by == detector


@pytest.mark.parametrize(("server", "was_hit"), [(SERVED, True), (OTHER, False), (None, False)])
def test_whether_the_fault_hit_the_watch(tmp_path: Path, server: str | None, was_hit: bool) -> None:
    stage = made(tmp_path)
    write(tmp_path / "access.jsonl", [stream(start_s=5.0), stream(start_s=9.0, server=server), stream(start_s=21.0)])
    assert observed(stage).was_hit is was_hit


def test_without_a_watch_nothing_was_hit(tmp_path: Path) -> None:
    assert observed(made(tmp_path)).was_hit is False


def test_a_route_of_the_watches_has_an_idle_timeout_of_its_own(tmp_path: Path) -> None:
    stage = made(tmp_path, Gateway(stream_idle_timeout_ms=60_000, watch_idle_timeout_ms=4_000))
    write(tmp_path / "access.jsonl", [ended(24.5, "SI")])
    assert observed(stage).ended_by == "watch-idle-timeout"


@pytest.mark.parametrize(
    ("last", "detector"),
    [
        (sockets(24.2, "keepalive", probes=2), "tcp-keepalive"),
        (sockets(24.2, "retransmit", retransmits=3, unacked=1), "tcp-user-timeout"),
        (sockets(24.2, "persist", probes=1), "tcp-user-timeout"),
        (sockets(24.2, "off"), "tcp-close"),
        # An armed timer says nothing while all is answered: the server may just have closed.
        (sockets(24.2, "keepalive"), "tcp-close"),
        (sockets(24.2, "retransmit", unacked=1), "tcp-close"),
    ],
)
def test_a_lost_connection_is_told_by_its_last_timer(tmp_path: Path, last: Line, detector: str) -> None:
    stage = made(tmp_path)
    write(tmp_path / "access.jsonl", [ended(24.5, "UC")])
    write(
        tmp_path / "sockets.jsonl",
        [
            sockets(23.2, "persist", probes=7),
            last,
            sockets(24.3, "persist", probes=9, local="127.1.2.10:40001"),
            {"t": 24.4, "host": "client", "sockets": []},
            sockets(24.7, "persist", probes=9),
        ],
    )
    assert observed(stage).ended_by == detector


@pytest.mark.parametrize(("count", "detector"), [(1, "http2-ping"), (0, "tcp-keepalive")])
def test_a_ping_without_answer_is_in_the_stats(tmp_path: Path, count: int, detector: str) -> None:
    stage = made(tmp_path)
    write(tmp_path / "access.jsonl", [ended(24.5, "UC")])
    write(tmp_path / "sockets.jsonl", [sockets(24.2, "keepalive", probes=2)])
    write(tmp_path / "stats.json", [{"cluster.apiserver.http2.keepalive_timeout": count}])
    assert observed(stage).ended_by == detector


def test_an_end_after_the_observation_is_none(tmp_path: Path) -> None:
    stage = made(tmp_path)
    write(tmp_path / "access.jsonl", [stream(), ended(UNTIL_S + 0.5, "DC")])
    found = observed(stage)
    assert (found.ended_by, found.ended_after_s) == (None, None)


def test_the_watch_that_counts_is_the_one_open_at_the_fault(tmp_path: Path) -> None:
    stage = made(tmp_path)
    write(
        tmp_path / "access.jsonl",
        [
            ended(8.0, "-", start_s=5.0),
            stream("kubectl", 19.0),
            stream(start_s=19.5, path="/api/v1/namespaces/lab/configmaps?limit=500"),
            stream(start_s=9.0),
            ended(30.0, "SI", start_s=9.0),
            ended(31.0, "DC", start_s=29.0),
        ],
    )
    found = observed(stage)
    assert found.ended_by == "stream-idle-timeout"
    assert found.ended_after_s == pytest.approx(10.0)


@given(st.lists(st.tuples(st.floats(1, 50), st.sampled_from("abc"), st.sampled_from([SERVED, OTHER]))))
def test_ports_and_watches_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, log: list[tuple[float, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("cell")
    stage = made(folder)
    lines = [
        stream(start_s=start_s, stream=str(number), client=port, server=server)
        for number, (start_s, port, server) in enumerate(log)
    ]
    write(folder / "access.jsonl", lines)
    found = observed(stage)
    before = {port for start_s, port, _ in log if start_s <= FAULT_S}
    after = [(port, server) for start_s, port, server in log if FAULT_S < start_s <= UNTIL_S]
    assert found.client_port_changed is (any(port not in before for port, _ in after) if before else None)
    assert found.watches_elsewhere == sum(server == OTHER for _, server in after)


def test_only_an_answered_watch_is_a_watch_elsewhere(tmp_path: Path) -> None:
    stage = made(tmp_path)
    write(
        tmp_path / "access.jsonl",
        [
            stream(),
            stream(start_s=25.0, server=OTHER, status=503),
            stream(start_s=26.0, server=OTHER, status=0),
            stream("kubectl", start_s=27.0, server=OTHER),
        ],
    )
    assert observed(stage).watches_elsewhere == 0
    assert observed(stage, "kubectl").watches_elsewhere == 1


def test_a_client_with_a_bound_is_observed_until_it_holds_what_was_written(tmp_path: Path) -> None:
    stage = made(tmp_path)
    stage.settled_s = 46.0
    write(tmp_path / "access.jsonl", [stream(), stream("informer"), ended(44.0, "DC", watcher="informer")])
    events = [(12.0 + number * 0.5, 100 + number) for number in range(70)]
    write(tmp_path / "writer.jsonl", [{"t": t, "event": "written", "rv": str(rv)} for t, rv in events])
    line = {"event": "object", "name": "canary", "type": "MODIFIED", "source": "watch"}
    held = [line | {"t": max(t, 45.0) if t > 35.0 else t, "rv": str(rv)} for t, rv in events]
    for watcher in ("reflector", "informer"):
        write(tmp_path / f"{watcher}.jsonl", held)
    cut_off, settled = observed(stage), observed(stage, "informer")
    assert (cut_off.observed_for_s, cut_off.blindness.blind_s, cut_off.lost) == (20.0, None, 6)
    assert (settled.observed_for_s, settled.lost) == (26.0, 0)
    assert settled.blindness.blind_s == pytest.approx(10.0)
    assert settled.ended_after_s == pytest.approx(24.0)


def test_the_two_clocks_differ_by_what_is_said() -> None:
    import time

    assert measure.realtime_ahead_s() == pytest.approx(time.time() - time.monotonic(), abs=0.5)
