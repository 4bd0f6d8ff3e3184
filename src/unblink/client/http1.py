"""HTTP/1.1 (RFC 9112) over one connection: one request after the other. httptools (llhttp) reads the answers."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httptools

from unblink.client.exchange import (
    MAX_HEAD_BYTES,
    RequestEnded,
    Response,
    checked_target,
    plain_reason,
    request_headers,
)
from unblink.client.kubeconfig import Access
from unblink.stream.endings import EndedBy, Ending

MAX_QUEUED_BYTES = 1024 * 1024
_WITH_BODY = ("POST", "PUT", "PATCH")


class _Answer:
    """One answer as the parser reads it, which calls what is named ``on_...`` here."""

    def __init__(self, response: Response, method: str) -> None:
        self.response = response
        self.on_body = response.pieces.append
        self.parser = httptools.HttpResponseParser(self)
        self.complete = False
        self.keep_alive = False
        self.head_bytes = 0
        self.bytes_without_body = 0
        self.queued_bytes = 0
        self._method = method
        self._headers: dict[str, str] = {}

    @property
    def until_close(self) -> bool:
        """Whether the end of the connection is the end of the body (RFC 9112, 6.3)."""
        headers = self.response.headers
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        return bool(self.response.status) and not chunked and "content-length" not in headers

    def feed(self, data: bytes) -> None:
        """More bytes of the server.

        :raises httptools.HttpParserError, httptools.HttpParserUpgrade: if they are no answer.
        """
        pieces = len(self.response.pieces)
        try:
            self.parser.feed_data(data)
        finally:
            if len(self.response.pieces) > pieces:
                self.queued_bytes += len(data)
                self.bytes_without_body = 0
                self.response.wake()
            else:
                self.bytes_without_body += len(data)

    @property
    def head_too_long(self) -> bool:
        """Whether the head, the trailers or a chunk's extensions are."""
        return max(self.head_bytes, self.bytes_without_body) > MAX_HEAD_BYTES

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that no request asked for")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value)
        if not self.response.status:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            return  # an interim answer: the real one follows
        self.response.begin(status, self._headers)
        # The parser would wait for a body, so that the connection is not used again.
        self.complete = self._method == "HEAD"

    def on_message_complete(self) -> None:
        if self.response.status and not self.complete:
            self.complete = True
            self.keep_alive = self.parser.should_keep_alive()


class Http1Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; see ``exchange.Connection``. Giving up an open answer closes it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._transport: asyncio.Transport | None = None
        self._answer: _Answer | None = None
        self._starting = False
        self._paused = False
        self._lost: Ending | None = None
        self.local_port = 0
        """Our TCP port, 0 before the connection stands."""

    @property
    def usable(self) -> bool:
        """Whether the connection stands."""
        return self._transport is not None and self._lost is None and not self._transport.is_closing()

    @property
    def spare(self) -> int:
        """1 while no request is under way."""
        return int(self.usable and self.idle)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._answer is None and not self._starting

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """See ``exchange.Connection.request``."""
        if not self.idle:
            raise RequestEnded(Ending(EndedBy.REFUSED, "another request is under way on the connection"))
        self._starting = True
        try:
            await self._access.refresh()
            message = self._head(method, path, headers, body) + body
            if not self.usable or self._transport is None:
                raise RequestEnded(self._lost or Ending(EndedBy.CONNECTION_LOST, "the connection is closed"))
            # The callbacks need the answer that is made with them.
            response = Response(lambda _: self._consumed(answer), lambda: self._cancel(answer))
            answer = self._answer = _Answer(response, method)
        finally:
            self._starting = False
        self._transport.write(message)
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def _head(self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes) -> bytes:
        lines = [("host", self._access.authority), *request_headers(self._access, headers)]
        if body or method in _WITH_BODY:
            lines.append(("content-length", str(len(body))))
        target = checked_target(method, self._access.base_path + path)
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
        return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode()

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

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._fail("bytes that no request asked for")
            return
        try:
            answer.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if answer.complete:
                answer.response.end(Ending(EndedBy.SERVER_CLOSED, "end of body"))
            self._fail(str(error.__context__ or error))
            return
        if answer.head_too_long:
            self._fail(f"a head, trailers or chunk extensions of more than {MAX_HEAD_BYTES} bytes")
        elif answer.complete:
            self._finish(answer)
        elif answer.queued_bytes > MAX_QUEUED_BYTES:
            self._pause(True)

    def eof_received(self) -> None:
        answer = self._answer
        if answer is not None and answer.until_close and self._said_goodbye():
            answer.keep_alive = False
            self._finish(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lose("the peer closed the connection" if exc is None else plain_reason(exc))

    def _said_goodbye(self) -> bool:
        """Whether the end of the bytes is the peer's word: over TLS a FIN alone may be anybody's (RFC 9112, 9.8)."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            return True
        try:
            return not tls.read(1)  # after close_notify; without it TLS still waits for more
        except OSError:
            return False

    # The answer under way

    def _consumed(self, answer: _Answer) -> None:
        answer.queued_bytes = 0
        if self._answer is answer:
            self._pause(False)

    def _cancel(self, answer: _Answer) -> None:
        if self._answer is answer:
            self.close()

    def _pause(self, wanted: bool) -> None:
        if self._transport is None or wanted is self._paused:
            return
        self._paused = wanted
        if wanted:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _finish(self, answer: _Answer) -> None:
        self._answer = None
        self._pause(False)
        answer.response.end(Ending(EndedBy.SERVER_CLOSED, "end of body"))
        if not answer.keep_alive:
            self._lose("the server closes the connection after its answer")
            self._drop()

    def _lose(self, detail: str) -> None:
        if self._lost is not None:
            return
        self._lost = Ending(EndedBy.CONNECTION_LOST, detail)
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.response.end(self._lost)

    def _fail(self, reason: str) -> None:
        self._lose(f"HTTP/1.1 protocol error of the server: {reason}")
        self._drop()

    def _drop(self) -> None:
        # A close would wait for the peer's close_notify. A second abort fails in asyncio's TLS.
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
