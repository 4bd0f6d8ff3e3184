"""A small HTTP/2 server on loopback whose handlers end streams and connections in every way that a network can.

It runs on a thread with its own event loop, so that sync tests and child processes can use it.
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trustme


@dataclass
class Exchange:
    """One request as the server got it, and the means to answer it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    client_port: int
    _connection: "_Connection"
    _stream_id: int

    def respond(self, status: int = 200, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> None:
        """Send the response head, and with a body the whole response."""
        lines = [(":status", str(status)), *(headers or {"content-type": "application/json"}).items()]
        self._connection.h2.send_headers(self._stream_id, lines)
        if body is not None:
            self.data(body)
            self.end()
        self._connection.flush()

    def data(self, chunk: bytes) -> None:
        """Send body bytes, in frames of at most 16 kB; the client's window is taken to be large enough."""
        for start in range(0, len(chunk), 16384):
            self._connection.h2.send_data(self._stream_id, chunk[start : start + 16384])
        self._connection.flush()

    async def data_in_windows(self, data: bytes) -> None:
        """Send body bytes as the client's windows allow."""
        while data:
            window = self._connection.h2.local_flow_control_window(self._stream_id)
            if window:
                self.data(data[:window])
                data = data[window:]
            await asyncio.sleep(0)

    def raw(self, data: bytes) -> None:
        """Bytes of the connection that h2 does not know of."""
        self._connection.transport.write(data)

    async def drained(self) -> None:
        """Wait until the kernel has taken all that was written."""
        while self._connection.transport.get_write_buffer_size():
            await asyncio.sleep(0)

    async def until_closed(self) -> None:
        """Leave the request open until the connection is gone, which cancels the handler."""
        await asyncio.Event().wait()

    def end(self) -> None:
        """END_STREAM: the server closes cleanly."""
        self._connection.h2.end_stream(self._stream_id)
        self._connection.flush()

    def reset(self, error_code: int = 2) -> None:
        """RST_STREAM; 2 is INTERNAL_ERROR, as Envoy says when its upstream died."""
        self._connection.h2.reset_stream(self._stream_id, error_code)
        self._connection.flush()

    def goaway(self) -> None:
        """GOAWAY(NO_ERROR): this stream may finish, new ones go elsewhere (RFC 9113, 6.8). h2 is kept unaware of it."""
        self.raw(b"\0\0\x08\x07\0\0\0\0\0" + struct.pack(">II", self._stream_id, 0))

    def close_connection(self) -> None:
        """FIN without END_STREAM."""
        self._connection.transport.close()

    def abort_connection(self) -> None:
        """TCP RST."""
        sock = self._connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()


Handler = Callable[[Exchange], Awaitable[None]]


class _Connection(asyncio.Protocol):
    def __init__(self, server: "Loopback") -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.transport: asyncio.Transport
        self.pending: dict[int, tuple[dict[str, str], bytearray]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.append(self)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.transport.close()
            return
        for event in events:
            match event:
                case h2.events.RequestReceived(stream_id=int(stream), headers=headers):
                    self.pending[stream] = ({str(name): str(value) for name, value in headers or ()}, bytearray())
                case h2.events.DataReceived(stream_id=int(stream), data=bytes(chunk)):
                    self.pending[stream][1].extend(chunk)
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                case h2.events.StreamEnded(stream_id=int(stream)):
                    self.start(stream)
        self.flush()

    def start(self, stream: int) -> None:
        headers, body = self.pending.pop(stream)
        url = urlsplit(headers[":path"])
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        port = self.transport.get_extra_info("peername")[1]
        exchange = Exchange(headers[":method"], url.path, query, headers, bytes(body), port, self, stream)
        self.server.exchanges.append(exchange)
        task = asyncio.ensure_future(self.handle(exchange))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def handle(self, exchange: Exchange) -> None:
        try:
            await self.server.handler(exchange)
        except h2.exceptions.ProtocolError:
            pass  # the client has gone meanwhile
        except Exception as error:
            self.server.failures.append(error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()


@dataclass
class Loopback:
    """The running server: where it is, what it was asked, and a hand on its loop."""

    handler: Handler
    authority: trustme.CA
    port: int = 0
    tls: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    connections: list[_Connection] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the server's thread and wait for it."""

        async def run() -> None:
            function()

        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(run(), self.loop).result(5)

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig with token file and CA for this server; its path."""
        (folder / "ca.crt").write_bytes(self.authority.cert_pem.bytes())
        (folder / "token").write_text("test-token\n")
        path = folder / "kubeconfig"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
            "contexts: [{name: lab, context: {cluster: lab, user: lab}}]\n"
            f"clusters: [{{name: lab, cluster: {{server: '{self.url}', certificate-authority: ca.crt,"
            " tls-server-name: kubernetes}}]\n"
            "users: [{name: lab, user: {tokenFile: token}}]\n"
        )
        return path


def _tls(authority: trustme.CA, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([alpn])
    authority.issue_cert("kubernetes", "127.0.0.1").configure_cert(context)
    return context


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


@contextmanager
def serve(
    handler: Handler, authority: trustme.CA | None = None, *, tls: bool = True, alpn: str = "h2"
) -> Iterator[Loopback]:
    """Serve the handler on a free loopback port until the block ends; a failed handler fails the block."""
    server = Loopback(handler, authority or trustme.CA(), tls=tls)
    ready = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server.loop = loop
        context = _tls(server.authority, alpn) if tls else None
        listening = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, ssl=context)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listening.close()
        for connection in server.connections:
            connection.transport.abort()
        await asyncio.sleep(0)

    thread = threading.Thread(target=_run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield server
    finally:
        server.call(stop.set)
        thread.join(5)
    assert not server.failures, server.failures
