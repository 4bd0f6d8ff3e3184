"""Rows, the table of open watches and the endings, from lines as Envoy 1.40 wrote them."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.gateway.envoy.access_log import ENDINGS, Row, ending, open_watches, read, rows

START = (
    b'{"bytes_received":0,"bytes_sent":0,"client":"127.0.0.1:41464","client_connection":4,"cluster":"apiserver",'
    b'"details":null,"duration_ms":0,"flags":"-","listener":"127.0.0.1:44653","method":"GET","path":"/x?watch=true",'
    b'"protocol":"HTTP/1.1","server":null,"server_connection":0,"server_failure":null,"server_leg":null,'
    b'"start_s":"1795402198.428490","status":0,"stream":"d94a4bd4","type":"DownstreamStart","user_agent":null}\n'
)
PERIODIC = (
    b'{"bytes_received":0,"bytes_sent":4,"client":"127.0.0.1:41464","client_connection":4,"cluster":"apiserver",'
    b'"details":"via_upstream","duration_ms":1002,"flags":"-","listener":"127.0.0.1:44653","method":"GET",'
    b'"path":"/x?watch=true","protocol":"HTTP/1.1","server":"127.0.0.1:45249","server_connection":5,'
    b'"server_failure":null,"server_leg":"127.0.0.1:59366","start_s":"1795402198.428490","status":200,'
    b'"stream":"d94a4bd4","type":"DownstreamPeriodic","user_agent":null}\n'
)


def row(**changes: object) -> Row:
    return msgspec.structs.replace(next(iter(rows([PERIODIC]))), **changes)


def test_a_row_is_typed() -> None:
    start, periodic = rows([START, PERIODIC])
    assert start.start_s == periodic.start_s == pytest.approx(1795402198.42849)
    assert (start.server, start.server_leg_port, start.status) == (None, None, 0)
    assert (periodic.server, periodic.server_leg_port, periodic.status) == ("127.0.0.1:45249", 59366, 200)
    assert periodic.bytes_sent == 4


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.write_bytes(START + PERIODIC[:40])
    assert [row.type for row in read(log)] == ["DownstreamStart"]


def test_another_file_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(rows([b'{"some":"json"}\n']))


@pytest.mark.parametrize(
    ("path", "is_watch"),
    [
        ("/api/v1/pods?watch=true&resourceVersion=7", True),
        ("/api/v1/pods?limit=5&watch=1", True),
        ("/api/v1/pods?watch=True", True),
        ("/api/v1/pods?watch=false", False),
        ("/api/v1/pods", False),
        ("/api/v1/watch?x=watch", False),
        (None, False),
    ],
)
def test_what_a_watch_is(path: str | None, is_watch: bool) -> None:
    assert row(path=path).is_watch is is_watch


def test_the_table_of_open_watches_has_the_latest_row_of_each() -> None:
    first, second = row(stream="a", duration_ms=1000), row(stream="a", duration_ms=2000)
    other, exec_session = row(stream="b", start_s=1.0), row(stream="c", path="/exec")
    assert open_watches([first, second, other, exec_session]) == [other, second]
    assert open_watches([first, second, row(stream="a", type="DownstreamEnd"), other]) == [other]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans())))
def test_a_watch_is_open_exactly_when_its_last_row_is_no_end(log: list[tuple[str, bool]]) -> None:
    written = [row(stream=stream, type="DownstreamEnd" if end else "DownstreamPeriodic") for stream, end in log]
    last = dict(log)
    assert {watch.stream for watch in open_watches(written)} == {stream for stream, end in last.items() if not end}


def test_an_open_stream_has_no_ending() -> None:
    assert ending(row()) is None


@pytest.mark.parametrize(
    ("flags", "details", "code"),
    [
        ("-", "via_upstream", "server-closed"),
        ("UC", "upstream_reset_after_response_started{connection_termination}", "server-connection-lost"),
        ("UR", "upstream_reset_after_response_started{remote_reset}", "server-reset"),
        ("SI", "stream_idle_timeout", "gateway-stream-idle-timeout"),
        ("DC", "downstream_remote_disconnect", "client-closed"),
        ("NR", "route_not_found", "gateway-no-route"),
        ("URX,UF", "upstream_reset_before_response_started{connection_timeout}", "server-connect-failed"),
        ("-", "something new", "unknown"),
        ("-", None, "unknown"),
    ],
)
def test_who_ended_it(flags: str, details: str | None, code: str) -> None:
    assert ending(row(type="DownstreamEnd", flags=flags, details=details)) == code


def test_every_ending_names_its_party() -> None:
    assert {code.split("-")[0] for code in ENDINGS.values()} == {"client", "gateway", "server"}
