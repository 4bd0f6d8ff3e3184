import asyncio

import pytest
import wsproto.events as ws
from tests.lab.apiserver.peers import LIMIT_S, Files, WebSocketClient, connect, run, serving

from unblink.lab.apiserver.asgi import Receive, Scope, Send, answer
from unblink.lab.apiserver.statuses import not_found


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message["bytes"] == b"bye":
            return
        if message["bytes"] == b"crash":
            raise ValueError
        await send({"type": "websocket.send", "bytes": message["bytes"]})


def test_messages_go_both_ways_in_one_piece_until_the_application_ends(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (server, port), WebSocketClient.open(port, files) as client:
            assert (client.status, client.subprotocol) == (101, "v5.channel.k8s.io")
            client.message(b"hello")
            client.send(ws.BytesMessage(data=b"in ", message_finished=False))
            client.send(ws.BytesMessage(data=b"pieces"))
            client.send(ws.Ping(payload=b"p"))
            client.message(b"bye")
            seen = [event async for event in client.events()]
            assert ws.Pong(payload=b"p") in seen
            messages = [event.data for event in seen if isinstance(event, ws.BytesMessage)]
            assert messages == [b"hello", b"in pieces"]
            assert isinstance(seen[-1], ws.CloseConnection) and seen[-1].code == 1000
            await server.idle()

    run(scenario())


@pytest.mark.parametrize(("cause", "code"), [(b"crash", 1011), (b"x" * 1_100_000, 1009)])
def test_a_session_that_cannot_go_on_is_closed_with_its_reason(files: Files, cause: bytes, code: int) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), WebSocketClient.open(port, files) as client:
            client.message(cause)
            *_, last = [event async for event in client.events()]
            assert isinstance(last, ws.CloseConnection) and last.code == code

    run(scenario())


def test_the_server_ends_a_session_as_going_away(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (server, port), WebSocketClient.open(port, files) as client:
            server.go_away()
            await server.idle()
            client.message(b"still served")
            events = client.events()
            assert await anext(events) == ws.BytesMessage(data=b"still served")
            server.finish()
            last = await anext(events)
            assert isinstance(last, ws.CloseConnection) and last.code == 1001
            await anext(events, None)
            await server.empty()

    run(scenario())


@pytest.mark.parametrize("politely", [True, False])
def test_a_client_that_leaves_ends_the_application(files: Files, politely: bool) -> None:
    ended = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        finally:
            ended.set()

    async def scenario() -> None:
        async with serving(waiting, files) as (server, port), WebSocketClient.open(port, files) as client:
            if politely:
                client.send(ws.CloseConnection(code=1000))
                assert [event async for event in client.events()]
            else:
                client.writer.transport.abort()
            await ended.wait()
            await server.empty()

    run(scenario())


def test_a_refused_handshake_is_an_ordinary_answer(files: Files) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(scope, send, not_found("", "pods", "p"))

    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    async def scenario() -> None:
        async with serving(refuse, files) as (_, port), WebSocketClient.open(port, files) as client:
            assert client.status == 404 and b'pods \\"p\\" not found' in client.body
        async with serving(crash, files) as (_, port), WebSocketClient.open(port, files) as client:
            assert client.status == 500

    run(scenario())


def test_a_bad_handshake_is_a_400(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port):
            reader, writer = await connect(port, files.context(alpn="http/1.1"))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), LIMIT_S)).startswith(b"HTTP/1.1 400")
            writer.close()

    run(scenario())


def test_what_is_not_a_frame_is_a_protocol_error(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), WebSocketClient.open(port, files) as client:
            client.writer.write(b"\xff\xff\xff\xff")
            *_, last = [event async for event in client.events()]
            assert isinstance(last, ws.CloseConnection) and last.code == 1002

    run(scenario())
