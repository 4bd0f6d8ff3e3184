import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.client.raw import plain, request_head, talking

from unblink.client.http1 import MAX_QUEUED_BYTES
from unblink.client.kubeconfig import Access
from unblink.client.transport import Connection, RequestEnded, connect
from unblink.stream.endings import EndedBy, Ending

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ask(
    answer: bytes,
    use: Callable[[Connection], Coroutine[Any, Any, None]],
    then: Callable[[asyncio.StreamWriter], None] | None = None,
) -> list[str]:
    """Answer each request on each connection with the same bytes, then do something; the heads of the requests."""
    heads: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await request_head(reader))
            writer.write(answer)
            await writer.drain()
            if then is not None:
                then(writer)

    async def run() -> None:
        async with asyncio.timeout(10), talking(talk) as port, await connect(plain(port)) as connection:
            await use(connection)

    asyncio.run(run())
    return heads


async def read(connection: Connection) -> tuple[bytes, Ending | None]:
    """The body of one answer, and how it ended where that was not clean."""
    body = b""
    try:
        response = await connection.request("GET", "/x")
        while (chunk := await response.chunk()) is not None:
            body += chunk
    except RequestEnded as ended:
        return body, ended.ending
    return body, None


def fin(writer: asyncio.StreamWriter) -> None:
    writer.write_eof()


def rst(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


KEPT = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\n", b"hello"),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
]


@pytest.mark.parametrize(("answer", "body"), KEPT)
def test_a_complete_answer_leaves_the_connection_for_the_next_request(answer: bytes, body: bytes) -> None:
    async def use(connection: Connection) -> None:
        for _ in range(2):
            assert connection.spare == 1
            assert await read(connection) == (body, None)

    heads = ask(answer, use)
    assert len(heads) == 2
    assert heads[0].startswith("GET /x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert "authorization: Bearer hush" in heads[0]


CLOSED = [
    (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
]


@pytest.mark.parametrize(("answer", "body"), CLOSED)
def test_an_answer_that_ends_with_its_connection(answer: bytes, body: bytes) -> None:
    async def use(connection: Connection) -> None:
        assert await read(connection) == (body, None)
        assert not connection.usable
        assert connection.spare == 0

    ask(answer, use, fin)


CUT = [
    (CHUNKED + b"5\r\nhel", fin, b"hel", "the peer closed the connection"),
    (CHUNKED + b"5\r\nhello\r\n", fin, b"hello", "the peer closed the connection"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", fin, b"hello", "the peer closed the connection"),
    (b"HTTP/1.1 200 OK\r\nConte", fin, b"", "the peer closed the connection"),
    (b"", fin, b"", "the peer closed the connection"),
    (b"", rst, b"", "Connection reset by peer"),
    (b"this is not HTTP\r\n\r\n", None, b"", "HTTP/1.1 protocol error of the server: "),
    (CHUNKED + b"5\r\nhello\r\nxyz\r\n", None, b"hello", "HTTP/1.1 protocol error of the server: "),
    (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, None, b"", "HTTP/1.1 protocol error of the server: a head, trailers"),
    (CHUNKED + b"2\r\nhi\r\n0\r\nA: " + b"x" * 600_000, None, b"hi", "HTTP/1.1 protocol error of the server: "),
]


@pytest.mark.parametrize(("answer", "then", "body", "detail"), CUT)
def test_a_body_cut_short_is_never_a_clean_end(
    answer: bytes, then: Callable[[asyncio.StreamWriter], None] | None, body: bytes, detail: str
) -> None:
    async def use(connection: Connection) -> None:
        got, ending = await read(connection)
        assert ending is not None
        assert (ending.by, got) == (EndedBy.CONNECTION_LOST, body)
        assert ending.detail.startswith(detail)
        assert not connection.usable

    ask(answer, use, then)


def test_a_reset_in_the_middle_of_a_body_is_told_as_one() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def use(connection: Connection) -> None:
        response = await connection.request("GET", "/x")
        assert await response.chunk() == b"hello"
        rst(writers[0])
        with pytest.raises(RequestEnded, match="Connection reset by peer"):
            await response.chunk()

    ask(CHUNKED + b"5\r\nhello\r\n", use, writers.append)


def test_what_no_request_asked_for_is_not_part_of_an_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

    async def use(connection: Connection) -> None:
        assert await read(connection) == (b"hi", None)
        assert not connection.usable

    ask(answer + answer, use)


def test_one_request_at_a_time_and_giving_one_up_closes_the_connection() -> None:
    async def use(connection: Connection) -> None:
        response = await connection.request("GET", "/x")
        assert connection.spare == 0
        with pytest.raises(RequestEnded, match="another request is under way"):
            await connection.request("GET", "/y")
        response.close()
        response.close()
        assert not connection.usable
        with pytest.raises(RequestEnded, match="given up by us"):
            await response.chunk()

    ask(CHUNKED + b"5\r\nhello\r\n", use)


def test_an_answer_to_head_has_no_body() -> None:
    async def use(connection: Connection) -> None:
        response = await connection.request("HEAD", "/x")
        assert response.headers["content-length"] == "5"
        assert await response.chunk() is None

    ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", use)


def test_a_body_is_sent_whole_with_its_length() -> None:
    got: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await request_head(reader)
        assert "content-length: 300000\r\n" in head
        got.append(await reader.readexactly(300_000))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async def run() -> None:
        async with talking(talk) as port, await connect(plain(port)) as connection:
            assert (await connection.request("POST", "/x", {}, b"x" * 300_000)).status == 201

    asyncio.run(run())
    assert got == [b"x" * 300_000]


def test_a_reader_that_is_slow_holds_the_server_up_and_loses_nothing() -> None:
    size, sent = 32 * 1024 * 1024, 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536
        await reader.read()

    async def run() -> None:
        async with asyncio.timeout(20), talking(talk) as port, await connect(plain(port)) as connection:
            response = await connection.request("GET", "/x")
            before = -1
            while sent > before:  # until neither side's kernel takes more
                before = sent
                await asyncio.sleep(0.1)
            assert sent < size
            assert sum(map(len, response.pieces)) < MAX_QUEUED_BYTES + 512 * 1024
            assert len(await response.body(size)) == size
            assert connection.spare == 1

    asyncio.run(run())


@pytest.mark.parametrize("goodbye", [True, False])
def test_over_tls_a_fin_alone_does_not_end_a_body(goodbye: bool) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if goodbye:
            writer.close()
            await writer.wait_closed()
        else:
            writer.get_extra_info("socket")._sock.shutdown(socket.SHUT_WR)
            await reader.read()

    async def run() -> None:
        async with asyncio.timeout(10), talking(talk, context) as port:
            access = Access("https", "127.0.0.1", port, ca=authority.cert_pem.bytes())
            async with await connect(access) as connection:
                body, ending = await read(connection)
                assert body == b"hello"
                assert (ending is None) is goodbye

    asyncio.run(run())


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_same_body(chunks: list[bytes], cuts: list[int]) -> None:
    from unblink.client.exchange import Response
    from unblink.client.http1 import _Answer

    whole = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    places = [0, *sorted(cut % len(whole) for cut in cuts), len(whole)]
    response = Response(lambda _: None, lambda: None)
    answer = _Answer(response, "GET")
    for start, end in pairwise(places):
        assert not answer.complete
        answer.feed(whole[start:end])
    assert answer.complete
    assert answer.keep_alive
    assert b"".join(response.pieces) == b"".join(chunks)
