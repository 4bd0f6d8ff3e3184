import asyncio
import struct
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loopback import Exchange, Loopback, serve

from unblink.chain import Http2Ping
from unblink.client.http2 import Http2Connection
from unblink.client.kubeconfig import Access, load
from unblink.client.transport import BodyTooLarge, RequestEnded, Response, connect
from unblink.stream.endings import EndedBy, Ending


def access_to(server: Loopback, folder: Path) -> Access:
    return load(server.kubeconfig(folder))


async def read_to_end(access: Access, at_first_chunk: Callable[[], None]) -> tuple[list[bytes], Ending | None]:
    """The body's chunks, and the ending where it was not clean."""
    chunks = []
    async with await connect(access) as connection:
        response = await connection.request("GET", "/x")
        assert response.status == 200
        try:
            while (chunk := await response.chunk()) is not None:
                chunks.append(chunk)
                at_first_chunk()
        except RequestEnded as ended:
            return chunks, ended.ending
    return chunks, None


def garbage(exchange: Exchange) -> None:
    exchange.raw(b"this is not HTTP/2 " * 9)


ENDINGS: list[tuple[Callable[[Exchange], None], EndedBy | None, str]] = [
    (Exchange.end, None, ""),
    (Exchange.reset, EndedBy.STREAM_RESET, "RST_STREAM INTERNAL_ERROR"),
    (lambda exchange: exchange.reset(8), EndedBy.STREAM_RESET, "RST_STREAM CANCEL"),
    (lambda exchange: exchange.reset(4711), EndedBy.STREAM_RESET, "RST_STREAM error code 4711"),
    (Exchange.close_connection, EndedBy.CONNECTION_LOST, "the peer closed the connection"),
    (Exchange.abort_connection, EndedBy.CONNECTION_LOST, "Connection reset by peer"),
    (garbage, EndedBy.CONNECTION_LOST, "HTTP/2 protocol error of the server"),
]


@pytest.mark.parametrize(("finish", "by", "detail"), ENDINGS)
def test_every_ending_names_its_party(
    tmp_path: Path, finish: Callable[[Exchange], None], by: EndedBy | None, detail: str
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond()
        exchange.data(b"event\n")
        await exchange.until_closed()

    with serve(handler) as server:
        # Only now, because a TCP RST takes with it what the client has not read.
        coroutine = read_to_end(access_to(server, tmp_path), lambda: server.call(lambda: finish(server.exchanges[0])))
        chunks, ending = asyncio.run(coroutine)
    assert chunks == [b"event\n"]
    assert (ending.by if ending else None) == by
    if ending:
        assert ending.detail.startswith(detail)


def test_the_first_bytes_come_at_once_and_not_when_a_buffer_is_full(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond()
        await exchange.until_closed()

    async def run(access: Access) -> None:
        async with await connect(access) as connection:
            async with asyncio.timeout(2):
                response = await connection.request("GET", "/x")
            exchange = server.exchanges[0]
            for number in range(3):
                server.call(lambda: exchange.data(b"%d" % number))  # noqa: B023 - called before the next round
                async with asyncio.timeout(2):
                    assert await response.chunk() == b"%d" % number
            response.close()

    with serve(handler) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_a_stream_outlives_goaway_and_new_requests_are_told(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond()
        exchange.goaway()
        exchange.data(b"after goaway\n")
        await exchange.drained()
        await asyncio.sleep(0.05)
        exchange.data(b"still there\n")
        exchange.end()

    async def run(access: Access) -> None:
        async with await connect(access) as connection:
            response = await connection.request("GET", "/x")
            assert await response.chunk() == b"after goaway\n"
            assert not connection.usable
            with pytest.raises(RequestEnded, match="GOAWAY"):
                await connection.request("GET", "/y")
            assert await response.body(100) == b"still there\n"

    with serve(handler) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_a_stream_above_goaways_last_was_not_processed(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.raw(b"\0\0\x08\x07\0\0\0\0\0" + struct.pack(">II", 0, 0))
        await exchange.until_closed()

    async def run(access: Access) -> None:
        async with await connect(access) as connection:
            with pytest.raises(RequestEnded, match="did not process") as caught:
                await connection.request("GET", "/x")
            assert caught.value.ending.by is EndedBy.STREAM_RESET

    with serve(handler) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_more_than_the_windows_passes_and_comes_whole(tmp_path: Path) -> None:
    size = 20 * 1024 * 1024

    async def handler(exchange: Exchange) -> None:
        exchange.respond()
        await exchange.data_in_windows(b"x" * size)
        exchange.end()

    async def run(access: Access) -> None:
        async with await connect(access) as connection:
            response = await connection.request("GET", "/x")
            assert len(await response.body(size)) == size
            with pytest.raises(BodyTooLarge):
                await (await connection.request("GET", "/x")).body(1000)

    with serve(handler) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_bodies_that_nobody_reads_do_not_use_up_the_connection(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond()
        if exchange.path == "/unread":
            exchange.data(b"x" * 1_000_000)
        exchange.end()

    async def run(access: Access) -> None:
        async with await connect(access) as connection, asyncio.timeout(20):
            for number in range(40):
                unread = await connection.request("GET", "/unread")
                assert await unread.chunk()
                if number % 2:
                    await asyncio.sleep(0.01)  # the rest is here and waits
                unread.close()
            await (await connection.request("GET", "/read")).body(1)

    with serve(handler) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_requests_share_a_connection_and_a_cancelled_one_disturbs_no_other(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/silent":
            await exchange.until_closed()
        exchange.respond(201, body=exchange.body)

    async def run(access: Access) -> int:
        async with await connect(access) as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.request("GET", "/silent")
            bodies = [b"%d" % number * 40_000 for number in range(9)]
            responses = await asyncio.gather(*(connection.request("POST", "/echo", body=body) for body in bodies))
            assert [await response.body(100_000) for response in responses] == bodies
            return connection.local_port

    with serve(handler) as server:
        port = asyncio.run(run(access_to(server, tmp_path)))
        assert {exchange.client_port for exchange in server.exchanges} == {port}
        assert server.exchanges[1].headers["authorization"] == "Bearer test-token"
        assert server.exchanges[1].headers[":authority"] == f"127.0.0.1:{server.port}"


class Wire(asyncio.Transport):
    """What a connection writes, and whether it gave up."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 4711)})
        self.written = bytearray()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def frame(kind: int, payload: bytes, stream_id: int = 0, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


def frames_in(data: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, stream and payload of each frame."""
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3])
        found.append((data[3], int.from_bytes(data[5:9]), bytes(data[9:end])))
        data = data[end:]
    return found


SETTINGS = frame(4, b"")
HEAD = hpack.Encoder().encode([(":status", "200")])


async def opened(
    streams: int = 1, ping: Http2Ping | None = None
) -> tuple[Http2Connection, Wire, list[asyncio.Task[Response]]]:
    """A connection without a network, with requests that wait for their heads."""
    connection, wire = Http2Connection(Access("https", "server", 443), ping), Wire()
    connection.connection_made(wire)
    connection.data_received(SETTINGS)
    requests = [asyncio.ensure_future(connection.request("GET", f"/{number}")) for number in range(streams)]
    await asyncio.sleep(0)
    wire.written.clear()
    return connection, wire, requests


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 3, 5]), st.binary(max_size=50), st.none() | st.integers(0, 20))
        | st.sampled_from(["ping", "window", "goaway"]),
        max_size=15,
    ),
    st.sets(st.sampled_from([1, 3, 5])),
    st.lists(st.integers(0, 1000), max_size=20),
)
def test_any_split_of_the_servers_bytes_gives_the_same_bodies(
    items: list[tuple[int, bytes, int | None] | str], ended: set[int], cuts: list[int]
) -> None:
    sent = {1: b"", 3: b"", 5: b""}
    stream = b"".join(frame(1, HEAD, stream_id, 4) for stream_id in sent)
    for item in items:
        match item:
            case "ping":
                stream += frame(6, b"12345678")
            case "window":
                stream += frame(8, (5).to_bytes(4))
            case "goaway":
                stream += frame(7, (5).to_bytes(4) + bytes(4))
            case (int(stream_id), bytes(data), None):
                stream += frame(0, data, stream_id)
                sent[stream_id] += data
            case (int(stream_id), bytes(data), int(padding)):
                stream += frame(0, bytes([padding]) + data + bytes(padding), stream_id, 8)
                sent[stream_id] += data
    stream += b"".join(frame(0, b"", stream_id, 1) for stream_id in sorted(ended))
    places = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]

    async def run() -> None:
        connection, wire, requests = await opened(3)
        for start, end in pairwise(places):
            connection.data_received(stream[start:end])
        for stream_id, request in zip(sent, requests, strict=True):
            response = await request
            assert b"".join(response.pieces) == sent[stream_id]
            if stream_id in ended:
                assert await response.body(10_000) == sent[stream_id]
        acks = [payload for kind, _, payload in frames_in(bytes(wire.written)) if kind == 6]
        assert acks == [b"12345678"] * items.count("ping")
        assert connection.usable is ("goaway" not in items)
        assert wire.aborted is ("goaway" in items and len(ended) == 3)
        connection.close()

    asyncio.run(run())


@pytest.mark.parametrize("padding", [0, 200])
def test_a_window_is_opened_again_when_half_of_it_was_read(padding: int) -> None:
    async def run() -> None:
        connection, wire, requests = await opened()
        connection.data_received(frame(1, HEAD, 1, 4))
        response = await requests[0]
        payload = bytes([padding - 1]) + bytes(16384 - 1) if padding else bytes(16384)
        read = 0
        for _ in range(31):
            connection.data_received(frame(0, payload, 1, 8 if padding else 0))
            read += len(await response.chunk() or b"")
        assert not [one for one in frames_in(bytes(wire.written)) if one[0] == 8]
        connection.data_received(frame(0, payload, 1, 8 if padding else 0))
        read += len(await response.chunk() or b"")
        assert read == 32 * (16384 - padding)
        assert frames_in(bytes(wire.written)) == [(8, 1, (512 * 1024).to_bytes(4))]
        connection.close()

    asyncio.run(run())


def test_what_nobody_reads_holds_up_only_its_own_stream() -> None:
    async def run() -> None:
        connection, wire, requests = await opened(12)
        for stream_id in range(1, 25, 2):
            connection.data_received(frame(1, HEAD, stream_id, 4) + frame(0, bytes(16384), stream_id) * 64)
        assert [(kind, stream_id) for kind, stream_id, _ in frames_in(bytes(wire.written))] == [(8, 0)]
        assert connection.usable
        connection.data_received(frame(0, b"x", 1))
        with pytest.raises(RequestEnded, match="more DATA than the stream's window"):
            response = await requests[0]
            while await response.chunk():
                pass
        assert wire.aborted

    asyncio.run(run())


def test_data_on_a_stream_that_we_gave_up_counts_for_the_connection() -> None:
    async def run() -> None:
        connection, wire, requests = await opened()
        connection.data_received(frame(1, HEAD, 1, 4))
        (await requests[0]).close()
        assert frames_in(bytes(wire.written)) == [(3, 1, (8).to_bytes(4))]
        wire.written.clear()
        connection.data_received(frame(0, bytes(16384), 1) * 513)
        assert frames_in(bytes(wire.written)) == [(8, 0, (513 * 16384).to_bytes(4))]
        assert connection.usable
        connection.close()

    asyncio.run(run())


LENGTH = hpack.Encoder().encode([(":status", "200"), ("content-length", "5")])


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (frame(0, b"x", 7), "DATA on stream 7, which was never opened"),
        (frame(0, b"x", 2), "DATA on stream 2, which was never opened"),
        (frame(0, b"x", 1), "DATA before the response's headers"),
        (frame(1, LENGTH, 1, 4) + frame(0, b"four", 1, 1), "a body of 4 bytes, where content-length says 5"),
        (frame(0, b"\x09abc", 1, 8), "more padding than payload"),
        ((16385).to_bytes(3) + b"\0\0\0\0\0\1", "a frame of 16385 bytes"),
        (frame(6, b"short"), "HTTP/2 protocol error of the server"),
    ],
)
def test_what_a_server_must_not_send_ends_the_connection(bad: bytes, detail: str) -> None:
    async def run() -> None:
        connection, wire, requests = await opened()
        connection.data_received(bad)
        with pytest.raises(RequestEnded, match=detail) as caught:
            response = await requests[0]
            while await response.chunk():
                pass
        assert caught.value.ending.by is EndedBy.CONNECTION_LOST
        assert wire.aborted
        assert not connection.usable

    asyncio.run(run())


def test_a_declared_length_that_is_met_is_a_clean_end_and_the_stream_is_free_again() -> None:
    async def run() -> None:
        connection, wire, requests = await opened()
        connection.data_received(frame(4, b"\0\3" + (1).to_bytes(4)))
        assert connection.spare == 0
        with pytest.raises(RequestEnded, match="in use"):
            await connection.request("GET", "/more")
        connection.data_received(frame(1, LENGTH, 1, 4) + frame(0, b"hello", 1, 1))
        assert await (await requests[0]).body(10) == b"hello"
        assert connection.spare == 1
        another = asyncio.ensure_future(connection.request("GET", "/more"))
        await asyncio.sleep(0)
        connection.data_received(frame(1, HEAD, 3, 5))
        assert await (await another).body(10) == b""
        assert not wire.aborted
        connection.close()

    asyncio.run(run())


def test_a_hundred_requests_may_go_out_before_the_server_said_how_many() -> None:
    async def run() -> None:
        connection = Http2Connection(Access("https", "server", 443))
        assert connection.spare == 0
        connection.connection_made(Wire())
        assert connection.spare == 100
        connection.data_received(SETTINGS)
        assert connection.spare > 100
        connection.close()

    asyncio.run(run())


class VirtualTime(asyncio.SelectorEventLoop):
    """Sleeps to the next timer in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


async def pass_time(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTime)
    until = loop.now_s + seconds
    while loop.now_s < until:
        loop.now_s = round(min(until, loop.now_s + 0.5), 6)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def in_virtual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(coroutine)


def pings(wire: Wire) -> list[bytes]:
    return [payload for kind, _, payload in frames_in(bytes(wire.written)) if kind == 6]


PING = Http2Ping(interval_ms=10_000, timeout_ms=3000)


def test_a_ping_without_an_answer_ends_the_connection_and_all_on_it() -> None:
    async def run() -> None:
        connection, wire, requests = await opened(2, PING)
        await pass_time(9.5)
        assert pings(wire) == []
        await pass_time(0.5)
        assert len(pings(wire)) == 1
        await pass_time(2.5)
        assert connection.usable
        await pass_time(0.5)
        for request in requests:
            with pytest.raises(RequestEnded) as caught:
                await request
            assert caught.value.ending == Ending(EndedBy.CONNECTION_LOST, "HTTP/2 PING unanswered for 3 s")
        assert wire.aborted

    in_virtual_time(run())


def test_answered_pings_go_on_and_bytes_put_the_deadline_off() -> None:
    async def run() -> None:
        connection, wire, requests = await opened(1, PING)
        for number in range(1, 4):
            await pass_time(10)
            assert len(pings(wire)) == number
            await pass_time(2)
            connection.data_received(frame(8, (1).to_bytes(4)))
            await pass_time(2.5)
            assert connection.usable
            connection.data_received(frame(6, b"not that", flags=1))
            connection.data_received(frame(6, pings(wire)[-1], flags=1))
        await pass_time(10)
        connection.close()
        await pass_time(10)
        assert len(pings(wire)) == 4
        with pytest.raises(RequestEnded, match="closed by us"):
            await requests[0]

    in_virtual_time(run())


def test_an_answer_before_our_body_was_sent_is_the_end_of_both() -> None:
    async def run() -> None:
        connection, wire, _ = await opened(0)
        asking = asyncio.ensure_future(connection.request("POST", "/x", body=bytes(70_000)))
        await asyncio.sleep(0)
        wire.written.clear()
        connection.data_received(frame(1, HEAD, 1, 4) + frame(0, b"no", 1, 1))
        assert await (await asking).body(10) == b"no"
        assert frames_in(bytes(wire.written)) == [(3, 1, (8).to_bytes(4))]
        assert connection.idle
        connection.close()

    asyncio.run(run())


def test_a_connection_that_never_stood_has_no_port() -> None:
    assert Http2Connection(Access("https", "127.0.0.1", 1)).local_port == 0


def test_trailers_end_a_body_of_declared_length() -> None:
    trailers = hpack.Encoder().encode([("grpc-status", "0")])

    async def run() -> None:
        connection, wire, requests = await opened()
        connection.data_received(frame(1, LENGTH, 1, 4) + frame(0, b"hello", 1) + frame(1, trailers, 1, 5))
        assert await (await requests[0]).body(10) == b"hello"
        assert connection.idle
        assert not wire.aborted
        connection.close()

    asyncio.run(run())


def test_late_frames_of_an_ended_stream_do_no_harm() -> None:
    async def run() -> None:
        connection, wire, requests = await opened(2)
        connection.data_received(frame(1, HEAD, 1, 4) + frame(0, b"hello", 1, 1) + frame(1, HEAD, 3, 4))
        connection.data_received(frame(8, (5).to_bytes(4), 1) + frame(3, bytes(4), 1) + frame(0, b"x", 1))
        connection.data_received(frame(0, b"still", 3))
        assert await (await requests[0]).body(10) == b"hello"
        assert await (await requests[1]).chunk() == b"still"
        assert not wire.aborted
        connection.close()

    asyncio.run(run())


def test_a_cancelled_read_resets_its_stream_and_no_other() -> None:
    async def run() -> None:
        connection, wire, requests = await opened(2)
        connection.data_received(frame(1, HEAD, 1, 4) + frame(1, HEAD, 3, 4))
        reading = asyncio.ensure_future((await requests[0]).chunk())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert frames_in(bytes(wire.written)) == [(3, 1, (8).to_bytes(4))]
        connection.data_received(frame(0, b"on", 3))
        assert await (await requests[1]).chunk() == b"on"
        assert connection.usable
        connection.close()

    asyncio.run(run())
