"""HTTP/2 requests over one TCP connection, whose endings say who ended them.

h2 keeps the protocol (RFC 9113), asyncio the socket and TLS. Plain http URLs speak HTTP/2 with prior knowledge.
"""

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from unblink.client.goaway import MAX_FRAME_BYTES, Goaway, GoawaySieve
from unblink.client.kubeconfig import Access
from unblink.stream.endings import EndedBy, Ending

STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
MAX_ERROR_BODY_BYTES = 64 * 1024
USER_AGENT = "unblink"


class Unreachable(Exception):
    """No connection could be made; the text says in which step and why."""


class RequestEnded(Exception):
    """A request or its body ended otherwise than by the server's clean end."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"{ending.by}: {ending.detail}")
        self.ending = ending


class BodyTooLarge(Exception):
    """The body is longer than the caller allows."""


class Response:
    """The answer to one request: its head, then its body as it comes."""

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._connection = connection
        self._stream_id = stream_id
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._ending: Ending | None = None
        self._changed = asyncio.Event()

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def head(self) -> None:
        """Wait for the status and headers.

        :raises RequestEnded: if the stream ended before.
        """
        while not self.status:
            if self._ending is not None:
                raise RequestEnded(self._ending)
            await self._until_changed()

    async def chunk(self) -> bytes | None:
        """The next bytes of the body, None at the server's clean end. What came before an ending is given first.

        :raises RequestEnded: if someone else ended the stream.
        """
        while not self._chunks:
            if self._ending is not None:
                if self._ending.by is EndedBy.SERVER_CLOSED:
                    return None
                raise RequestEnded(self._ending)
            await self._until_changed()
        data, flow_bytes = self._chunks.popleft()
        self._connection.acknowledge(self._stream_id, flow_bytes)
        return data

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body.

        :raises RequestEnded: if someone else than the server ended the stream.
        :raises BodyTooLarge: if there is more than ``limit_bytes``.
        """
        collected = bytearray()
        while (data := await self.chunk()) is not None:
            collected += data
            if len(collected) > limit_bytes:
                self.close()
                raise BodyTooLarge(f"the body is longer than {limit_bytes} bytes")
        return bytes(collected)

    def close(self) -> None:
        """Give the rest up: RST_STREAM(CANCEL) if the stream is open. Harmless when repeated."""
        self._connection.cancel(self._stream_id)
        # What nobody reads counts against the connection's window all the same.
        while self._chunks:
            self._connection.acknowledge(self._stream_id, self._chunks.popleft()[1])

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        self._changed.set()

    def on_data(self, data: bytes, flow_bytes: int) -> None:
        self._chunks.append((data, flow_bytes))
        self._changed.set()

    def on_ending(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
        self._changed.set()


def _error_name(code: int) -> str:
    try:
        return h2.errors.ErrorCodes(code).name
    except ValueError:
        return f"error code {code}"


class Connection(asyncio.Protocol):
    """One HTTP/2 connection. Made by ``connect``."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._sieve = GoawaySieve()
        self._transport: asyncio.Transport | None = None
        self._responses: dict[int, Response] = {}
        self._window_opened = asyncio.Event()
        self._lost: Ending | None = None
        self._going_away = False
        self.local_port = 0
        """Our TCP port, 0 before the connection stands."""

    @property
    def usable(self) -> bool:
        """Whether a new request may be sent: the connection stands and the server did not say GOAWAY."""
        return self._transport is not None and self._lost is None and not self._going_away

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send a request and wait for the head of its answer. ``path`` is added to the kubeconfig's server URL.

        :raises RequestEnded: if it ended before that.
        """
        if not self.usable or self._transport is None:
            raise RequestEnded(self._lost or Ending(EndedBy.CONNECTION_LOST, "the server said GOAWAY"))
        lines = [
            (":method", method),
            (":scheme", self._access.scheme),
            (":authority", self._access.authority),
            (":path", self._access.base_path + path),
            ("user-agent", USER_AGENT),
            *((name.lower(), value) for name, value in (headers or {}).items()),
        ]
        if (token := self._access.bearer_token()) is not None:
            lines.append(("authorization", f"Bearer {token}"))
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, lines, end_stream=not body)
        except h2.exceptions.TooManyStreamsError:
            raise RequestEnded(Ending(EndedBy.REFUSED, "all streams of the connection are in use")) from None
        except h2.exceptions.ProtocolError as error:
            raise RequestEnded(Ending(EndedBy.CONNECTION_LOST, f"HTTP/2: {error}")) from None
        response = self._responses[stream_id] = Response(self, stream_id)
        self._flush()
        try:
            await self._send_body(stream_id, body)
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    async def _send_body(self, stream_id: int, body: bytes) -> None:
        while body and stream_id in self._responses:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._window_opened.clear()
                await self._window_opened.wait()
                continue
            self._h2.send_data(stream_id, body[:room], end_stream=room >= len(body))
            body = body[room:]
            self._flush()

    def acknowledge(self, stream_id: int, flow_bytes: int) -> None:
        """Open the windows again for bytes that were consumed."""
        if self._lost is None:
            try:
                self._h2.acknowledge_received_data(flow_bytes, stream_id)
            except h2.exceptions.ProtocolError:
                return
            self._flush()

    def cancel(self, stream_id: int) -> None:
        """RST_STREAM(CANCEL), if the stream is open."""
        response = self._responses.pop(stream_id, None)
        if response is None or self._lost is not None:
            return
        response.on_ending(Ending(EndedBy.DEADLINE, "given up by us"))
        try:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return
        self._flush()

    def close(self) -> None:
        """Close the connection at once, whatever is open on it."""
        self._lose("closed by us")
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport
        self.local_port = int(transport.get_extra_info("sockname")[1])
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        rest, goaways = self._sieve.feed(data)
        try:
            for event in self._h2.receive_data(rest):
                self._on_event(event)
        except h2.exceptions.ProtocolError as error:
            self._fail(str(error))
            return
        if self._sieve.overlong_bytes:
            self._fail(f"a frame of {self._sieve.overlong_bytes} bytes, where {MAX_FRAME_BYTES} are allowed")
            return
        self._flush()
        for goaway in goaways:
            self._on_goaway(goaway)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lose("the peer closed the connection" if exc is None else plain_reason(exc))

    # HTTP/2 events

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream_id), headers=list(lines)):
                headers = {str(name): str(value) for name, value in lines}
                if (response := self._responses.get(stream_id)) is not None:
                    response.on_head(int(headers.pop(":status")), headers)
            case h2.events.DataReceived(stream_id=int(stream_id), data=bytes(data), flow_controlled_length=int(size)):
                if data and (response := self._responses.get(stream_id)) is not None:
                    response.on_data(data, size)
                else:
                    self.acknowledge(stream_id, size)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                self._end(stream_id, Ending(EndedBy.SERVER_CLOSED, "end of stream"))
            case h2.events.StreamReset(stream_id=int(stream_id), error_code=code):
                number = int(code) if code is not None else 0
                self._end(stream_id, Ending(EndedBy.STREAM_RESET, f"RST_STREAM {_error_name(number)}", number))
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._window_opened.set()
            case _:
                pass

    def _on_goaway(self, goaway: Goaway) -> None:
        self._going_away = True
        detail = f"GOAWAY {_error_name(goaway.error_code)}: the server did not process this request"
        for stream_id in [stream_id for stream_id in self._responses if stream_id > goaway.last_stream_id]:
            self._end(stream_id, Ending(EndedBy.STREAM_RESET, detail, h2.errors.ErrorCodes.REFUSED_STREAM))
        self._close_if_done()

    def _end(self, stream_id: int, ending: Ending) -> None:
        response = self._responses.pop(stream_id, None)
        if response is not None:
            response.on_ending(ending)
        self._window_opened.set()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._going_away and not self._responses:
            self._drop()

    def _lose(self, detail: str) -> None:
        if self._lost is not None:
            return
        self._lost = Ending(EndedBy.CONNECTION_LOST, detail)
        responses, self._responses = self._responses, {}
        for response in responses.values():
            response.on_ending(self._lost)
        self._window_opened.set()

    def _fail(self, reason: str) -> None:
        self._lose(f"HTTP/2 protocol error of the server: {reason}")
        self._flush()
        self._drop()

    def _drop(self) -> None:
        # A close would wait for the peer's close_notify. A second abort fails in asyncio's TLS.
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def plain_reason(error: BaseException) -> str:
    """An error in the words of the operating system where it has some; asyncio puts others in their place."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


async def connect(access: Access, timeout_s: float, tls: ssl.SSLContext | None = None) -> Connection:
    """Connect and shake hands; ``tls`` saves making the context anew.

    :raises Unreachable: if there is no HTTP/2 connection within ``timeout_s``.
    :raises KubeconfigError: if the access has unusable certificates.
    """
    context = tls if tls is not None else access.tls()
    if context is not None:
        context.set_alpn_protocols(["h2"])
    where = f"{access.host} port {access.port}"
    try:
        async with asyncio.timeout(timeout_s):
            transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(access),
                access.host,
                access.port,
                ssl=context,
                server_hostname=(access.tls_server_name or access.host) if context else None,
            )
    except TimeoutError:
        raise Unreachable(f"{where}: no connection within {timeout_s:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{where}: the server's certificate is not trusted: {error.verify_message}") from None
    except OSError as error:
        raise Unreachable(f"{where}: {plain_reason(error)}") from None
    tls_object = transport.get_extra_info("ssl_object")
    if tls_object is not None and tls_object.selected_alpn_protocol() != "h2":
        transport.abort()
        raise Unreachable(f"{where}: the server does not offer HTTP/2 (ALPN h2)")
    return connection
