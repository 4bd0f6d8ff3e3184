"""HTTP/2 (RFC 9113) over one connection, made for many watches.

h2 keeps the protocol but for DATA, which the sieve takes out before it: flow control towards us is kept here.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from struct import Struct
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from unblink.chain import Http2Ping
from unblink.client.exchange import (
    MAX_HEAD_BYTES,
    RequestEnded,
    Response,
    checked_target,
    plain_reason,
    request_headers,
)
from unblink.client.kubeconfig import Access
from unblink.client.sieve import Data, FrameSieve, Goaway
from unblink.stream.endings import EndedBy, Ending

STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
FIRST_WINDOW_BYTES = 65535
"""A connection's window before any WINDOW_UPDATE (RFC 9113, 6.9.2)."""
STREAMS_BEFORE_SETTINGS = 100
"""What a server should at least allow (RFC 9113, 6.5.2): how many requests may go out before it said its own number."""
_FRAME_OF_ONE_NUMBER = Struct(">5sII")
_WINDOW_UPDATE_START = b"\0\0\4\x08\0"
_RST_STREAM_START = b"\0\0\4\x03\0"


@dataclass(slots=True)
class _Stream:
    response: Response
    has_body: bool  # whether the answer may have one
    sending: bool  # our own body is not sent to its end
    window_bytes: int  # what the server may still send
    returnable_bytes: int = 0  # what was read and is not given to the window again
    received_bytes: int = 0


def _error_name(code: int) -> str:
    try:
        return h2.errors.ErrorCodes(code).name
    except ValueError:
        return f"error code {code}"


class Http2Connection(asyncio.Protocol):
    """One HTTP/2 connection; see ``exchange.Connection``.

    With ``ping`` a PING goes out ``interval_ms`` after the ACK of the one before. The connection ends when for
    ``timeout_ms`` after one there was neither its ACK nor any other byte: where bytes come, the ACK stands behind them.
    """

    def __init__(self, access: Access, ping: Http2Ping | None = None) -> None:
        self._access = access
        self._ping = ping
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._sieve = FrameSieve()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, _Stream] = {}
        self._starting = 0  # requests that have no stream yet
        self._settings_came = False
        self._window_bytes = CONNECTION_WINDOW_BYTES
        self._window_opened = asyncio.Event()
        self._lost: Ending | None = None
        self._going_away = False
        self._pings = 0
        self._ping_timer: asyncio.TimerHandle | None = None
        self._heard_s = 0.0
        self.local_port = 0
        """Our TCP port, 0 before the connection stands."""

    @property
    def usable(self) -> bool:
        """Whether a new request may be sent: the connection stands and the server did not say GOAWAY."""
        return self._transport is not None and self._lost is None and not self._going_away

    @property
    def spare(self) -> int:
        """How many streams the server's MAX_CONCURRENT_STREAMS leaves."""
        if not self.usable:
            return 0
        limit = self._h2.remote_settings.max_concurrent_streams if self._settings_came else STREAMS_BEFORE_SETTINGS
        return max(0, limit - len(self._streams) - self._starting)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self._streams and not self._starting

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """See ``exchange.Connection.request``."""
        if not self.usable:
            raise RequestEnded(self._lost or Ending(EndedBy.CONNECTION_LOST, "the server said GOAWAY"))
        if not self.spare:
            raise RequestEnded(Ending(EndedBy.REFUSED, "all streams of the connection are in use"))
        self._starting += 1
        try:
            await self._access.refresh()
            stream_id, response = self._open(method, path, headers, body)
        finally:
            self._starting -= 1
        try:
            await self._send_body(stream_id, body)
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def _open(self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes) -> tuple[int, Response]:
        lines = [
            (":method", method),
            (":scheme", self._access.scheme),
            (":authority", self._access.authority),
            (":path", checked_target(method, self._access.base_path + path)),
            *request_headers(self._access, headers),
        ]
        if not self.usable:
            raise RequestEnded(self._lost or Ending(EndedBy.CONNECTION_LOST, "the server said GOAWAY"))
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, lines, end_stream=not body)
        except h2.exceptions.TooManyStreamsError:
            raise RequestEnded(Ending(EndedBy.REFUSED, "all streams of the connection are in use")) from None
        except h2.exceptions.ProtocolError as error:
            # Not its text, which may have a header in it.
            raise RequestEnded(Ending(EndedBy.CONNECTION_LOST, f"HTTP/2: {type(error).__name__}")) from None
        response = Response(partial(self._consumed, stream_id), partial(self._cancel, stream_id))
        self._streams[stream_id] = _Stream(response, method != "HEAD", bool(body), STREAM_WINDOW_BYTES)
        self._flush()
        return stream_id, response

    async def _send_body(self, stream_id: int, body: bytes) -> None:
        while body and (stream := self._streams.get(stream_id)) is not None:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._window_opened.clear()
                await self._window_opened.wait()
                continue
            stream.sending = room < len(body)
            self._h2.send_data(stream_id, body[:room], end_stream=not stream.sending)
            body = body[room:]
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
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - FIRST_WINDOW_BYTES)
        self._flush()
        if self._ping is not None:
            self._ping_timer = asyncio.get_running_loop().call_later(self._ping.interval_ms / 1000, self._send_ping)

    def data_received(self, data: bytes) -> None:
        if self._ping is not None:
            self._heard_s = asyncio.get_running_loop().time()
        for item in self._sieve.feed(data):
            if self._lost is not None:
                return
            if isinstance(item, Data):
                self._on_data(item)
            elif isinstance(item, bytes):
                self._to_h2(item)
            else:
                self._on_goaway(item)
        if self._sieve.error:
            self._fail(self._sieve.error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lose("the peer closed the connection" if exc is None else plain_reason(exc))

    # DATA and its windows

    def _on_data(self, data: Data) -> None:
        self._window_bytes -= data.flow_bytes
        if self._window_bytes < 0:
            self._fail("more DATA than the connection's window")
            return
        if self._window_bytes < CONNECTION_WINDOW_BYTES // 2:
            # Read or not: what nobody reads is kept in bounds by its stream's window, and must not hold up the others.
            self._open_window(0, CONNECTION_WINDOW_BYTES - self._window_bytes)
            self._window_bytes = CONNECTION_WINDOW_BYTES
        stream = self._streams.get(data.stream_id)
        if stream is None:
            if data.stream_id % 2 == 0 or data.stream_id > self._h2.highest_outbound_stream_id:
                self._fail(f"DATA on stream {data.stream_id}, which was never opened")
            return
        if not stream.response.status:
            self._fail("DATA before the response's headers")
            return
        stream.window_bytes -= data.flow_bytes
        stream.received_bytes += data.flow_bytes - data.padding_bytes
        if stream.window_bytes < 0:
            self._fail("more DATA than the stream's window")
            return
        if data.pieces:
            stream.response.pieces += data.pieces
            stream.response.wake()
        if data.ended:
            self._on_end_stream(data.stream_id)
            if not stream.sending and self._lost is None:
                # h2 saw no DATA: END_STREAM would be a mistake in its eyes where there was a content-length.
                self._to_h2(_FRAME_OF_ONE_NUMBER.pack(_RST_STREAM_START, data.stream_id, 0))
        elif data.padding_bytes:
            self._consumed(data.stream_id, data.padding_bytes)

    def _consumed(self, stream_id: int, flow_bytes: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.returnable_bytes += flow_bytes
        if stream.returnable_bytes >= STREAM_WINDOW_BYTES // 2:
            self._open_window(stream_id, stream.returnable_bytes)
            stream.window_bytes += stream.returnable_bytes
            stream.returnable_bytes = 0

    def _open_window(self, stream_id: int, increment: int) -> None:
        self._write(_FRAME_OF_ONE_NUMBER.pack(_WINDOW_UPDATE_START, stream_id, increment))

    def _on_end_stream(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        declared = stream.response.headers.get("content-length")
        if declared is not None and stream.has_body and declared != str(stream.received_bytes):
            self._fail(f"a body of {stream.received_bytes} bytes, where content-length says {declared}")
            return
        self._end(stream_id, Ending(EndedBy.SERVER_CLOSED, "end of stream"))

    # What h2 says

    def _to_h2(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._on_event(event)
        except h2.exceptions.ProtocolError as error:
            self._fail(str(error))
            return
        self._flush()

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream_id), headers=list(lines)):
                headers = {str(name): str(value) for name, value in lines}
                if (stream := self._streams.get(stream_id)) is not None:
                    status = int(headers.pop(":status"))
                    stream.has_body = stream.has_body and status not in (204, 304)
                    stream.response.begin(status, headers)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                if stream_id in self._streams:
                    self._on_end_stream(stream_id)
            case h2.events.StreamReset(stream_id=int(stream_id), error_code=code):
                number = int(code) if code is not None else 0
                self._end(stream_id, Ending(EndedBy.STREAM_RESET, f"RST_STREAM {_error_name(number)}", number))
            case h2.events.RemoteSettingsChanged():
                self._settings_came = True
                self._window_opened.set()
            case h2.events.WindowUpdated():
                self._window_opened.set()
            case h2.events.PingAckReceived(ping_data=bytes(payload)):
                self._on_ping_ack(payload)
            case _:
                pass

    def _on_goaway(self, goaway: Goaway) -> None:
        self._going_away = True
        detail = f"GOAWAY {_error_name(goaway.error_code)}: the server did not process this request"
        for stream_id in [stream_id for stream_id in self._streams if stream_id > goaway.last_stream_id]:
            self._end(stream_id, Ending(EndedBy.STREAM_RESET, detail, h2.errors.ErrorCodes.REFUSED_STREAM))
        self._close_if_done()

    # PING

    def _send_ping(self) -> None:
        if self._ping is None or self._lost is not None:
            return
        self._pings += 1
        self._h2.ping(self._pings.to_bytes(8))
        self._flush()
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        self._ping_timer = loop.call_later(self._ping.timeout_ms / 1000, self._on_ping_timeout)

    def _on_ping_timeout(self) -> None:
        if self._ping is None:
            return
        loop = asyncio.get_running_loop()
        left_s = self._heard_s + self._ping.timeout_ms / 1000 - loop.time()
        if left_s > 0:
            self._ping_timer = loop.call_later(left_s, self._on_ping_timeout)
            return
        self._lose(f"HTTP/2 PING unanswered for {self._ping.timeout_ms / 1000:g} s")
        self._drop()

    def _on_ping_ack(self, payload: bytes) -> None:
        if self._ping is None or self._ping_timer is None or payload != self._pings.to_bytes(8):
            return
        self._ping_timer.cancel()
        self._ping_timer = asyncio.get_running_loop().call_later(self._ping.interval_ms / 1000, self._send_ping)

    # Endings

    def _cancel(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._reset(stream_id)
            self._window_opened.set()
            self._close_if_done()

    def _reset(self, stream_id: int) -> None:
        try:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return
        self._flush()

    def _end(self, stream_id: int, ending: Ending) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        stream.response.end(ending)
        if stream.sending and ending.by is EndedBy.SERVER_CLOSED:
            self._reset(stream_id)
        self._window_opened.set()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._going_away and not self._streams:
            self._drop()

    def _lose(self, detail: str) -> None:
        if self._lost is not None:
            return
        self._lost = Ending(EndedBy.CONNECTION_LOST, detail)
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.response.end(self._lost)
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
        self._write(self._h2.data_to_send())

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
