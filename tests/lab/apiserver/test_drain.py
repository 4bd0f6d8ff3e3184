import asyncio

import pytest
from hyperframe.frame import GoAwayFrame
from tests.lab.apiserver.peers import Files, Held, Http2Client, connect, run, serving

from unblink.lab.apiserver.config import Health
from unblink.lab.apiserver.drain import drain


def test_readyz_first_then_goaway_then_the_watch_to_its_grace(files: Files) -> None:
    async def scenario() -> None:
        app, health = Held(), Health()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await app.started.wait()
            draining = asyncio.create_task(drain(server, health, shutdown_delay_ms=300, watch_grace_ms=400))
            await asyncio.sleep(0)
            assert health.readyz_failing
            async with Http2Client.open(port, files) as late:  # all is served during the delay
                late.request(1)
                late.request(3)
                await late.until(lambda frame: frame.stream_id == 3)
                began = asyncio.get_running_loop().time()
                response = await client.response(1)
                assert response.goaway is not None and response.goaway.last_stream_id == 1
                assert (response.body, response.reset) == (b"first\n", None)
                assert 0.35 < asyncio.get_running_loop().time() - began < 1.5
                assert (await late.response(1)).goaway is not None
            await draining
            with pytest.raises(ConnectionRefusedError):
                await connect(port, files.context())

    run(scenario())


def test_without_open_answers_nobody_waits(files: Files) -> None:
    async def scenario() -> None:
        async with serving(Held(), files) as (server, port), Http2Client.open(port, files) as client:
            await client.ping(b"12345678")
            await drain(server, Health(), shutdown_delay_ms=0, watch_grace_ms=60_000)
            frame = await client.until(lambda frame: isinstance(frame, GoAwayFrame))
            assert isinstance(frame, GoAwayFrame) and frame.error_code == 0

    run(scenario())


def test_a_client_that_does_not_read_cannot_hold_the_end_up(files: Files) -> None:
    async def flood(scope: object, receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 700, "more_body": True})

    async def scenario() -> None:
        async with serving(flood, files) as (server, port), Http2Client.open(port, files, window=0) as client:
            client.request(1)
            await client.ping(b"12345678")
            await drain(server, Health(), shutdown_delay_ms=0, watch_grace_ms=50)
            await server.empty()

    run(scenario())
