"""Clients of the embedded apiserver for its tests: HTTP/2 by frames, HTTP/1.1 by bytes, WebSocket by messages."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hpack
import trustme
import wsproto.events
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from wsproto.connection import Connection, ConnectionType
from wsproto.handshake import H11Handshake

from unblink.lab.apiserver.asgi import App, Receive, Scope, Send
from unblink.lab.apiserver.server import Server, tls_context

LIMIT_S = 10.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run an async test; a hanging one fails."""
    asyncio.run(asyncio.wait_for(scenario, 3 * LIMIT_S))


@dataclass(frozen=True)
class Files:
    """PEM files of a CA, a server, a client and a client of another CA."""

    folder: Path
    ca: Path
    certificate: Path
    private_key: Path
    client: Path
    stranger: Path

    @classmethod
    def make(cls, folder: Path) -> "Files":
        files = cls(folder, *(folder / f"{name}.pem" for name in ("ca", "server", "key", "client", "stranger")))
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(files.ca))
        server = ca.issue_cert("127.0.0.1", "kubernetes")
        server.private_key_pem.write_to_path(str(files.private_key))
        files.certificate.write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
        for authority, path in ((ca, files.client), (trustme.CA(), files.stranger)):
            issued = authority.issue_cert("x@y", common_name="admin", organization_name="system:masters")
            issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return files

    def context(self, *, alpn: str | None = "h2", certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(certificate)
        if alpn is not None:
            context.set_alpn_protocols([alpn])
        return context


@asynccontextmanager
async def serving(app: App, files: Files) -> AsyncIterator[tuple[Server, int]]:
    """A server of ``app`` on a free port of loopback."""
    server = Server(app, tls_context(files.certificate, files.private_key, files.ca))
    port = await server.listen("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        server.stop_listening()
        server.abort()
        await server.empty()


async def connect(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="kubernetes")


class Http2Client:
    """Frames in the order in which they come, with nothing done behind the test's back but SETTINGS acks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._heads: dict[int, dict[str, str]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, port: int, files: Files, *, window: int = 1 << 20, certificate: Path | None = None
    ) -> AsyncIterator["Http2Client"]:
        reader, writer = await connect(port, files.context(certificate=certificate))
        client = cls(reader, writer)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}))
        client.send(WindowUpdateFrame(0, window_increment=1 << 30))
        try:
            yield client
        finally:
            writer.transport.abort()

    def send(self, frame: Frame) -> None:
        self.writer.write(frame.serialize())

    def request(
        self,
        stream_id: int,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send a request; with ``body`` of None it has none, otherwise more may follow by ``data``."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "kubernetes"), (":path", path)]
        frame = HeadersFrame(stream_id, data=self._encoder.encode([*pseudo, *headers]), flags=["END_HEADERS"])
        if body is None:
            frame.flags.add("END_STREAM")
        self.send(frame)
        if body:
            self.data(stream_id, body)

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.send(DataFrame(stream_id, data=data, flags=["END_STREAM"] if end else []))

    async def frame(self, *, within_s: float = LIMIT_S) -> Frame:
        """The next frame. :raises asyncio.IncompleteReadError: the connection ended."""
        async with asyncio.timeout(within_s):
            head = await self._reader.readexactly(9)
            frame, length = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
        if isinstance(frame, HeadersFrame):  # each one, as they change the decoder's state
            self._heads[frame.stream_id] = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(0, flags=["ACK"]))
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        while not wanted(frame := await self.frame()):
            pass
        return frame

    async def response(self, stream_id: int) -> "Response":
        """Everything of one stream up to its end."""
        response = Response()
        while True:
            frame = await self.frame()
            if isinstance(frame, GoAwayFrame):
                response.goaway = frame
            if frame.stream_id != stream_id:
                continue
            if isinstance(frame, HeadersFrame):
                response.headers = self._heads[stream_id]
            if isinstance(frame, DataFrame):
                response.body += frame.data
                response.frames += 1
            if isinstance(frame, RstStreamFrame):
                response.reset = frame.error_code
                return response
            if "END_STREAM" in frame.flags:
                return response

    async def ping(self, data: bytes) -> bytes:
        self.send(PingFrame(0, opaque_data=data))
        frame = await self.until(lambda frame: isinstance(frame, PingFrame))
        assert isinstance(frame, PingFrame) and "ACK" in frame.flags
        return frame.opaque_data


@dataclass
class Response:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    frames: int = 0
    reset: int | None = None
    goaway: GoAwayFrame | None = None


class WebSocketClient:
    """Messages of one session; ``status`` and ``body`` where the handshake was refused."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.status = 0
        self.body = b""
        self.subprotocol: str | None = None
        self._reader = reader
        self._handshake = H11Handshake(ConnectionType.CLIENT)
        self._connection: Connection | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        port: int,
        files: Files,
        target: str = "/",
        *,
        subprotocols: Iterable[str] = ("v5.channel.k8s.io",),
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> AsyncIterator["WebSocketClient"]:
        client = cls(*await connect(port, files.context(alpn="http/1.1")))
        request = wsproto.events.Request(
            host="kubernetes", target=target, subprotocols=list(subprotocols), extra_headers=list(headers)
        )
        client.writer.write(client._handshake.send(request))
        try:
            await client._shake_hands()
            yield client
        finally:
            client.writer.transport.abort()

    async def _shake_hands(self) -> None:
        while True:
            data = await asyncio.wait_for(self._reader.read(65_536), LIMIT_S)
            self._handshake.receive_data(data or None)
            for event in self._handshake.events():
                match event:
                    case wsproto.events.AcceptConnection():
                        self.status, self.subprotocol = 101, event.subprotocol
                        self._connection = self._handshake.connection
                        return
                    case wsproto.events.RejectConnection():
                        self.status = event.status_code
                    case wsproto.events.RejectData():
                        self.body += event.data
                        if event.body_finished:
                            return

    def send(self, event: wsproto.events.Event) -> None:
        assert self._connection is not None
        self.writer.write(self._connection.send(event))

    def message(self, data: bytes) -> None:
        self.send(wsproto.events.BytesMessage(data=data))

    async def events(self) -> AsyncIterator[wsproto.events.Event]:
        """What comes, up to the close."""
        assert self._connection is not None
        while True:
            for event in self._connection.events():
                if isinstance(event, wsproto.events.CloseConnection):
                    if self._connection.state.name == "REMOTE_CLOSING":
                        self.send(event.response())
                    yield event
                    return
                yield event
            data = await asyncio.wait_for(self._reader.read(65_536), LIMIT_S)
            self._connection.receive_data(data or None)


async def plain(send: Send, body: bytes = b"ok", status: int = 200) -> None:
    """Answer with a whole body."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request with what it is and with its body."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await plain(send, f"{scope['method']} {scope['path']}?".encode() + scope["query_string"] + b" " + body)


class Held:
    """An application whose answer ticks on demand and that tells how its run ended."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self.tick = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
            self.started.set()
            while True:
                await self.tick.wait()
                self.tick.clear()
                await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
