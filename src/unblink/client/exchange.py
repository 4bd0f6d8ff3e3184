"""What a request and its answer are, whatever HTTP version carries them, and how they end."""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from os import strerror
from socket import gaierror
from types import TracebackType
from typing import Protocol, Self

from unblink.client.kubeconfig import Access
from unblink.stream.endings import EndedBy, Ending

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
USER_AGENT = "unblink"

_UNSENDABLE = re.compile(r"[\x00-\x20\x7f]")
_UNSENDABLE_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


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
    """The answer to one request: its head, then its body as it comes. One task reads it.

    ``consumed`` is told how many bytes of the body were read, ``cancel`` that the rest is not wanted.
    """

    def __init__(self, consumed: Callable[[int], None], cancel: Callable[[], None]) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.pieces: list[bytes] = []
        """What came of the body and was not read; the connection adds to it and then calls ``wake``."""
        self._consumed = consumed
        self._cancel = cancel
        self._ending: Ending | None = None
        self._changed = asyncio.Event()

    async def head(self) -> None:
        """Wait for the status and headers.

        :raises RequestEnded: if the stream ended before.
        """
        while not self.status:
            if self._ending is not None:
                raise RequestEnded(self._ending)
            await self._until_changed()

    async def read(self) -> list[bytes]:
        """All of the body that came since the last call, in the pieces that it came in; none at the server's clean end.
        What came before an ending is given first. Cancelling the wait gives the response up, as ``close`` does.

        :raises RequestEnded: if someone else ended the stream.
        """
        while not self.pieces:
            if self._ending is not None:
                if self._ending.by is EndedBy.SERVER_CLOSED:
                    return []
                raise RequestEnded(self._ending)
            try:
                await self._until_changed()
            except asyncio.CancelledError:
                self.close()
                raise
        pieces = self.pieces.copy()
        self.pieces.clear()
        self._consumed(sum(map(len, pieces)))
        return pieces

    async def chunk(self) -> bytes | None:
        """The same as one; None at the server's clean end.

        :raises RequestEnded: if someone else ended the stream.
        """
        return b"".join(await self.read()) or None

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
        """Give the rest up, and the stream if it is open. Harmless when repeated."""
        self.end(Ending(EndedBy.DEADLINE, "given up by us"))
        self.pieces.clear()
        self._cancel()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head came."""
        self.status, self.headers = status, headers
        self.wake()

    def end(self, ending: Ending) -> None:
        """Nothing comes any more. The first ending is the one that counts."""
        if self._ending is None:
            self._ending = ending
        self.wake()

    def wake(self) -> None:
        """Something changed."""
        self._changed.set()

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Connection(Protocol):
    """A connection that stands or stood, over HTTP/2 or HTTP/1.1. Made by ``transport.connect``."""

    local_port: int
    """Our TCP port."""

    @property
    def usable(self) -> bool:
        """Whether it stands and the server takes requests on it."""

    @property
    def spare(self) -> int:
        """How many requests it can take now. One counts from the moment that ``request`` is awaited."""

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send a request and wait for the head of its answer. ``path`` is added to the kubeconfig's server URL.

        :raises RequestEnded: if it ended before that.
        :raises KubeconfigError: if there are no credentials to send.
        :raises ValueError: if a header or the path has characters that HTTP cannot carry.
        """

    def close(self) -> None:
        """Close the connection at once, whatever is open on it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def request_headers(access: Access, headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """The headers of a request in lower case, with our name and credentials.

    :raises ValueError: if one cannot be sent as it is.
    """
    own = {"user-agent": USER_AGENT} | {name.lower(): value for name, value in (headers or {}).items()}
    lines = list(own.items())
    lines += ((name.lower(), value) for name, value in access.extra_headers())
    if (authorization := access.authorization()) is not None:
        lines.append(("authorization", authorization))
    for name, value in lines:
        # The value may be a secret, and is not repeated.
        if not name or not name.isascii() or _UNSENDABLE.search(name) or ":" in name:
            raise ValueError(f"header {name!r}: expected a name of visible ASCII characters without a colon")
        if _UNSENDABLE_IN_VALUE.search(value) or value != value.strip():
            raise ValueError(f"header {name!r}: expected a value without control characters or space around it")
    return lines


def checked_target(method: str, target: str) -> str:
    """The request's path and query.

    :raises ValueError: if it or the method cannot be sent as it is.
    """
    if not method.isascii() or not method.isalpha():
        raise ValueError(f"method {method!r}: expected a word such as GET")
    if not target.startswith("/") or not target.isascii() or _UNSENDABLE.search(target):
        raise ValueError(f"path {target!r}: expected a slash first, and other characters than visible ASCII quoted")
    return target


def plain_reason(error: BaseException) -> str:
    """An error in the words of the operating system where it has some; asyncio puts others in their place."""
    if isinstance(error, gaierror):
        return f"name resolution: {error.strerror}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return strerror(error.errno)
    return str(error) or type(error).__name__
