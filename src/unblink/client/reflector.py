"""The I/O that drives a session: what it asks for goes out, what comes goes back in, and its deadlines are kept."""

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from urllib.parse import urlencode

from unblink.client.kubeconfig import KubeconfigError
from unblink.client.pool import Pool
from unblink.client.transport import (
    MAX_ERROR_BODY_BYTES,
    BodyTooLarge,
    Connection,
    RequestEnded,
    Response,
    Unreachable,
)
from unblink.stream.bookmarks import Bookmarks
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.frames import Framing
from unblink.stream.gzip import GzipError, inflate
from unblink.stream.messages import (
    AskList,
    AskProbe,
    AskWatch,
    Chunk,
    Close,
    Command,
    Input,
    ListAnswer,
    Start,
    Stop,
    Stopped,
    StreamEnded,
    Tick,
    WatchAnswer,
)
from unblink.stream.messages import Unreachable as NotReached
from unblink.stream.policy import WatchPolicy
from unblink.stream.session import Session

MAX_LIST_PAGE_BYTES = 1024 * 1024 * 1024
JSON = "application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_WATCH = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched. ``resource`` is spelled as for kubectl: ``pods`` or ``deployments.v1.apps``."""

    resource: str
    namespace: str | None = None
    field_selector: str | None = None
    label_selector: str | None = None
    metadata_only: bool = False

    @classmethod
    def of(cls, api_version: str, resource: str, namespace: str | None = None) -> "Watched":
        """From ``v1`` or ``apps/v1``, as ``apiVersion`` in a manifest is spelled.

        :raises ValueError: if either is not spelled so.
        """
        group, _, version = api_version.rpartition("/")
        if not version or "/" in group or not resource or "." in resource or "/" in resource:
            raise ValueError(
                f"api_version {api_version!r}, resource {resource!r}: expected a pair such as 'v1', 'pods' or "
                "'apps/v1', 'deployments'"
            )
        return cls(f"{resource}.{version}.{group}" if group else resource, namespace)

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

    It runs until its task is cancelled or the session is stopped; each request is a task of its own.
    """

    pool: Pool
    watched: Watched
    policy: WatchPolicy
    observe: Callable[[Command], None]
    user_agent: str = "unblink-reflector"
    bookmarks: Bookmarks = field(default_factory=Bookmarks)
    session: Session = field(init=False)
    _tasks: dict[int, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _used: set[Connection] = field(init=False, default_factory=set)
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)
    _timer_ms: int | None = field(init=False, default=None)
    _done: asyncio.Future[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.session = Session(self.policy, _monotonic_ms, _random.random, bookmarks=self.bookmarks)

    async def run(self) -> None:
        """Watch until cancelled.

        :raises Exception: what ``observe`` raised.
        """
        self._done = asyncio.get_running_loop().create_future()
        self._receive(Start())
        try:
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            left = list(self._tasks.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def stop(self) -> None:
        """End ``run``; harmless when repeated."""
        if self._done is not None and not self._done.done():
            self._receive(Stop())

    def _receive(self, event: Input) -> None:
        try:
            for command in self.session.receive(event):
                self.observe(command)
                self._carry_out(command)
        except Exception as error:
            self._fail(error)
            return
        self._arm()

    def _carry_out(self, command: Command) -> None:
        match command:
            case AskList():
                self._start(command.id, partial(self._list, command))
            case AskProbe():
                self._start(command.id, partial(self._list, AskList(command.id, "", 1, "", fresh=True)))
            case AskWatch():
                self._start(command.id, partial(self._watch, command))
            case Close():
                task = self._tasks.pop(command.id)
                if task is not asyncio.current_task():
                    task.cancel()
            case Stopped():
                if self._done is not None and not self._done.done():
                    self._done.set_result(None)
            case _:
                pass

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    # Time

    def _arm(self) -> None:
        due_ms = self.session.deadline_ms
        if due_ms is None or (self._timer_ms is not None and self._timer_ms <= due_ms):
            return  # a timer that is early finds nothing due, and is set again
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = asyncio.get_running_loop().call_later(max(0, due_ms - _monotonic_ms()) / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_ms = None
        if self._done is not None and not self._done.done():
            self._receive(Tick())

    # Requests

    def _start(self, number: int, work: Callable[[], Awaitable[Input | None]]) -> None:
        async def run() -> None:
            try:
                answer = await work()
            except (Unreachable, KubeconfigError) as error:
                answer = NotReached(number, str(error))
            except RequestEnded as error:
                answer = StreamEnded(number, error.ending)
            except Exception as error:
                self._fail(error)
                return
            if answer is not None and self._tasks.get(number) is asyncio.current_task():
                del self._tasks[number]
                self._receive(answer)

        self._tasks[number] = asyncio.get_running_loop().create_task(run())

    async def _list(self, asked: AskList) -> Input:
        url = self.watched.url(
            resourceVersion=asked.resource_version, limit=asked.limit, **{"continue": asked.continue_token}
        )
        accept = f"{METADATA_LIST},{JSON}" if self.watched.metadata_only else JSON
        response = await self._request(url, {"accept": accept, "accept-encoding": "gzip"}, fresh=asked.fresh)
        try:
            body = await response.body(MAX_LIST_PAGE_BYTES)
            if response.headers.get("content-encoding") == "gzip":
                body = inflate(body, MAX_LIST_PAGE_BYTES)
        except (BodyTooLarge, GzipError) as error:
            return StreamEnded(asked.id, Ending(EndedBy.ERROR_EVENT, str(error)))
        finally:
            response.close()
        return ListAnswer(asked.id, response.status, body, _retry_after_s(response))

    async def _watch(self, asked: AskWatch) -> Input | None:
        url = self.watched.url(
            allowWatchBookmarks="true",
            resourceVersion=asked.resource_version,
            resourceVersionMatch="NotOlderThan" if asked.send_initial_events else None,
            sendInitialEvents="true" if asked.send_initial_events else None,
            timeoutSeconds=asked.timeout_s,
            watch="true",
        )
        accept = f"{METADATA_WATCH},{JSON}" if self.watched.metadata_only else JSON
        response = await self._request(url, {"accept": accept}, fresh=asked.fresh)
        number = asked.id
        try:
            if response.status != HTTPStatus.OK:
                return WatchAnswer(number, response.status, await _beginning(response), _retry_after_s(response))
            gzip = response.headers.get("content-encoding") == "gzip"
            self._receive(WatchAnswer(number, response.status, framing=Framing.LINES, gzip=gzip))
            while number in self._tasks:
                pieces = await response.read()
                if not pieces:
                    return StreamEnded(number, Ending(EndedBy.SERVER_CLOSED, "end of stream"))
                self._receive(Chunk(number, *pieces))
        finally:
            response.close()
        return None

    async def _request(self, url: str, headers: dict[str, str], *, fresh: bool) -> Response:
        """The head of an answer; a refused credential is made anew once."""
        if not fresh:
            self._used.clear()
        headers["user-agent"] = self.user_agent
        connection = await self.pool.acquire(self._used if fresh else ())
        self._used.add(connection)
        access = self.pool.access
        sent = access.authorization()
        response = await connection.request("GET", url, headers)
        if response.status == HTTPStatus.UNAUTHORIZED and access.on_unauthorized(sent):
            response.close()
            connection = await self.pool.acquire(self._used)
            response = await connection.request("GET", url, headers)
        return response


async def _beginning(response: Response) -> bytes:
    try:
        return await response.body(MAX_ERROR_BODY_BYTES)
    except BodyTooLarge:
        return b""


def _retry_after_s(response: Response) -> float | None:
    """Retry-After in seconds; its date form (RFC 9110, 10.2.3) is not used by kube-apiserver and counts as none."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None
