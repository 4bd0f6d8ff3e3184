import asyncio
import contextlib
import ctypes
import io
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import AsyncIPRoute
from tests.inside import inside

from unblink.lab.evidence import sockets
from unblink.lab.evidence.sockets import Row, Table, open_table, parse, sample

SO_ATTACH_FILTER = 26

# an address of this module's own, so that nobody else's connections are in its tables
ADDRESS = f"127.94.{os.getpid() % 250}.7"


@pytest.fixture
def table() -> Iterator[socket.socket]:
    with contextlib.closing(open_table()) as diag:
        yield diag


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server((ADDRESS, 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        yield client, accepted


def wait_for(diag: socket.socket, connection: socket.socket, holds: Callable[[Row], bool]) -> Row:
    """The connection's row as soon as it holds; one sample of a large table can miss it."""
    ends_of = tuple(f"{host}:{port}" for host, port in (connection.getsockname(), connection.getpeername()))
    ends = time.monotonic() + 5
    while True:
        rows = [row for row in sample(diag) if (row["local"], row["remote"]) == ends_of]
        if rows and holds(rows[0]):
            return rows[0]
        assert time.monotonic() < ends, rows
        time.sleep(0.01)


def row_of(diag: socket.socket, connection: socket.socket) -> Row:
    return wait_for(diag, connection, lambda _: True)


def test_an_idle_connection_has_no_timer(table: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
    row = wait_for(table, pair[0], lambda row: row["timer"] == "off")
    host, port = pair[0].getpeername()
    assert (row["remote"], row["state"], row["expires_ms"]) == (f"{host}:{port}", "established", 0)
    assert (row["unacked"], row["send_q"], row["recv_q"], row["retransmits"]) == (0, 0, 0, 0)
    assert row["rto_ms"] >= 200


def test_the_keepalive_timer_is_shown_in_milliseconds(
    table: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    row = row_of(table, pair[0])
    assert row["timer"] == "keepalive"
    assert 25_000 < row["expires_ms"] <= 31_000
    assert row_of(table, pair[1])["timer"] == "off"


def test_data_that_nobody_reads_is_queued_and_a_closed_window_is_probed(
    table: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    client.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += client.send(bytes(1 << 20))
    row = wait_for(table, client, lambda row: row["timer"] == "persist")
    received = row_of(table, accepted)
    assert row["send_q"] + received["recv_q"] == sent
    assert received["recv_q"] > 0
    assert received["last_data_recv_ms"] < 10_000


@inside
async def test_data_that_is_not_acknowledged_is_unacked_and_retransmitted() -> None:
    async with AsyncIPRoute() as ip:
        await ip.link("set", index=(await ip.link_lookup(ifname="lo"))[0], state="up")
    with (
        contextlib.closing(open_table()) as diag,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        drop_all = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
        pointer = struct.pack("@HP", 1, ctypes.addressof(drop_all))
        accepted.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
        client.send(b"to nowhere")
        row = wait_for(diag, client, lambda row: row["retransmits"] >= 1)
        assert row["timer"] == "retransmit"
        assert row["unacked"] == 1
        assert row["send_q"] == len(b"to nowhere")
        assert row["backoff"] >= 1


def test_states_are_named(table: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].shutdown(socket.SHUT_WR)
    assert wait_for(table, pair[0], lambda row: row["state"] == "close-wait")
    assert wait_for(table, pair[1], lambda row: row["state"] == "fin-wait-2")


def test_only_the_connections_of_the_addresses(table: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
    ports = {pair[0].getsockname()[1], pair[1].getsockname()[1]}
    found = {int(row["local"].rpartition(":")[2]) for row in sample(table, {ADDRESS})}
    assert ports <= found
    assert all(ADDRESS in row["local"] + row["remote"] for row in sample(table, {ADDRESS}))
    assert sample(table, {"127.94.251.1"}) == []


def test_listening_sockets_are_left_out(table: socket.socket) -> None:
    with socket.create_server((ADDRESS, 0)):
        assert not [row for row in sample(table, {ADDRESS}) if row["remote"].endswith(":0")]


def test_many_connections_come_in_several_parts(table: socket.socket) -> None:
    def found(endpoint: str) -> int:
        return sum(endpoint in {row["local"], row["remote"]} for row in sample(table))

    with socket.create_server((ADDRESS, 0), backlog=300) as server, contextlib.ExitStack() as opened:
        for _ in range(150):
            opened.enter_context(socket.create_connection(server.getsockname()))
            opened.enter_context(server.accept()[0])
        endpoint = f"{ADDRESS}:{server.getsockname()[1]}"
        assert max(found(endpoint) for _ in range(10)) == 300


def test_a_refusal_of_the_kernel_is_an_error() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        kernel.send(struct.pack("=IHHIIi16x", 36, 2, 0, 0, 0, -13))
        with pytest.raises(PermissionError, match="socket table"):
            sample(ours)


def test_watching_writes_a_line_for_each_host_in_each_period(
    table: socket.socket, pair: tuple[socket.socket, socket.socket]
) -> None:
    class Lines(io.BytesIO):
        def flush(self) -> None:
            if self.getvalue().count(b"\n") >= 4:
                raise asyncio.CancelledError

    stream = Lines()
    tables = {"gateway": Table(table, {ADDRESS}), "client": Table(table, {"127.94.251.1"})}

    async def main() -> None:
        await sockets.watch(stream, tables, 0.01)

    before = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    lines = [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]
    assert [line["host"] for line in lines] == ["gateway", "client", "gateway", "client"]
    assert before <= lines[0]["t"] <= lines[2]["t"] <= time.monotonic()
    assert lines[2]["t"] - lines[0]["t"] >= 0.005
    port = pair[0].getsockname()[1]
    assert any(row["local"].endswith(f":{port}") for row in lines[0]["sockets"])
    assert lines[1]["sockets"] == []


@given(st.binary(min_size=72, max_size=400))
def test_any_message_of_the_least_length_is_read(message: bytes) -> None:
    row = parse(message)
    assert set(row) == Row.__required_keys__
