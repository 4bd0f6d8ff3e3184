import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.lab.clients.conftest import Process, Rig, ask
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
)

from unblink.client.kubeconfig import Access
from unblink.lab.clients import exec_session, process
from unblink.lab.clients.exec_session import NotOpened, first_session, open_session
from unblink.stream.endings import EndedBy


@pytest.fixture
def pod(rig: Rig, cluster: Process) -> Process:
    body = {"metadata": {"name": "exec-target"}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    assert ask(rig, "POST", "/api/v1/namespaces/default/pods", body) == 201
    return cluster


@pytest.mark.usefixtures("pod")
def test_one_echo_at_the_beginning_and_one_at_the_end(rig: Rig) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    assert session.stop() == 0
    assert [line["event"] for line in session.lines] == ["ready", "opened", "echo", "echo"]
    assert [line["ok"] for line in session.said("echo")] == [True, True]
    assert all(0 < line["seconds"] < 3 for line in session.said("echo"))


def test_a_killed_apiserver_closes_it_and_the_last_echo_fails(rig: Rig, pod: Process) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    pod.popen.kill()
    assert session.wait_for("closed")[0]["by"] == "connection-lost"
    assert session.stop() == 0
    assert session.said("echo")[-1]["ok"] is False


def test_an_apiserver_that_ends_says_goodbye(rig: Rig, pod: Process) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    assert pod.stop() == 0
    assert session.wait_for("closed")[0]["by"] in {"server-closed", "connection-lost"}


Answer = Callable[[asyncio.StreamWriter, WSConnection, Event], None]


def accept(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
    if isinstance(event, Request):
        writer.write(server.send(AcceptConnection(subprotocol="v5.channel.k8s.io")))


def accept_another(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
    writer.write(server.send(AcceptConnection()))


def reject(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
    writer.write(server.send(RejectConnection(status_code=403)))


def hang_up(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
    writer.close()


def say_nothing(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
    pass


async def against(answer: Answer, use: Callable[[Access], Awaitable[None]]) -> None:
    """Use a WebSocket server on loopback that answers every event in one way."""
    writers = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        server = WSConnection(ConnectionType.SERVER)
        while data := await reader.read(4096):
            server.receive_data(data)
            for event in server.events():
                answer(writer, server, event)

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        try:
            await use(Access("http", "127.0.0.1", listening.sockets[0].getsockname()[1], token="test-token"))
        finally:
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (accept_another, "subprotocol None instead of v5"),
        (reject, "refused with status 403"),
        (hang_up, "the peer closed the connection"),
        (say_nothing, "no exec session within 0.2 s"),
    ],
)
def test_a_session_that_does_not_open_says_why(answer: Answer, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_session, "OPEN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(process, "FIRST_CONNECT_S", 0.1)

    async def use(access: Access) -> None:
        with pytest.raises(NotOpened, match=reason):
            await open_session(access, "lab", "exec-target")
        with pytest.raises(process.Fatal, match=reason):
            await first_session(access, "lab", "exec-target")

    asyncio.run(against(answer, use))


def test_what_the_server_says_before_it_closes_is_kept_and_its_ping_is_answered() -> None:
    sent: list[Event] = []

    def answer(writer: asyncio.StreamWriter, server: WSConnection, event: Event) -> None:
        sent.append(event)
        accept(writer, server, event)
        if isinstance(event, Request):
            writer.write(server.send(Ping(b"there?")))
        elif isinstance(event, Pong):
            writer.write(server.send(BytesMessage(b"\x03" + b'{"status":"Failure","message":"the container is gone"}')))
            writer.write(server.send(CloseConnection(1000)))

    async def use(access: Access) -> None:
        session = await open_session(access, "lab", "exec-target")
        async with asyncio.timeout(5):
            await session.read()
        assert session.closed == (EndedBy.SERVER_CLOSED, "close frame 1000: the container is gone")
        assert await session.echo(b"anyone\n") is False
        session.abort()

    asyncio.run(against(answer, use))
    assert isinstance(sent[0], Request)
    assert sent[0].target == "/api/v1/namespaces/lab/pods/exec-target/exec?command=cat&stdin=true&stdout=true"
    assert (b"authorization", b"Bearer test-token") in sent[0].extra_headers
    assert sent[0].subprotocols == ["v5.channel.k8s.io"]
    assert [type(event) for event in sent[1:]] == [Pong]


def test_an_echo_that_does_not_come_fails_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_session, "ECHO_TIMEOUT_S", 0.1)

    async def use(access: Access) -> None:
        session = await open_session(access, "lab", "exec-target")
        reading = asyncio.ensure_future(session.read())
        assert await session.echo(b"hello\n") is False
        assert session.closed is None
        session.abort()
        await reading

    asyncio.run(against(accept, use))
