import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.apiserver.peers import LIMIT_S, Files, Held, connect, echo, run, serving

from unblink.lab.apiserver.asgi import Receive, Scope, Send
from unblink.lab.apiserver.http1 import Http1
from unblink.lab.apiserver.outlet import Outlet


@asynccontextmanager
async def stream(port: int, files: Files) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await connect(port, files.context(alpn="http/1.1"))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader, end: bytes) -> bytes:
    return await asyncio.wait_for(reader.readuntil(end), LIMIT_S)


def test_one_connection_serves_request_after_request_also_pipelined(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), stream(port, files) as (reader, writer):
            writer.write(b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer_of(reader, b"GET /a?b ")).startswith(b"HTTP/1.1 200")
            writer.write(
                b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyGET /d HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            await answer_of(reader, b"POST /c? body")
            await answer_of(reader, b"GET /d? ")

    run(scenario())


def test_without_alpn_it_is_http1(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port):
            reader, writer = await connect(port, files.context(alpn=None))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), LIMIT_S)).startswith(b"HTTP/1.1 200")
            writer.close()

    run(scenario())


def test_a_stream_is_chunked_and_ends_with_the_last_chunk(files: Files) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), stream(port, files) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"transfer-encoding: chunked" in (await answer_of(reader, b"6\r\nfirst\n\r\n")).lower()
            server.go_away()
            app.tick.set()
            await answer_of(reader, b"5\r\ntick\n\r\n")
            server.finish()
            assert await asyncio.wait_for(reader.read(), LIMIT_S) == b"0\r\n\r\n"
            assert app.cancelled

    run(scenario())


def test_go_away_closes_idle_connections(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (server, port), stream(port, files) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await answer_of(reader, b"GET /? ")
            await answer_of(reader, b"0\r\n\r\n")
            server.go_away()
            assert await asyncio.wait_for(reader.read(), LIMIT_S) == b""
            await server.empty()

    run(scenario())


def test_a_client_that_closes_cancels_the_application(files: Files) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), stream(port, files) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.started.wait()
            writer.transport.abort()
            await app.ended.wait()
            assert app.cancelled
            await server.empty()

    run(scenario())


def test_a_waiting_sender_is_told_to_continue(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), stream(port, files) as (reader, writer):
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert (await answer_of(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(b"ok")
            await answer_of(reader, b"PUT /? ok")

    run(scenario())


@pytest.mark.parametrize("request_head", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_a_400_status(files: Files, request_head: bytes) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), stream(port, files) as (reader, writer):
            writer.write(request_head)
            response = await asyncio.wait_for(reader.read(), LIMIT_S)
            assert response.startswith(b"HTTP/1.1 400") and b'"reason":"BadRequest"' in response

    run(scenario())


def test_a_large_request_body_arrives_whole(files: Files) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)  # so that more is unread than may be
        await echo(scope, receive, send)

    async def scenario() -> None:
        async with serving(slow, files) as (_, port), stream(port, files) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nConnection: close\r\n\r\n")
            writer.write(b"y" * 3_000_000)
            response = await asyncio.wait_for(reader.read(), LIMIT_S)
            assert response.count(b"y" * 1000) == 3_000

    run(scenario())


def test_a_reader_that_does_not_read_stops_the_application(files: Files) -> None:
    sent = 0
    chunk = b"x" * 65_536

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += len(chunk)

    async def scenario() -> None:
        async with serving(flood, files) as (_, port), stream(port, files) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            before = -1
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 32_000_000  # what the two kernels' socket buffers hold

    run(scenario())


class Sink:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.closing = False

    def write(self, data: bytes) -> None:
        assert data is not None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert not self.closing

    def resume_reading(self) -> None:
        assert not self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


WORDS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.1\r\n",
        b"host: x\r\n",
        b"host: \xc3\xa4..b\r\n",
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: a\r\n",
        b"expect: 100-continue\r\n",
        b"\r\n",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"\x81\x83aaaaxyz",
        b"\x88\x80aaaa",
    ]
)


@given(st.lists(WORDS | st.binary(min_size=1, max_size=8), max_size=12))
def test_no_input_raises(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        transport = Sink()
        outlet = Outlet(cast(asyncio.Transport, transport), muted=False)
        base: Scope = {"client": ("", 0), "server": ("", 0), "state": {}}
        connection = Http1(outlet, plain_or_echo, base, lambda: None)
        for piece in pieces:
            if not transport.closing:
                connection.data_received(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        connection.closed()
        outlet.lost()
        await asyncio.sleep(0)

    asyncio.run(scenario())


async def plain_or_echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await echo(scope, receive, send)
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
