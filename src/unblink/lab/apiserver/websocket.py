"""A WebSocket session over an upgraded HTTP/1.1 connection (RFC 6455), on the wsproto library, as an ASGI websocket."""

import asyncio
from collections import deque

import h11
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from unblink.lab.apiserver.asgi import INTERNAL_ERROR, App, ClientGoneError, Message, Scope, report
from unblink.lab.apiserver.outlet import Outlet
from unblink.lab.apiserver.statuses import Headers, bad_request, response

MAX_MESSAGE = 1 << 20
MAX_UNREAD = 262_144
CLOSE_WAIT_S = 1.0


class WebSocket:
    """One session: the handshake is the application's to accept or to refuse."""

    def __init__(self, outlet: Outlet, app: App, scope: Scope, target: bytes, trailing: bytes) -> None:
        self._outlet = outlet
        self._app = app
        self._trailing = trailing
        self._handshake = H11Handshake(ConnectionType.SERVER)
        self._connection: Connection | None = None
        self._inbound: deque[Message] = deque([{"type": "websocket.connect"}])
        self._arrived = asyncio.Event()
        self._partial = bytearray()
        self._unread = 0
        self._gone = False
        self._ended = False
        self._refusal: tuple[int, Headers] | None = None
        self._task: asyncio.Task[None] | None = None
        try:
            self._handshake.initiate_upgrade_connection(scope["headers"], target)
        except (RemoteProtocolError, h11.ProtocolError, UnicodeError) as error:
            self._refuse(*response(bad_request(str(error))))
            return
        request = next(self._handshake.events())
        assert isinstance(request, Request)
        self._scope = {**scope, "type": "websocket", "scheme": "wss", "subprotocols": request.subprotocols}
        self._task = asyncio.ensure_future(self._run())

    def data_received(self, data: bytes) -> None:
        """Bytes came from the client."""
        if self._connection is None:
            self._trailing += data
            return
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                self._handle(event)
        except RemoteProtocolError as error:
            self._close(getattr(error.event_hint, "code", 1002))

    def finish(self) -> None:
        """The server ends the session."""
        if self._task is not None:
            self._task.cancel()

    def closed(self) -> None:
        """The connection is lost."""
        self._disconnect(1006)

    def _handle(self, event: Event) -> None:
        match event:
            case Ping():
                self._write(event.response())
            case BytesMessage() | TextMessage():
                self._partial += event.data.encode() if isinstance(event.data, str) else event.data
                if len(self._partial) > MAX_MESSAGE:
                    self._close(1009)
                elif event.message_finished:
                    message, self._partial = bytes(self._partial), bytearray()
                    self._unread += len(message)
                    self._outlet.pause_reading(self._unread > MAX_UNREAD)
                    self._put({"type": "websocket.receive", "bytes": message})
            case CloseConnection() if self._connection is not None:
                # Open still: wsproto has met what is no frame. Otherwise the client closes, and gets its answer.
                failed = self._connection.state is ConnectionState.OPEN
                self._write(CloseConnection(code=event.code) if failed else event.response())
                self._disconnect(event.code)
                self._outlet.close()

    def _put(self, message: Message) -> None:
        self._inbound.append(message)
        self._arrived.set()

    def _disconnect(self, code: int) -> None:
        if not self._gone:
            self._gone = True
            self._put({"type": "websocket.disconnect", "code": code})
            if self._task is not None and not self._ended:
                self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
            code = 1000
        except asyncio.CancelledError:
            code = 1001
        except Exception as error:  # the edge, as in ``asgi``
            if not (self._gone and isinstance(error, OSError)):
                report(error, self._scope)
            code = 1011
        if self._gone or self._ended:
            return
        if self._connection is None:
            self._refuse(*response(INTERNAL_ERROR))
        else:
            self._close(code)

    async def _receive(self) -> Message:
        while not self._inbound:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._inbound.popleft()
        if message["type"] == "websocket.receive":
            self._unread -= len(message["bytes"])
            self._outlet.pause_reading(self._unread > MAX_UNREAD)
        return message

    async def _send(self, message: Message) -> None:
        if self._gone:
            raise ClientGoneError("the client has gone")
        match message["type"]:
            case "websocket.accept":
                self._outlet.write(self._handshake.send(AcceptConnection(subprotocol=message.get("subprotocol"))))
                self._connection = self._handshake.connection
                trailing, self._trailing = self._trailing, b""
                if trailing:
                    self.data_received(trailing)
            case "websocket.send":
                self._write(BytesMessage(data=message["bytes"]))
                await self._outlet.wait_open()
            case "websocket.close":
                self._close(message.get("code", 1000))
            case "websocket.http.response.start":
                self._refusal = message["status"], message["headers"]
            case "websocket.http.response.body" if self._refusal is not None:
                self._refuse(*self._refusal, message["body"])
            case kind:
                raise RuntimeError(f"unexpected ASGI message {kind}")

    def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._ended = True
        head = [*headers, (b"connection", b"close")]
        self._outlet.write(
            self._handshake.send(RejectConnection(status_code=status, headers=head, has_body=True))
            + self._handshake.send(RejectData(data=body))
        )
        self._outlet.close()

    def _close(self, code: int) -> None:
        """Start the closing handshake; a client that does not answer is not waited for."""
        if self._ended:
            return
        self._ended = True
        self._write(CloseConnection(code=code))
        asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self._outlet.close)

    def _write(self, event: Event) -> None:
        if self._connection is not None and self._connection.state in {
            ConnectionState.OPEN,
            ConnectionState.REMOTE_CLOSING,
        }:
            self._outlet.write(self._connection.send(event))
