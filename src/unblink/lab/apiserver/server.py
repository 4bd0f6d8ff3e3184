"""The apiserver's listener: TLS with ALPN in front of HTTP/2 and HTTP/1.1.

Timers and limits are kube-apiserver's: TCP keepalive of 3 minutes on accepted connections, TLS 1.2 or later, client
certificates asked for but not demanded.
"""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import cast

from unblink.lab.apiserver.asgi import App, Scope
from unblink.lab.apiserver.http1 import Http1
from unblink.lab.apiserver.http2 import Http2
from unblink.lab.apiserver.outlet import Outlet

BACKLOG = 1024
TCP_KEEPALIVE_S = 180
TLS_HANDSHAKE_S = 10.0
TLS_SHUTDOWN_S = 1.0


def tls_context(certificate: Path, private_key: Path, ca: Path) -> ssl.SSLContext:
    """Server side of TLS; ``ca`` is what client certificates are checked against.

    :raises OSError: a file cannot be read, or is not what it should be (``ssl.SSLError``).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, private_key)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Server:
    """Serves one application. All methods belong to one event loop."""

    def __init__(self, app: App, tls: ssl.SSLContext) -> None:
        self.app = app
        self.muted = False
        self.going_away = False
        self._tls = tls
        self._connections: set[_Connection] = set()
        self._changed = asyncio.Event()
        self._listener: asyncio.Server | None = None

    async def listen(self, address: str, port: int) -> int:
        """Accept from now on; the port (that of the system's choice for 0).

        :raises OSError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio: TCP_NODELAY only so
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, value in ((socket.TCP_KEEPIDLE, TCP_KEEPALIVE_S), (socket.TCP_KEEPINTVL, TCP_KEEPALIVE_S)):
                listening.setsockopt(socket.IPPROTO_TCP, option, value)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listening.setblocking(False)
            listening.bind((address, port))
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self),
                sock=listening,
                ssl=self._tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=TLS_HANDSHAKE_S,
                ssl_shutdown_timeout=TLS_SHUTDOWN_S,
            )
        except OSError:
            listening.close()
            raise
        return cast(int, listening.getsockname()[1])

    def stop_listening(self) -> None:
        """Refuse new connections."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def go_away(self) -> None:
        """GOAWAY on every HTTP/2 connection; idle HTTP/1.1 connections close."""
        self.going_away = True
        for connection in list(self._connections):
            connection.protocol.go_away()

    def finish(self) -> None:
        """End every open answer and session cleanly where it stands."""
        for connection in list(self._connections):
            connection.protocol.finish()

    def abort(self) -> None:
        """Close every connection at once."""
        for connection in list(self._connections):
            connection.outlet.abort()

    def mute(self, muted: bool) -> None:
        """Hold all output (True), or let it go on (False), on present and future connections."""
        self.muted = muted
        for connection in list(self._connections):
            connection.outlet.set_muted(muted)

    async def idle(self) -> None:
        """Wait until no request is being answered (upgraded connections do not count)."""
        while any(connection.protocol.busy for connection in self._connections):
            await self._next_change()

    async def empty(self) -> None:
        """Wait until every connection is closed."""
        while self._connections:
            await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def changed(self) -> None:
        """Wake ``idle`` and ``empty``: something ended."""
        self._changed.set()

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        self.changed()


class _Connection(asyncio.Protocol):
    """asyncio's view of a connection: what happens to it goes to the protocol that ALPN chose."""

    outlet: Outlet
    protocol: Http1 | Http2

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
        base: Scope = {
            "client": transport.get_extra_info("peername")[:2],
            "server": transport.get_extra_info("sockname")[:2],
            "state": {"peer_certificate": tls.getpeercert() or None},
        }
        self.outlet = Outlet(cast(asyncio.Transport, transport), muted=self._server.muted)
        protocol = Http2 if tls.selected_alpn_protocol() == "h2" else Http1
        self.protocol = protocol(self.outlet, self._server.app, base, self._server.changed)
        self._server.opened(self)
        if self._server.going_away:
            self.protocol.go_away()

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def pause_writing(self) -> None:
        self.outlet.set_full(True)

    def resume_writing(self) -> None:
        self.outlet.set_full(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.closed(self)
        self.outlet.lost()
        self.protocol.closed()
