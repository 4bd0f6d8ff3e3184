"""The hosts and their router, with real packets."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.inside import inside

from unblink.lab.hosts import network
from unblink.lab.hosts.network import Host, Network

NAMES = {"gateway": 2, "writer": 3, "apiserver-1": 11}
PORT = 6443


async def listen(host: Host) -> asyncio.Server:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    with host.entered():
        return await asyncio.start_server(echo, host.address, PORT)


async def reaches(source: Host, target: Host, within_s: float = 10) -> bool:
    try:
        async with asyncio.timeout(within_s):
            with source.entered():
                connecting = asyncio.open_connection(target.address, PORT)
                _, writer = await connecting
    except TimeoutError:
        return False
    writer.close()
    return True


async def built() -> tuple[Network, Host, Host, Host]:
    net = await network.in_namespaces(NAMES)
    return net, *(net.hosts[name] for name in NAMES)  # type: ignore[return-value]


@inside
async def test_a_host_reaches_another_through_the_router() -> None:
    net, gateway, _, apiserver = await built()
    async with await listen(apiserver):
        assert await reaches(gateway, apiserver)
    await net.close()


@inside
async def test_a_drop_is_silent_in_its_direction_and_ends() -> None:
    net, gateway, writer, apiserver = await built()
    async with await listen(apiserver):
        with gateway.entered():
            reader, sender = await asyncio.open_connection(apiserver.address, PORT)
        await net.prepare_drop([(gateway.address, apiserver.address)])
        assert await reaches(gateway, apiserver)
        await net.drop(True)
        assert not await reaches(gateway, apiserver, within_s=0.5)
        assert await reaches(writer, apiserver)
        sender.write(b"kept by TCP")
        await net.drop(False)
        async with asyncio.timeout(5):
            assert await reader.read(100) == b"kept by TCP"
        sender.close()
    await net.close()


@inside
async def test_hosts_of_two_networks_do_not_meet() -> None:
    one, _, _, apiserver = await built()
    two, gateway, _, _ = await built()
    async with await listen(apiserver):
        with pytest.raises(ConnectionRefusedError):
            await reaches(gateway, two.hosts["apiserver-1"])
    await one.close()
    await two.close()


@inside
async def test_closing_leaves_no_open_file() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    net, *_ = await built()
    await net.close()
    await net.close()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@inside
async def test_entering_a_host_ends_with_its_block() -> None:
    net, gateway, *_ = await built()
    home = Path("/proc/thread-self/ns/net").stat().st_ino
    with gateway.entered():
        assert Path("/proc/thread-self/ns/net").stat().st_ino != home
    assert Path("/proc/thread-self/ns/net").stat().st_ino == home
    await net.close()


def test_on_loopback_every_host_has_its_own_address() -> None:
    addresses = [host.address for cell in (1, 2) for host in network.on_loopback(NAMES, cell).hosts.values()]
    assert addresses == ["127.1.2.10", "127.1.3.10", "127.1.11.10", "127.2.2.10", "127.2.3.10", "127.2.11.10"]


@inside
async def test_runs_on_one_loopback_have_cells_of_their_own() -> None:
    with network.loopback_numbers(3) as first:
        with network.loopback_numbers(2) as second:
            assert (list(first), list(second)) == ([1, 2, 3], [4, 5])
        with network.loopback_numbers(251) as second:
            assert list(second) == list(range(4, 255))
        with pytest.raises(OSError, match="only 251 of 254 cells"), network.loopback_numbers(252):
            pass
    with network.loopback_numbers(1) as again:
        assert list(again) == [1]
