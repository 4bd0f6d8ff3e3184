import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.client.raw import plain, request_head, talking
from tests.loopback import Exchange, Loopback, serve

from unblink.client.kubeconfig import Access, load
from unblink.client.pool import Pool
from unblink.client.proxy import Proxy
from unblink.client.transport import Unreachable


async def silent(exchange: Exchange) -> None:
    exchange.respond()
    await exchange.until_closed()


def access_to(server: Loopback, folder: Path) -> Access:
    return load(server.kubeconfig(folder))


async def open_watch(pool: Pool) -> int:
    """One request of its own; the port of its connection."""
    connection = await pool.acquire()
    await connection.request("GET", "/watch")
    return connection.local_port


def test_a_hundred_at_once_share_one_connection_and_the_next_gets_another(tmp_path: Path) -> None:
    async def run(access: Access) -> list[int]:
        pool = Pool(access)
        ports = await asyncio.gather(*(open_watch(pool) for _ in range(100)))
        ports.append(await open_watch(pool))
        await pool.close()
        return ports

    with serve(silent) as server:
        ports = asyncio.run(run(access_to(server, tmp_path)))
        assert len(server.connections) == 2
    assert len(set(ports[:100])) == 1
    assert ports[100] != ports[0]


def test_what_is_to_be_avoided_is_and_the_newest_comes_first(tmp_path: Path) -> None:
    async def run(access: Access) -> None:
        pool = Pool(access)
        first = await pool.acquire()
        second = await pool.acquire(avoid=[first])
        assert second is not first
        assert await pool.acquire() is second
        assert await pool.acquire(avoid=[second]) is first
        second.close()
        assert await pool.acquire() is first
        await pool.close()
        assert not first.usable
        with pytest.raises(Unreachable, match="the pool is closed"):
            await pool.acquire()

    with serve(silent) as server:
        asyncio.run(run(access_to(server, tmp_path)))


def test_over_http1_each_open_request_has_a_connection_and_a_finished_one_gives_it_back() -> None:
    finish = asyncio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await request_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await finish.wait()
            writer.write(b"ok")

    async def one(pool: Pool) -> bytes:
        response = await (await pool.acquire()).request("GET", "/x")
        if connections == 5:
            finish.set()
        return await response.body(10)

    async def run() -> None:
        async with asyncio.timeout(10), talking(talk) as port:
            pool = Pool(plain(port))
            assert await asyncio.gather(*(one(pool) for _ in range(5))) == [b"ok"] * 5
            for _ in range(3):
                assert await one(pool) == b"ok"
            assert connections == 5
            await pool.close()

    asyncio.run(run())


def test_a_waiter_that_gives_up_leaves_the_connect_to_the_others(tmp_path: Path) -> None:
    async def run(access: Access) -> None:
        pool = Pool(access)
        first, second = asyncio.ensure_future(pool.acquire()), asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        first.cancel()
        await (await second).request("GET", "/x")
        assert first.cancelled()
        await pool.close()

    with serve(silent) as server:
        asyncio.run(run(access_to(server, tmp_path)))
        assert len(server.connections) == 1


def test_who_waits_is_told_when_it_fails_and_when_the_pool_closes() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        async with talking(hold) as port:
            pool = Pool(replace(plain(port), scheme="https"))  # a server that never shakes hands
            waiting = asyncio.ensure_future(pool.acquire())
            await asyncio.sleep(0)
            await pool.close()
            with pytest.raises(Unreachable, match="the pool is closed"):
                await waiting
        pool = Pool(plain(port))
        failures = await asyncio.gather(*(pool.acquire() for _ in range(3)), return_exceptions=True)
        assert all(isinstance(failure, Unreachable) for failure in failures)
        await pool.close()

    asyncio.run(run())


def test_over_http1_those_who_need_a_connection_each_connect_side_by_side() -> None:
    all_there = asyncio.Event()
    asked = 0

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await request_head(reader)
        asked += 1
        if asked == 5:
            all_there.set()
        await all_there.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read()

    async def run() -> None:
        async with asyncio.timeout(4), talking(proxy) as port:
            pool = Pool(replace(plain(1), proxy=Proxy("http", "127.0.0.1", port)))
            await asyncio.gather(*(pool.acquire() for _ in range(5)))
            await pool.close()

    asyncio.run(run())
