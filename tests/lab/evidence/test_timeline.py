import tempfile
import time
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.evidence.timeline import Timeline, read
from unblink.lab.log import monotonic_s


def write(path: Path, *lines: object) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def test_steps_of_the_lab_are_in_seconds_since_the_start() -> None:
    timeline = Timeline(start_s=monotonic_s() - 5)
    timeline.step("fault", "on", kind="drop")
    timeline.step("judge", "detector", at_s=timeline.start_s + 2.5, client="reflector")
    start, on, detector = timeline.steps
    assert start == {"t": 0, "who": "lab", "event": "start", "monotonic_s": round(timeline.start_s, 6)}
    assert 5 <= on["t"] < 6
    assert {**on, "t": 0} == {"t": 0, "who": "fault", "event": "on", "kind": "drop"}
    assert detector == {"t": 2.5, "who": "judge", "event": "detector", "client": "reflector"}


def test_a_timeline_starts_now() -> None:
    before = monotonic_s()
    assert before <= Timeline().start_s <= monotonic_s()


def test_all_files_and_steps_become_one_ordered_timeline(tmp_path: Path) -> None:
    write(tmp_path / "writer.jsonl", {"t": 101.0, "event": "written", "rv": "7"}, {"t": 103.0, "event": "written"})
    write(tmp_path / "apiserver-1.jsonl", {"t": 100.5, "event": "ready"})
    write(tmp_path / "reflector.jsonl", {"t": 101.25, "event": "object", "rv": "7", "source": "watch"})
    write(tmp_path / "sockets.jsonl", {"t": 101.0, "host": "gateway", "sockets": []})
    timeline = Timeline(start_s=100)
    timeline.step("fault", "on", at_s=102)

    steps = timeline.write(tmp_path)

    assert [(step["t"], step["who"], step["event"]) for step in steps] == [
        (0.0, "lab", "start"),
        (0.5, "apiserver-1", "ready"),
        (1.0, "writer", "written"),
        (1.25, "reflector", "object"),
        (2.0, "fault", "on"),
        (3.0, "writer", "written"),
    ]
    assert steps[3] == {"t": 1.25, "who": "reflector", "event": "object", "rv": "7", "source": "watch"}
    written = (tmp_path / "timeline.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line) for line in written] == steps
    assert timeline.write(tmp_path) == steps


def test_envoys_access_log_is_brought_to_the_same_clock(tmp_path: Path) -> None:
    epoch = time.time()
    line = {"start_s": f"{epoch + 2:.6f}", "type": "DownstreamStart", "path": "/x?watch=true", "duration_ms": None}
    ended = {**line, "type": "DownstreamEnd", "duration_ms": 1500}
    write(tmp_path / "access.jsonl", line, ended)
    _, started_step, ended_step = Timeline().write(tmp_path)
    assert (started_step["who"], started_step["event"], started_step["path"]) == (
        "gateway",
        "request-started",
        "/x?watch=true",
    )
    assert abs(started_step["t"] - 2) < 0.2
    assert ended_step["event"] == "request-ended"
    assert round(ended_step["t"] - started_step["t"], 3) == 1.5


def test_a_torn_line_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "store.jsonl").write_bytes(b'{"t":11.0,"event":"ready"}\nTraceback\n[]\n{"t":1')
    assert list(read(tmp_path, 10, 0)) == [
        {"t": 1.0, "who": "store", "event": "ready"},
        {"t": 1.0, "who": "store", "event": "unreadable-line", "line": 2},
        {"t": 1.0, "who": "store", "event": "unreadable-line", "line": 3},
        {"t": 1.0, "who": "store", "event": "unreadable-line", "line": 4},
    ]


@given(st.lists(st.floats(0, 1000, allow_nan=False)))
def test_steps_are_ordered_by_time_and_those_of_one_moment_as_they_were_made(times: list[float]) -> None:
    timeline = Timeline(start_s=0)
    for number, t in enumerate(times):
        timeline.step("lab", "step", at_s=t, number=number)
    with tempfile.TemporaryDirectory() as folder:
        steps = timeline.write(Path(folder))
    assert [(step["t"], step["number"]) for step in steps[1:]] == sorted(
        (round(t, 6), number) for number, t in enumerate(times)
    )
