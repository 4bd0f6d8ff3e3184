import asyncio
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.loopback import Exchange, Loopback, serve

from unblink.client.kubeconfig import Access, load
from unblink.client.transport import BodyTooLarge, RequestEnded, connect
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
