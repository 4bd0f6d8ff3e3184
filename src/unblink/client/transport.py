"""From an access to a connection: name, TCP, the proxy's tunnel and TLS, each within its own limit."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from unblink.chain import Http2Ping, TcpKeepalive
from unblink.client.exchange import (
    MAX_ERROR_BODY_BYTES,
    USER_AGENT,
    BodyTooLarge,
    Connection,
    RequestEnded,
    Response,
    Unreachable,
    plain_reason,
)
from unblink.client.http1 import Http1Connection
from unblink.client.http2 import Http2Connection
from unblink.client.kubeconfig import Access
from unblink.client.proxy import Proxy

__all__ = [
    "MAX_ERROR_BODY_BYTES",
    "USER_AGENT",
    "BodyTooLarge",
    "Connection",
    "Limits",
    "RequestEnded",
    "Response",
    "Unreachable",
    "connect",
    "plain_reason",
]

HAPPY_EYEBALLS_DELAY_S = 0.25  # RFC 8305, 5
MAX_PROXY_ANSWER_BYTES = 16 * 1024

Step = TypeVar("Step")


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines and detectors of our own leg. ``connect_ms`` holds for the name, TCP and the proxy's CONNECT;
    ``ping`` for HTTP/2; None is off."""

    connect_ms: int = 5000
    tls_ms: int = 5000
    ping: Http2Ping | None = None
    tcp_user_timeout_ms: int | None = None
    tcp_keepalive: TcpKeepalive | None = None


class _Opening(asyncio.Protocol):
    """Keeps what comes until it is known which protocol is spoken."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.reason = ""
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.reason = "the peer closed the connection" if exc is None else plain_reason(exc)
        self._changed.set()

    async def head(self) -> bytes:
        """Wait for an HTTP head and nothing after it.

        :raises ConnectionError: if something else came.
        """
        while (end := self.received.find(b"\r\n\r\n")) < 0:
            if self.ended:
                raise ConnectionError(self.reason)
            if len(self.received) > MAX_PROXY_ANSWER_BYTES:
                raise ConnectionError(f"an answer to CONNECT of more than {MAX_PROXY_ANSWER_BYTES} bytes")
            self._changed.clear()
            await self._changed.wait()
        head = bytes(self.received[:end])
        # A body of a refusal is of no use, and behind a tunnel's head the server waits for us to begin.
        self.received.clear()
        return head


async def connect(access: Access, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> Connection:
    """Connect and shake hands. HTTP/2 where TLS agrees on it, else HTTP/1.1; ``tls`` saves making the context anew.

    :raises Unreachable: if there is no connection within the limits.
    :raises KubeconfigError: if the access has unusable certificates.
    """
    limits = limits or Limits()
    await access.refresh()
    context = tls if tls is not None else access.tls()
    where = f"{access.host} port {access.port}"
    if access.proxy is not None:
        where += f" through the proxy {access.proxy.host} port {access.proxy.port}"
    opening = _Opening()
    reaching = _reach(access, limits, opening)
    transport = await _step(where, "TCP connection", limits.connect_ms, reaching)
    try:
        if context is not None:
            context.set_alpn_protocols(["h2", "http/1.1"])
            name = access.tls_server_name or access.host
            shaking = _start_tls(transport, opening, context, name, limits.tls_ms)
            transport = await _step(where, "TLS handshake", limits.tls_ms, shaking)
    except BaseException:
        transport.abort()
        raise
    tls_object = transport.get_extra_info("ssl_object")
    http2 = tls_object is not None and context is not None and tls_object.selected_alpn_protocol() == "h2"
    connection = Http2Connection(access, limits.ping) if http2 else Http1Connection(access)
    transport.set_protocol(connection)
    connection.connection_made(transport)
    if opening.received:
        connection.data_received(bytes(opening.received))
    return connection


async def _step(where: str, what: str, limit_ms: int, step: Awaitable[Step]) -> Step:
    """One step of connecting; its errors are Unreachable and say which step it was."""
    try:
        async with asyncio.timeout(limit_ms / 1000) as limit:
            return await step
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{where}: the server's certificate is not trusted: {error.verify_message}") from None
    except OSError as error:
        if limit.expired():
            raise Unreachable(f"{where}: no {what} within {limit_ms / 1000:g} s") from None
        raise Unreachable(f"{where}: {what}: {plain_reason(error)}") from None


async def _reach(access: Access, limits: Limits, opening: _Opening) -> asyncio.Transport:
    """The TCP connection, or the proxy's tunnel, to the server."""
    target = access.proxy or access
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: opening, target.host, target.port, happy_eyeballs_delay=_happy_eyeballs_delay_s(target.host)
    )
    try:
        _set_options(transport.get_extra_info("socket"), limits)
        if access.proxy is not None:
            transport = await _tunnel(transport, opening, access, access.proxy, limits)
    except BaseException:
        transport.abort()
        raise
    return transport


def _happy_eyeballs_delay_s(host: str) -> float | None:
    try:
        ip_address(host)
    except ValueError:
        return HAPPY_EYEBALLS_DELAY_S
    # An address has no rival, and a race that is cancelled as it is won forgets its socket (CPython 3.11).
    return None


def _set_options(sock: socket.socket, limits: Limits) -> None:
    options = {"TCP_NODELAY": 1}
    if (keepalive := limits.tcp_keepalive) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options["TCP_KEEPIDLE"] = keepalive.time_s
        options["TCP_KEEPINTVL"] = keepalive.interval_s
        options["TCP_KEEPCNT"] = keepalive.probes
    if limits.tcp_user_timeout_ms is not None:
        options["TCP_USER_TIMEOUT"] = limits.tcp_user_timeout_ms
    for name, value in options.items():
        if (number := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


async def _tunnel(
    transport: asyncio.Transport, opening: _Opening, access: Access, proxy: Proxy, limits: Limits
) -> asyncio.Transport:
    """Ask the proxy for a tunnel to the server (RFC 9110, 9.3.6)."""
    if proxy.scheme == "https":
        try:
            transport = await _start_tls(transport, opening, _proxy_tls(access), proxy.host, limits.connect_ms)
        except ssl.SSLCertVerificationError as error:
            raise ConnectionError(f"the proxy's certificate is not trusted: {error.verify_message}") from None
        if sys.version_info < (3, 12):
            # CPython 3.11 calls SSLProtocol._abort(exc), which takes none: a failed handshake within would never end.
            outer = transport
            setattr(outer, "_force_close", lambda _: outer.abort())  # noqa: B010 - mypy knows no such attribute
    host = f"[{access.host}]" if ":" in access.host else access.host
    lines = [f"CONNECT {host}:{access.port} HTTP/1.1", f"Host: {host}:{access.port}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    transport.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    version, _, rest = (await opening.head()).partition(b" ")
    status = rest[:3].decode("latin-1")
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        raise ConnectionError("the proxy does not speak HTTP/1.1")
    if not status.startswith("2"):
        raise ConnectionError(f"the proxy answered {status} to CONNECT")
    return transport


def _proxy_tls(access: Access) -> ssl.SSLContext:
    """As with client-go the cluster's authority may vouch for the proxy too. Our certificate is not shown to it."""
    context = ssl.create_default_context()
    if access.ca is not None:
        context.load_verify_locations(cadata=access.ca.decode("ascii"))
    return context


async def _start_tls(
    transport: asyncio.Transport, opening: _Opening, context: ssl.SSLContext, name: str, limit_ms: int
) -> asyncio.Transport:
    # The caller's limit names the step; asyncio's own would not, and must not come first.
    inner = await asyncio.get_running_loop().start_tls(
        transport, opening, context, server_hostname=name, ssl_handshake_timeout=limit_ms / 1000 + 1
    )
    if inner is None or opening.ended:
        raise ConnectionError(opening.reason or "the peer closed the connection")
    return inner
