"""The I/O loop that drives a session: what it asks for goes out over one connection, what comes goes back in."""

import asyncio
import random as _random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from unblink.client.kubeconfig import Access
from unblink.client.transport import (
    MAX_ERROR_BODY_BYTES,
    BodyTooLarge,
    Connection,
    RequestEnded,
    Response,
    Unreachable,
    connect,
)
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.policy import WatchPolicy
from unblink.stream.session import (
    AskList,
    AskWatch,
    Chunk,
    CloseStream,
    Command,
    Input,
    ListAnswer,
    Session,
    Start,
    StreamEnded,
    TimerFired,
    Wait,
    WatchAnswer,
)
from unblink.stream.session import Unreachable as NotReached

MAX_LIST_PAGE_BYTES = 256 * 1024 * 1024
JSON = {"accept": "application/json"}
HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched. ``resource`` is spelled as for kubectl: ``pods`` or ``deployments.v1.apps``."""

    resource: str
    namespace: str | None = None
    field_selector: str | None = None
    label_selector: str | None = None

    @property
    def path(self) -> str:
        """The URL path of the collection.

        :raises ValueError: if ``resource`` is not RESOURCE or RESOURCE.VERSION.GROUP.
        """
        name, *version_and_group = self.resource.split(".", 2)
        if not name or len(version_and_group) == 1:
            raise ValueError(f"resource {self.resource!r}: expected RESOURCE or RESOURCE.VERSION.GROUP")
        root = f"/apis/{version_and_group[1]}/{version_and_group[0]}" if version_and_group else "/api/v1"
        scope = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{root}{scope}/{name}"

    def url(self, **parameters: str | int | None) -> str:
        """Path and query; parameters that are None, empty or 0 are left out."""
        selectors = {"fieldSelector": self.field_selector, "labelSelector": self.label_selector}
        query = urlencode({name: value for name, value in (selectors | parameters).items() if value})
        return f"{self.path}?{query}" if query else self.path


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass
class Reflector:
    """One watch kept up by a policy. ``observe`` gets every command of the session, in order, before it is carried out.

    It runs until its task is cancelled. ``connection`` may be given where one stands already; one that is lost or going
    away is replaced by a new one for the next request.
    """

    access: Access
    watched: Watched
    policy: WatchPolicy
    observe: Callable[[Command], None]
    connection: Connection | None = None
    session: Session = field(init=False)
    _response: Response | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.session = Session(self.policy, _monotonic_ms, _random.random)

    async def run(self) -> None:
        """Watch until cancelled.

        :raises KubeconfigError: if a token file or certificate is not usable.
        """
        try:
            event: Input = Start()
            while True:
                event = await self._carry_out(self.session.receive(event))
        finally:
            if self.connection is not None:
                self.connection.close()

    async def _carry_out(self, commands: list[Command]) -> Input:
        """Carry commands out; at most the last one has an answer, and without any the open watch has the word."""
        event: Input | None = None
        for command in commands:
            self.observe(command)
            match command:
                case AskList():
                    event = await self._list(command)
                case AskWatch():
                    event = await self._watch(command)
                case Wait(ms=ms):
                    await asyncio.sleep(ms / 1000)
                    event = TimerFired()
                case CloseStream():
                    self._close_stream()
                case _:
                    pass
        return event or await self._read()

    async def _list(self, asked: AskList) -> Input:
        url = self.watched.url(
            resourceVersion=asked.resource_version, limit=asked.limit, **{"continue": asked.continue_token}
        )
        try:
            response = await (await self._connected()).request("GET", url, JSON)
            body = await response.body(MAX_LIST_PAGE_BYTES)
        except Unreachable as error:
            return NotReached(str(error))
        except RequestEnded as error:
            return StreamEnded(error.ending)
        except BodyTooLarge as error:
            return StreamEnded(Ending(EndedBy.ERROR_EVENT, str(error)))
        return ListAnswer(response.status, body, _retry_after_s(response))

    async def _watch(self, asked: AskWatch) -> Input:
        self._close_stream()
        url = self.watched.url(
            allowWatchBookmarks="true",
            resourceVersion=asked.resource_version,
            resourceVersionMatch="NotOlderThan" if asked.send_initial_events else None,
            sendInitialEvents="true" if asked.send_initial_events else None,
            timeoutSeconds=asked.timeout_s,
            watch="true",
        )
        try:
            response = await (await self._connected()).request("GET", url, JSON)
            if response.status != HTTP_OK:
                return WatchAnswer(response.status, await _beginning(response), _retry_after_s(response))
        except Unreachable as error:
            return NotReached(str(error))
        except RequestEnded as error:
            return StreamEnded(error.ending)
        self._response = response
        return WatchAnswer(response.status)

    async def _read(self) -> Input:
        if self._response is None:
            raise AssertionError("the session waits for a watch that is not open")
        try:
            data = await self._response.chunk()
        except RequestEnded as error:
            self._close_stream()
            return StreamEnded(error.ending)
        if data is None:
            self._close_stream()
            return StreamEnded(Ending(EndedBy.SERVER_CLOSED, "end of stream"))
        return Chunk(data)

    def _close_stream(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _connected(self) -> Connection:
        if self.connection is None or not self.connection.usable:
            # One that is going away closes itself when its last stream has ended.
            self.connection = await connect(self.access)
        return self.connection


async def _beginning(response: Response) -> bytes:
    try:
        return await response.body(MAX_ERROR_BODY_BYTES)
    except BodyTooLarge:
        return b""


def _retry_after_s(response: Response) -> float | None:
    """Retry-After in seconds; its date form (RFC 9110, 10.2.3) is not used by kube-apiserver and counts as none."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None
