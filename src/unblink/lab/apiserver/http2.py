"""HTTP/2 towards one client, on the h2 library: streams, flow control both ways, GOAWAY.

Settings are those measured on kube-apiserver 1.36.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import time
from wsgiref.handlers import format_date_time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from unblink.lab.apiserver.asgi import App, Exchange, Scope, http_scope
from unblink.lab.apiserver.outlet import Outlet
from unblink.lab.apiserver.statuses import Headers

SETTINGS = {
    h2.settings.SettingCodes.MAX_FRAME_SIZE: 262_144,
    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100,
    h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1_048_896,
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 262_144,
}
CONNECTION_WINDOW_INCREMENT = 26_148_865
MAX_UNSENT_PER_STREAM = 65_536
GOAWAY_LINGER_S = 1.0  # goAwayTimeout of Go's http2 server
_FLUSH_BYTES = 65_536


class Http2:
    """One connection. ``changed`` is called whenever ``busy`` may have changed."""

    def __init__(self, outlet: Outlet, app: App, base: Scope, changed: Callable[[], None]) -> None:
        self._outlet = outlet
        self._changed = changed
        self._app = app
        self._base = base
        self._streams: dict[int, _Stream] = {}
        self._ready: deque[_Stream] = deque()
        self._flush_scheduled = False
        self._last_stream = 0
        self._going_away = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=SETTINGS)
        self._h2.max_inbound_frame_size = SETTINGS[h2.settings.SettingCodes.MAX_FRAME_SIZE]
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_INCREMENT)
        outlet.on_open = self._flush
        self._flush()

    @property
    def busy(self) -> bool:
        """Whether a stream is open."""
        return bool(self._streams)

    def data_received(self, data: bytes) -> None:
        """Bytes came from the client."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.closed()
            self._flush()  # h2 has queued the GOAWAY that says why
            self._outlet.close()
            return
        for event in events:
            self._handle(event)
        self._flush()

    def go_away(self) -> None:
        """Say GOAWAY(NO_ERROR, last stream): open streams are served to their end, then the connection closes."""
        if self._going_away:
            return
        self._going_away = True
        self._flush()
        # Not h2's close_connection(): after that h2 refuses to send on the streams that are still open.
        self._outlet.write(GoAwayFrame(0, last_stream_id=self._last_stream, error_code=0).serialize())
        self._close_if_done()

    def finish(self) -> None:
        """End every open answer cleanly where it stands."""
        for stream in list(self._streams.values()):
            stream.exchange.finish()

    def closed(self) -> None:
        """The connection is lost."""
        for stream in list(self._streams.values()):
            self._drop(stream)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._open_stream(event.stream_id, event.headers)
            case h2.events.DataReceived() if event.stream_id in self._streams:
                self._streams[event.stream_id].feed(event.data, event.flow_controlled_length)
            case h2.events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded() if event.stream_id in self._streams:
                stream = self._streams[event.stream_id]
                stream.request_ended = True
                stream.exchange.feed_end()
            case h2.events.StreamReset() if event.stream_id in self._streams:
                self._drop(self._streams[event.stream_id])
                self._close_if_done()
            case h2.events.WindowUpdated():
                self._window_opened(event.stream_id)
            case h2.events.RemoteSettingsChanged():
                self._window_opened(0)
            case h2.events.ConnectionTerminated():  # h2 sends nothing after it, and no Kubernetes client reads on
                self.closed()
                self._outlet.close()

    def _open_stream(self, stream_id: int, headers: Headers) -> None:
        if self._going_away:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream = stream_id
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        plain = [(bytes(name), bytes(value)) for name, value in headers if not name.startswith(b":")]
        if b":authority" in pseudo:
            plain.insert(0, (b"host", bytes(pseudo[b":authority"])))
        method = pseudo[b":method"].decode("latin-1")
        scope = http_scope(self._base, "2", method, bytes(pseudo.get(b":path", b"")), plain)
        self._streams[stream_id] = _Stream(self, stream_id, scope)

    def _window_opened(self, stream_id: int) -> None:
        for stream in list(self._streams.values()) if stream_id == 0 else [self._streams.get(stream_id)]:
            if stream is not None and (stream.pending or stream.response_ended):
                self.want_send(stream)

    def _drop(self, stream: "_Stream") -> None:
        self._streams.pop(stream.stream_id, None)
        stream.room.set()
        stream.exchange.disconnect()
        self._changed()

    # What streams ask for.

    def start_exchange(self, stream: "_Stream", scope: Scope) -> Exchange:
        """Run the application for a stream."""
        return Exchange(self._app, scope, stream)

    def send_head(self, stream: "_Stream", status: int, headers: Headers) -> None:
        """Queue the response's HEADERS frame."""
        if stream.stream_id in self._streams:
            date = (b"date", format_date_time(time()).encode())
            head = [(b":status", b"%d" % status), *headers, date]
            self._h2.send_headers(stream.stream_id, head)
            self.want_flush()

    def want_send(self, stream: "_Stream") -> None:
        """The stream has something to send."""
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)
        self.want_flush()

    def want_flush(self) -> None:
        """Send what is queued once the application has had its turn, so that a burst of events shares frames."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def reset(self, stream: "_Stream") -> None:
        """RST_STREAM: the answer is broken."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._h2.reset_stream(stream.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self.want_flush()
            self._close_if_done()

    def acknowledge(self, stream: "_Stream", size: int) -> None:
        """Give ``size`` bytes back to the client's send window."""
        if size:
            try:
                self._h2.acknowledge_received_data(size, stream.stream_id)
            except h2.exceptions.ProtocolError:
                return  # the stream or connection ended meanwhile
            self.want_flush()

    # Sending.

    def _flush(self) -> None:
        self._flush_scheduled = False
        while True:
            budget = _FLUSH_BYTES if self._outlet.open else 0
            while self._ready and budget > 0:
                stream = self._ready.popleft()
                stream.queued = False
                budget -= self._send_frame(stream)
            data = self._h2.data_to_send()
            if data:
                self._outlet.write(data)
            if not self._ready or not self._outlet.open:
                return

    def _send_frame(self, stream: "_Stream") -> int:
        """Send one DATA frame of the stream, as far as its window goes; its size."""
        if stream.stream_id not in self._streams:
            return 0
        window = self._h2.local_flow_control_window(stream.stream_id)
        size = max(0, min(window, self._h2.max_outbound_frame_size, len(stream.pending)))
        end = stream.response_ended and size == len(stream.pending)
        if not size and not end:
            return 0
        data = bytes(stream.pending[:size])
        del stream.pending[:size]
        self._h2.send_data(stream.stream_id, data, end_stream=end)
        if len(stream.pending) <= MAX_UNSENT_PER_STREAM:
            stream.room.set()
        if end:
            self._ended(stream)
        elif stream.pending:
            stream.queued = True
            self._ready.append(stream)
        return size

    def _ended(self, stream: "_Stream") -> None:
        del self._streams[stream.stream_id]
        if not stream.request_ended:
            self._h2.reset_stream(stream.stream_id, h2.errors.ErrorCodes.NO_ERROR)
        self._close_if_done()

    def _close_if_done(self) -> None:
        """After the last stream the client may close; what it asks meanwhile is refused, not lost in a reset."""
        self._changed()
        if self._going_away and not self._streams:
            asyncio.get_running_loop().call_later(GOAWAY_LINGER_S, self._outlet.close)


class _Stream:
    """One stream: the wire of one exchange."""

    def __init__(self, connection: Http2, stream_id: int, scope: Scope) -> None:
        self.stream_id = stream_id
        self.pending = bytearray()
        self.room = asyncio.Event()
        self.request_ended = False
        self.response_ended = False
        self.queued = False
        self._connection = connection
        self.exchange = connection.start_exchange(self, scope)

    def feed(self, data: bytes, flow_controlled_length: int) -> None:
        self._connection.acknowledge(self, flow_controlled_length - len(data))
        self.exchange.feed(data)

    def start(self, status: int, headers: Headers) -> None:
        self._connection.send_head(self, status, headers)

    def body(self, data: bytes, more: bool) -> None:
        self.pending += data
        self.response_ended = not more
        self._connection.want_send(self)

    async def sendable(self) -> None:
        if len(self.pending) > MAX_UNSENT_PER_STREAM:
            self.room.clear()
            await self.room.wait()

    def abort(self) -> None:
        self._connection.reset(self)

    def consumed(self, size: int) -> None:
        self._connection.acknowledge(self, size)
