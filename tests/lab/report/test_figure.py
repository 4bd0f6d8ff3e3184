from pathlib import Path
from typing import Any

import pytest
from tests.lab.report import made_run
from tests.lab.report.made_run import ALIVE, DEAD, FAULT, GATEWAY, START, dump, step

from unblink.lab.report.figure import Figure, Lane, figure, read_lines


def made(tmp_path: Path, cell: str, real_time: bool = False) -> Figure:
    result = made_run.make(tmp_path, real_time)
    drawn = figure([row for row in result["cells"] if row["evidence"] == cell], tmp_path / cell)
    assert drawn
    return drawn


def lane(drawn: Figure, name: str) -> Lane:
    return next(lane for lane in drawn.lanes if lane.name == name)


def row(**fields: Any) -> dict[str, Any]:
    return {"client": "reflector", "blind_s": 2.0, "bound_s": 3.0, "observed_for_s": 20, **fields}


def test_the_lanes_are_fault_writer_clients_and_exec(tmp_path: Path) -> None:
    drawn = made(tmp_path, "c-tcp-keepalive")
    assert [lane.name for lane in drawn.lanes] == ["fault", "writer", "kubectl", "reflector", "client-go", "exec"]
    assert drawn.fault_on == FAULT
    assert drawn.proof == "3 packets came to the router and none left it"


def test_a_client_that_recovers_shows_its_blind_span_its_bound_and_every_turn(tmp_path: Path) -> None:
    client = lane(made(tmp_path, "c-tcp-keepalive"), "kubectl")
    assert client.blind is not None
    assert client.blind == pytest.approx((FAULT, FAULT + 4.6))
    assert client.bound_at == pytest.approx(FAULT + 5.8)
    assert [mark.kind for mark in sorted(client.marks, key=lambda mark: mark.t)] == [
        "list",
        "watch",
        "last",
        "detector",
        "ended",
        "relist",
        "watch",
        "first",
    ]
    assert {mark.label for mark in client.marks} >= {"detector: tcp_keepalive", "ended: stream-reset"}
    assert not [t for t in client.ticks if FAULT < t < FAULT + 4.6]


@pytest.mark.parametrize(("last_event", "begun"), [(4.0, 5.0), (5.1, 5.1), (9.0, 9.0)])
def test_a_blind_span_begins_where_it_was_measured(tmp_path: Path, last_event: float, begun: float) -> None:
    steps = [
        {"t": 5.0, "who": "fault", "event": "on"},
        {"t": last_event, "who": "judge", "event": "last-event", "client": "reflector"},
        {"t": 3.0, "who": "judge", "event": "last-event", "client": "kubectl"},
        {"t": 20.0, "who": "lab", "event": "end"},
    ]
    dump(tmp_path / "timeline.jsonl", steps)
    drawn = figure([row()], tmp_path)
    assert drawn is not None
    client = lane(drawn, "reflector")
    assert client.blind == pytest.approx((begun, begun + 2.0))
    assert client.bound_at == pytest.approx(begun + 3.0)


def test_a_client_blind_to_the_end_is_shown_to_the_end(tmp_path: Path) -> None:
    drawn = made(tmp_path, "a-no-cure")
    client = lane(drawn, "reflector")
    assert client.blind == (FAULT, drawn.cell_end)
    assert (client.blind_label, client.bound_at) == ("blind to the end", None)
    assert drawn.end == drawn.cell_end


def test_a_long_cell_that_recovers_early_is_cut(tmp_path: Path) -> None:
    drawn = made(tmp_path, "c-tcp-keepalive", real_time=True)
    assert drawn.cell_end >= 890
    assert FAULT + 5.8 < drawn.end < 30


def test_a_long_wait_before_the_fault_is_cut(tmp_path: Path) -> None:
    steps = [step(t, "writer", "written") for t in range(600)]
    dump(tmp_path / "timeline.jsonl", [*steps, step(500, "fault", "on")])
    drawn = figure([row()], tmp_path)
    assert drawn
    assert 490 < drawn.start < 500
    assert 503 < drawn.end < 510


def test_the_exec_session_ends_where_it_was_closed(tmp_path: Path) -> None:
    session = lane(made(tmp_path, "b-stream-idle-timeout"), "exec")
    assert (session.open_from, session.open_to) == (2.5, 8.6)
    assert session.marks[-1].label == "closed: gateway"
    kept = lane(made(tmp_path / "other", "c-tcp-keepalive"), "exec")
    assert kept.open_to is not None
    assert kept.open_to > 39


def test_the_strips_start_with_the_watchs_connection_to_the_faulted_apiserver(tmp_path: Path) -> None:
    drawn = made(tmp_path, "c-tcp-keepalive")
    assert [(strip.name, strip.note) for strip in drawn.strips] == [
        ("gateway → apiserver (watch)", f":50001 → {DEAD}:6443"),
        ("gateway → apiserver", f":50002 → {DEAD}:6443"),
        ("gateway → apiserver", f":50003 → {ALIVE}:6443"),
        ("client → gateway (watch)", f":40001 → {GATEWAY}:443"),
        ("client → gateway (exec)", f":40009 → {GATEWAY}:443"),
    ]
    watch, busy = drawn.strips[:2]
    assert {sample.kind for sample in watch.samples} == {"keepalive"}
    assert watch.gone_at == pytest.approx(FAULT + 4.5, abs=0.26)
    assert busy.gone_at is None
    assert {(sample.kind, sample.unacked) for sample in busy.samples} == {("no timer", 0), ("retransmit", 3)}
    assert 0 < watch.samples[0].t < 1


def test_more_connections_than_fit_are_counted(tmp_path: Path) -> None:
    dump(
        tmp_path / "timeline.jsonl", [step(0, "lab", "start", monotonic_s=START), step(1, "fault", "on", address=DEAD)]
    )
    ports = range(50000, 50007)
    base = {"remote": f"{DEAD}:6443", "state": "established", "timer": "off", "unacked": 0}
    rows = [{**base, "local": f"{GATEWAY}:{port}"} for port in ports]
    dump(tmp_path / "sockets.jsonl", [{"t": START + 1, "host": "gateway", "sockets": rows}])
    drawn = figure([row()], tmp_path)
    assert drawn
    assert (len(drawn.strips), drawn.left_out) == (4, 3)


@pytest.mark.parametrize(
    ("state", "timer", "kind"),
    [
        ("established", "off", "no timer"),
        ("established", "persist", "persist"),
        ("syn-sent", "retransmit", "connecting"),
        ("fin-wait-1", "retransmit", "closing"),
    ],
)
def test_what_a_strip_says_of_a_socket(tmp_path: Path, state: str, timer: str, kind: str) -> None:
    dump(tmp_path / "timeline.jsonl", [step(0, "lab", "start", monotonic_s=START)])
    connection = {"local": "198.18.1.2:40000", "remote": "198.18.2.2:443", "unacked": 0}
    looks = [
        {"t": START, "host": "client", "sockets": [{**connection, "state": "established", "timer": "off"}]},
        {"t": START + 1, "host": "client", "sockets": [{**connection, "state": state, "timer": timer}]},
    ]
    dump(tmp_path / "sockets.jsonl", looks)
    drawn = figure([row()], tmp_path)
    assert drawn
    assert [sample.kind for sample in drawn.strips[0].samples] == ["no timer", kind]


def test_no_timeline_no_figure(tmp_path: Path) -> None:
    assert figure([row()], tmp_path / "missing") is None
    (tmp_path / "timeline.jsonl").write_text("torn\n[]\n{}\n")
    assert figure([row()], tmp_path) is None


@pytest.mark.parametrize("missing", ["fault", "judge", "writer", "reflector", "exec", "gateway", "lab"])
def test_any_part_may_be_missing(tmp_path: Path, missing: str) -> None:
    result = made_run.make(tmp_path)
    path = tmp_path / "c-tcp-keepalive" / "timeline.jsonl"
    dump(path, [said for said in read_lines(path) if said["who"] != missing])
    drawn = figure([row for row in result["cells"] if row["evidence"] == "c-tcp-keepalive"], path.parent)
    assert drawn
    assert drawn.end > drawn.start


def test_the_story_tells_what_matters_in_order_and_in_limits(tmp_path: Path) -> None:
    steps = [step(1, "fault", "on", fault="drop"), step(0.5, "writer", "written", rv="1")]
    steps += [step(2 + number / 100, "reflector", "ended", by="refused") for number in range(100)]
    dump(tmp_path / "timeline.jsonl", steps)
    drawn = figure([row()], tmp_path)
    assert drawn
    assert drawn.story[:2] == [(1, "fault", "on: fault drop"), (2, "reflector", "ended: by refused")]
    assert (len(drawn.story), drawn.untold) == (80, 21)
