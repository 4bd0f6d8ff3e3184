import asyncio
import errno
import os

import pytest
from hyperframe.frame import DataFrame, Frame
from tests.lab.apiserver.peers import Files, Held, Http2Client, connect, run, serving

from unblink.lab.apiserver import deaf


def is_data(frame: Frame) -> bool:
    return isinstance(frame, DataFrame)


def test_a_deaf_process_neither_hears_nor_speaks_and_later_goes_on(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await client.until(is_data)
            if not await deaf.go_deaf(port, server.mute):
                assert not server.muted
                app.tick.set()
                await client.until(is_data)
                return
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
    assert ('"event":"deaf","sockets":2' in output and '"event":"hearing","sockets":2' in output) or (
        '"event":"deaf-failed","error":"Operation not permitted"' in output
    )


def test_a_refusal_by_the_kernel_is_reported_and_changes_nothing(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(port: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(deaf, "attach", refuse)
    muted: list[bool] = []
    assert not asyncio.run(deaf.go_deaf(1, muted.append))
    assert muted == [True, False]
    assert '"event":"deaf-failed","error":"Operation not permitted"' in capsys.readouterr().out


def test_sockets_of_other_ports_are_left_alone(files: Files) -> None:
    async def scenario() -> None:
        async with serving(Held(), files) as (_, port), serving(Held(), files) as (_, other):
            try:
                assert deaf.attach(port) == 1
            except PermissionError:
                return
            assert deaf.detach(other) == 0
            assert deaf.detach(port) == 1
            assert deaf.detach(port) == 0

    run(scenario())
