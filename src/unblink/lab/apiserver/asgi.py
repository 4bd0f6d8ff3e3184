"""One HTTP request and its answer, between a protocol (HTTP/1.1 or HTTP/2) and an ASGI 3 application.

The application runs in a task of its own. A client that leaves (stream reset, connection lost) cancels it.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from unblink.lab.apiserver.statuses import ApiError, Headers, failure, response
from unblink.lab.log import emit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
INTERNAL_ERROR = failure(500, "Internal Server Error", "InternalError")


class ClientGoneError(OSError):
    """The client reset the stream or closed the connection."""


class Wire(Protocol):
    """What a protocol does for one exchange."""

    def start(self, status: int, headers: Headers) -> None:
        """Send the response head."""

    def body(self, data: bytes, more: bool) -> None:
        """Send a piece of the body, its last one where ``more`` is False."""

    async def sendable(self) -> None:
        """Wait while too much is unsent."""

    def abort(self) -> None:
        """End the response so that the client sees that it is broken."""

    def consumed(self, size: int) -> None:
        """The application has taken ``size`` bytes of the request body."""


def http_scope(base: Scope, version: str, method: str, target: bytes, headers: Headers) -> Scope:
    """ASGI scope of one request; ``base`` holds what all requests of the connection share."""
    path, _, query = target.partition(b"?")
    return {
        **base,
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version,
        "method": method,
        "scheme": "https",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "state": dict(base["state"]),
    }


async def answer(scope: Scope, send: Send, error: ApiError) -> None:
    """Answer with ``error``; on a WebSocket scope that refuses the handshake (ASGI's websocket.http.response)."""
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    status, headers, body = response(error)
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def report(error: BaseException, scope: Scope | None = None) -> None:
    """Emit an ``error`` line: type and place of the exception and the path, but no text, which could hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    where = {"method": scope.get("method", "GET"), "path": scope["path"]} if scope else {}
    emit("error", type=type(error).__name__, place=place, **where)


class Exchange:
    """One run of the application: the protocol says what the client does, the wire carries the answer."""

    def __init__(self, app: App, scope: Scope, wire: Wire) -> None:
        self.started = False
        self.ended = False
        self._app = app
        self._scope = scope
        self._wire = wire
        self._inbound: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._gone = False
        self._task = asyncio.ensure_future(self._run())

    def feed(self, data: bytes) -> None:
        """A piece of the request body came."""
        self._put({"type": "http.request", "body": data, "more_body": True})

    def feed_end(self) -> None:
        """The request body is complete."""
        self._put({"type": "http.request", "body": b"", "more_body": False})

    def disconnect(self) -> None:
        """The client has gone: nobody will read the answer."""
        self._gone = True
        self._arrived.set()
        self._task.cancel()

    def finish(self) -> None:
        """End the answer cleanly where it stands, as the server's own deadline does."""
        self._task.cancel()

    def _put(self, message: Message) -> None:
        self._inbound.append(message)
        self._arrived.set()

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
            if not self.ended and not self._gone:
                raise RuntimeError("the application returned without an answer")
        except asyncio.CancelledError:
            if not self._gone:
                self._end_cleanly()
        except Exception as error:  # the edge: whatever an application raises is a 500 and a line
            if not (self._gone and isinstance(error, OSError)):
                report(error, self._scope)
                self._fail()
        finally:
            self._wire.consumed(sum(len(message["body"]) for message in self._inbound))
            self._inbound.clear()

    def _end_cleanly(self) -> None:
        if self.started and not self.ended:
            self.ended = True
            self._wire.body(b"", False)
        elif not self.started:
            self._wire.abort()

    def _fail(self) -> None:
        if self._gone or self.ended:
            return
        self.ended = True
        if self.started:
            self._wire.abort()
            return
        self.started = True
        status, headers, body = response(INTERNAL_ERROR)
        self._wire.start(status, headers)
        self._wire.body(body, False)

    async def _receive(self) -> Message:
        while not self._inbound and not self._gone:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._inbound:
            return {"type": "http.disconnect"}
        message = self._inbound.popleft()
        self._wire.consumed(len(message["body"]))
        return message

    async def _send(self, message: Message) -> None:
        if self._gone:
            raise ClientGoneError("the client has gone")
        if message["type"] == "http.response.start":
            self.started = True
            self._wire.start(message["status"], lower(message.get("headers", ())))
        elif message["type"] == "http.response.body" and self.started and not self.ended:
            self.ended = not message.get("more_body", False)
            data = b"" if self._scope["method"] == "HEAD" else message.get("body", b"")
            self._wire.body(data, not self.ended)
            if not self.ended:
                await self._wire.sendable()
        else:
            raise RuntimeError(f"unexpected ASGI message {message['type']}")


def lower(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Header names in lower case, as HTTP/2 demands."""
    return [(bytes(name).lower(), bytes(value)) for name, value in headers]
