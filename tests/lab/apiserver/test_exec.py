import asyncio
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
import wsproto.events as ws
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.apiserver.peers import Files, Http2Client, WebSocketClient, echo, run, serving

from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.asgi import App
from unblink.lab.apiserver.auth import authenticated
from unblink.lab.apiserver.config import User
from unblink.lab.apiserver.exec import PROTOCOLS, exit_status, parse, with_exec

TOKENS = {"good": User("admin", ("system:masters",))}
BEARER = [(b"authorization", b"Bearer good")]


async def find_pod(namespace: str, name: str) -> object:
    if (namespace, name) != ("lab", "pod"):
        raise statuses.not_found("", "pods", name)
    return name


def app(*, enabled: bool = True) -> App:
    return authenticated(with_exec(echo, find_pod, enabled=enabled), TOKENS)


def target(command: Iterable[str], *streams: str, pod: str = "pod") -> str:
    query = [("command", word) for word in command] + [(stream, "true") for stream in streams or ("stdout", "stderr")]
    return f"/api/v1/namespaces/lab/pods/{pod}/exec?{urlencode(query)}"


class Session:
    """What came on each channel up to the close."""

    def __init__(self, client: WebSocketClient) -> None:
        self.client = client
        self.output: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
        self.code: int | None = None
        self._partial = b""
        self._events = client.events()

    async def until(self, channel: int, wanted: bytes) -> None:
        while wanted not in self.output[channel]:
            await self.step()

    async def step(self) -> None:
        event = await anext(self._events)
        if isinstance(event, ws.BytesMessage):
            self._partial += event.data
            if event.message_finished:
                self.output[self._partial[0]] += self._partial[1:]
                self._partial = b""
        elif isinstance(event, ws.CloseConnection):
            self.code = event.code

    async def end(self) -> dict[str, object]:
        while self.code is None:
            await self.step()
        return msgspec.json.decode(self.output[3], type=dict[str, object])


@given(
    st.lists(st.text(min_size=1), min_size=1),
    st.sets(st.sampled_from(["stdin", "stdout", "stderr", "tty"])),
)
def test_parse_gives_back_what_the_query_says(command: list[str], flags: set[str]) -> None:
    query = urlencode([("command", word) for word in command] + [(flag, "true") for flag in flags])
    request = parse("/api/v1/namespaces/lab/pods/a-b/exec", query.encode())
    assert request is not None
    assert (request.namespace, request.pod, request.command) == ("lab", "a-b", tuple(command))
    assert {flag for flag in ("stdin", "stdout", "stderr", "tty") if getattr(request, flag)} == flags


@pytest.mark.parametrize("path", ["/api/v1/namespaces/lab/pods/p", "/api/v1/namespaces/lab/pods/p/exec/", "/"])
def test_other_paths_are_not_exec(path: str) -> None:
    assert parse(path, b"command=sh") is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_output_and_exit_code_come_on_their_channels(files: Files, protocol: str) -> None:
    async def scenario() -> None:
        where = target(["sh", "-c", "echo out; echo err >&2; exit 3"])
        async with (
            serving(app(), files) as (_, port),
            WebSocketClient.open(port, files, where, subprotocols=[protocol], headers=BEARER) as client,
        ):
            assert client.subprotocol == protocol
            session = Session(client)
            status = await session.end()
            assert (session.output[1], session.output[2], session.code) == (b"out\n", b"err\n", 1000)
            assert status == exit_status(3)
            assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}

    run(scenario())


def test_stdin_ends_when_its_channel_is_closed(files: Files) -> None:
    async def scenario() -> None:
        async with (
            serving(app(), files) as (_, port),
            WebSocketClient.open(port, files, target(["cat"], "stdin", "stdout"), headers=BEARER) as client,
        ):
            session = Session(client)
            client.message(b"\0ping\n")
            await session.until(1, b"ping\n")
            client.message(b"\0" + b"x" * 300_000)
            client.message(b"\0" + b"y" * 300_000)
            client.message(b"\xff\0")
            assert await session.end() == {"metadata": {}, "status": "Success"}
            assert session.output[1] == b"ping\n" + b"x" * 300_000 + b"y" * 300_000

    run(scenario())


def test_a_terminal_has_a_size_and_signals(files: Files) -> None:
    async def scenario() -> None:
        async with (
            serving(app(), files) as (_, port),
            WebSocketClient.open(port, files, target(["sh"], "stdin", "stdout", "tty"), headers=BEARER) as client,
        ):
            session = Session(client)
            client.message(b'\x04{"Width":99,"Height":31}')
            client.message(b"\x04not a size")
            client.message(b"\0stty size\n")
            await session.until(1, b"31 99")
            client.message(b"\0sleep 1000\n")
            await session.until(1, b"sleep 1000")
            await asyncio.sleep(0.1)
            client.message(b"\0\x03")  # ^C
            client.message(b"\0exit 7\n")
            status = await session.end()
            assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "7"}]}

    run(scenario())


@pytest.mark.parametrize("how", ["vanishes", "closes", "server"])
def test_the_end_of_the_session_kills_all_that_it_started(files: Files, how: str) -> None:
    # The second sleep is a job of an interactive shell, in a process group of its own.
    script = "set -m; trap '' HUP; sleep 1000 & echo $! $$ ready; wait"

    async def scenario() -> None:
        async with (
            serving(app(), files) as (server, port),
            WebSocketClient.open(port, files, target(["sh", "-c", script]), headers=BEARER) as client,
        ):
            session = Session(client)
            await session.until(1, b"ready")
            pids = [int(word) for word in session.output[1].split()[:2]]
            assert all(map(running, pids))
            match how:
                case "vanishes":
                    client.writer.transport.abort()
                case "closes":
                    client.send(ws.CloseConnection(code=1000))
                case "server":
                    server.finish()
            async with asyncio.timeout(5):
                while any(map(running, pids)):
                    await asyncio.sleep(0.01)

    run(scenario())


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_that_does_not_exist(files: Files) -> None:
    async def scenario() -> None:
        async with (
            serving(app(), files) as (_, port),
            WebSocketClient.open(port, files, target(["no-such-program"]), headers=BEARER) as client,
        ):
            status = await Session(client).end()
            assert (status["status"], status["reason"]) == ("Failure", "InternalError")
            assert 'exec: "no-such-program"' in str(status["message"])

    run(scenario())


def test_no_descriptor_is_left_over(files: Files) -> None:
    async def scenario() -> None:
        async with serving(app(), files) as (server, port):
            counts = []
            for streams in (("stdout",), ("stdin", "stdout"), ("stdin", "stdout", "tty"), ("stderr",)):
                async with WebSocketClient.open(port, files, target(["true"], *streams), headers=BEARER) as client:
                    await Session(client).end()
                await server.empty()
                counts.append(len(list(Path("/proc/self/fd").iterdir())))
            assert max(counts[1:]) <= counts[0]

    run(scenario())


@pytest.mark.parametrize(
    ("where", "headers", "subprotocols", "enabled", "status", "words"),
    [
        (target(["sh"], pod="other"), BEARER, PROTOCOLS, True, 404, b'pods \\"other\\" not found'),
        (target(["sh"]), [], PROTOCOLS, True, 403, b'cannot get resource \\"pods/exec\\"'),
        (target(["sh"]), [(b"authorization", b"Bearer bad")], PROTOCOLS, True, 401, b"Unauthorized"),
        (target(["sh"]), BEARER, ["v9.channel.k8s.io"], True, 400, b"v5.channel.k8s.io"),
        (target([]), BEARER, PROTOCOLS, True, 400, b"at least 1 command"),
        (target(["sh"], "none"), BEARER, PROTOCOLS, True, 400, b"at least 1 of stdin"),
        (target(["sh"]), BEARER, PROTOCOLS, False, 403, b"switched off"),
        ("/api/v1/namespaces", BEARER, PROTOCOLS, True, 400, b"WebSocket"),
    ],
)
def test_what_cannot_be_is_refused_with_a_status(
    files: Files,
    where: str,
    headers: list[tuple[bytes, bytes]],
    subprotocols: list[str],
    enabled: bool,
    status: int,
    words: bytes,
) -> None:
    async def scenario() -> None:
        async with (
            serving(app(enabled=enabled), files) as (_, port),
            WebSocketClient.open(port, files, where, subprotocols=subprotocols, headers=headers) as client,
        ):
            assert (client.status, words in client.body) == (status, True), client.body

    run(scenario())


def test_without_an_upgrade_it_is_the_same_check_and_then_a_400(files: Files) -> None:
    async def scenario() -> None:
        async with serving(app(), files) as (_, port), Http2Client.open(port, files) as client:
            bearer = [("authorization", "Bearer good")]
            client.request(1, target(["sh"], pod="x"), method="POST", headers=bearer)
            absent = await client.response(1)
            assert (absent.headers[":status"], b'"kind":"pods"' in absent.body) == ("404", True)
            client.request(3, target(["sh"]), method="POST", headers=bearer)
            upgrade = await client.response(3)
            assert (upgrade.headers[":status"], b"Upgrade request required" in upgrade.body) == ("400", True)
            client.request(5, "/other", headers=bearer)
            assert (await client.response(5)).body == b"GET /other? "

    run(scenario())


def test_a_signal_counts_from_128() -> None:
    assert exit_status(-9) == exit_status(137)
