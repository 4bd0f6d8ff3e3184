import asyncio
import errno
import os
import socket

import pytest
from hyperframe.frame import DataFrame, Frame
from tests.lab.apiserver.peers import Files, Held, Http2Client, connect, run, serving

from unblink.lab.apiserver import deaf


def refuse(each: socket.socket) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["as the kernel allows", "ordinary user"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The ways that may be used; an ordinary user is one whose filter the kernel refuses."""
    if request.param == "ordinary user":
        monkeypatch.setattr(deaf, "_attach_filter", refuse)
        return {"minimum-ttl"}
    return {"socket-filter", "minimum-ttl"}


def is_data(frame: Frame) -> bool:
    return isinstance(frame, DataFrame)


def test_a_deaf_process_neither_hears_nor_speaks_and_later_goes_on(
    files: Files, capsys: pytest.CaptureFixture[str], way: set[str]
) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await client.until(is_data)
            assert await deaf.go_deaf(port, server.mute)
            assert deaf.unacked(port) == 0
            client.request(3)
            app.tick.set()
            with pytest.raises(TimeoutError):
                await client.frame(within_s=0.3)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await connect(port, files.context())
            deaf.hear(port, server.mute)
            ticks = [await client.until(is_data), await client.until(is_data)]
            assert {frame.stream_id for frame in ticks} == {1, 3}

    run(scenario())
    output = capsys.readouterr().out
    assert any(f'"event":"deaf","by":"{each}","sockets":2' in output for each in way)
    assert '"event":"hearing","sockets":' in output


def test_the_peer_finds_out_by_its_keepalive_alone(files: Files, way: set[str]) -> None:
    async def scenario() -> None:
        async with serving(Held(), files) as (server, port), Http2Client.open(port, files) as client:
            await client.ping(b"12345678")
            plain = client.writer.get_extra_info("socket")
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
                plain.setsockopt(socket.IPPROTO_TCP, option, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert await deaf.go_deaf(port, server.mute)
            with pytest.raises(TimeoutError) as ended:
                await client.frame()
            assert ended.value.errno == errno.ETIMEDOUT
            deaf.hear(port, server.mute)

    run(scenario())


def test_what_the_kernel_forbids_is_reported_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaf, "_attach_filter", refuse)
    monkeypatch.setattr(deaf, "_demand_highest_ttl", refuse)
    muted: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert not asyncio.run(deaf.go_deaf(listening.getsockname()[1], muted.append))
    assert muted == [True, False]
    assert '"event":"deaf-failed","error":"Operation not permitted"' in capsys.readouterr().out


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_only_the_sockets_of_the_port_are_touched(way: set[str], address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        one, other = (socket.create_server((address, 0), family=family) for _ in range(2))
    except OSError:
        assert address == "::1"  # a machine without IPv6
        return
    with one, other:
        by, count = deaf.attach(one.getsockname()[1])
        assert by in way and count == 1
        socket.create_connection(other.getsockname()[:2], timeout=1).close()
        with pytest.raises(TimeoutError):
            socket.create_connection(one.getsockname()[:2], timeout=0.2)
        assert deaf.detach(one.getsockname()[1]) == 1
        socket.create_connection(one.getsockname()[:2], timeout=3).close()
