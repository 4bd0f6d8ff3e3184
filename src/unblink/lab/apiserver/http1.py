"""HTTP/1.1 towards one client, on the h11 library; hands over to ``websocket`` on an upgrade."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from time import time
from wsgiref.handlers import format_date_time

import h11

from unblink.lab.apiserver.asgi import App, Exchange, Scope, http_scope
from unblink.lab.apiserver.outlet import Outlet
from unblink.lab.apiserver.statuses import Headers, bad_request, response
from unblink.lab.apiserver.websocket import WebSocket

MAX_UNREAD = 1 << 20


class Http1:
    """One connection: one exchange after the other. ``changed`` is called whenever ``busy`` may have changed."""

    def __init__(self, outlet: Outlet, app: App, base: Scope, changed: Callable[[], None]) -> None:
        self._outlet = outlet
        self._changed = changed
        self._app = app
        self._base = base
        self._h11 = h11.Connection(h11.SERVER)
        self._exchange: Exchange | None = None
        self._websocket: WebSocket | None = None
        self._unread = 0
        self._going_away = False

    @property
    def busy(self) -> bool:
        """Whether a request is being answered. An upgraded connection does not count, as in Go's http.Server."""
        return self._exchange is not None

    def data_received(self, data: bytes) -> None:
        """Bytes came from the client."""
        if self._websocket is not None:
            self._websocket.data_received(data)
            return
        try:
            self._h11.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(str(error))

    def go_away(self) -> None:
        """Close when idle; otherwise the answer that is under way is the last one."""
        self._going_away = True
        if self._exchange is None and self._websocket is None:
            self._outlet.close()

    def finish(self) -> None:
        """End the open answer, or the WebSocket session, cleanly where it stands."""
        if self._exchange is not None:
            self._exchange.finish()
        if self._websocket is not None:
            self._websocket.finish()

    def closed(self) -> None:
        """The connection is lost."""
        if self._exchange is not None:
            self._exchange.disconnect()
            self._exchange = None
            self._changed()
        if self._websocket is not None:
            self._websocket.closed()

    def _advance(self) -> None:
        while True:
            match self._h11.next_event():
                case h11.NEED_DATA | h11.PAUSED:
                    if self._h11.trailing_data[0] and len(self._h11.trailing_data[0]) > MAX_UNREAD:
                        self._outlet.pause_reading(True)
                    return
                case h11.Request() as request:
                    self._begin(request)
                    if self._websocket is not None:
                        return
                case h11.Data() as data if self._exchange is not None:
                    self._unread += len(data.data)
                    self._outlet.pause_reading(self._unread > MAX_UNREAD)
                    self._exchange.feed(bytes(data.data))
                case h11.EndOfMessage() if self._exchange is not None:
                    self._exchange.feed_end()
                case h11.ConnectionClosed():
                    return

    def _begin(self, request: h11.Request) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in request.headers]
        version = request.http_version.decode()
        scope = http_scope(self._base, version, request.method.decode(), bytes(request.target), headers)
        upgrade = next((value for name, value in headers if name == b"upgrade"), b"")
        if upgrade.lower() == b"websocket" and request.method == b"GET":
            self._h11.next_event()  # EndOfMessage: what follows is not HTTP
            trailing = self._h11.trailing_data[0]
            self._websocket = WebSocket(self._outlet, self._app, scope, bytes(request.target), bytes(trailing))
            return
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        self._exchange = Exchange(self._app, scope, self)

    def _refuse(self, message: str) -> None:
        if self._exchange is not None:
            self._exchange.disconnect()
            self._exchange = None
            self._changed()
        if self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            status, headers, body = response(bad_request(message))
            head = [*headers, (b"connection", b"close")]
            self._write(h11.Response(status_code=status, headers=head, reason=HTTPStatus(status).phrase))
            self._write(h11.Data(data=body))
            self._write(h11.EndOfMessage())
        self._outlet.close()

    def _write(self, event: h11.Event) -> None:
        self._outlet.write(self._h11.send(event) or b"")

    # The wire of the exchange.

    def start(self, status: int, headers: Headers) -> None:
        head = [*headers, (b"date", format_date_time(time()).encode())]
        if self._going_away:
            head.append((b"connection", b"close"))
        self._write(h11.Response(status_code=status, headers=head, reason=HTTPStatus(status).phrase))

    def body(self, data: bytes, more: bool) -> None:
        if data:
            self._write(h11.Data(data=data))
        if not more:
            self._write(h11.EndOfMessage())
            self._next()

    async def sendable(self) -> None:
        await self._outlet.wait_open()

    def abort(self) -> None:
        self._exchange = None
        self._changed()
        self._outlet.abort()

    def consumed(self, size: int) -> None:
        if size:
            self._unread -= size
            self._outlet.pause_reading(self._unread > MAX_UNREAD)

    def _next(self) -> None:
        """The answer is complete: take the next request, or close."""
        self._exchange = None
        self._changed()
        if self._going_away or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self._outlet.close()
            return
        self._h11.start_next_cycle()
        self._outlet.pause_reading(False)
        # Not at once: the application's task is still on the stack.
        asyncio.get_running_loop().call_soon(self.data_received_again)

    def data_received_again(self) -> None:
        """Look at requests that came while the one before was answered."""
        if self._exchange is None and self._websocket is None and self._h11.their_state is h11.IDLE:
            try:
                self._advance()
            except h11.RemoteProtocolError as error:
                self._refuse(str(error))
