"""watch: the stream of changes from a revision on.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. Timing of bookmarks as
k8s.io/apiserver's cacheWatcher: one each period and one 2 s before the deadline, each only when the cache is past the
revision that the watch started from: the one asked for, or the newest that its first events brought (cache_watcher.go,
processInterval). A WatchList's first one comes as soon as the initial events are complete.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unblink.lab import log
from unblink.lab.apiserver import protobuf, statuses
from unblink.lab.apiserver.asgi import Send
from unblink.lab.apiserver.cache import Change, Stored, WatchCache, encode, prefix_of
from unblink.lab.apiserver.media import PROTOBUF, Media
from unblink.lab.apiserver.requests import Query, check_list_options, flag, integer, revision, selection
from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.selectors import Matcher
from unblink.lab.apiserver.storage import Storage
from unblink.lab.apiserver.tables import partial, table

BEFORE_DEADLINE_S = 2.0
SLOW_WATCHER_EVENTS = 1_000  # a watcher with more events unsent than this is ended, as kube-apiserver does
MIN_TIMEOUT_S = 1_800  # --min-request-timeout; without timeoutSeconds a watch lasts once to twice this


@dataclass(frozen=True)
class Audience:
    """Who watches, for the log."""

    user: str
    user_agent: str


@dataclass(frozen=True)
class WatchOptions:
    timeout_s: float
    bookmarks: bool
    initial_events: bool  # WatchList: initial events and then a bookmark that says so
    start: int | None  # None: initial events, then what follows

    @classmethod
    def of(cls, query: Query) -> "WatchOptions":
        """:raises statuses.ApiError: 400, 422, 500 as the parameters deserve."""
        timeout_s = integer(query, "timeoutSeconds")
        check_list_options(query, watch=True)
        initial = flag(query, "sendInitialEvents")
        start = revision(query)
        if timeout_s <= 0:
            timeout_s = random.randint(MIN_TIMEOUT_S, 2 * MIN_TIMEOUT_S)  # noqa: S311
        return cls(timeout_s, flag(query, "allowWatchBookmarks"), initial, start)


Encoder = Callable[[str, dict[str, Any]], bytes]


def event_encoder(resource: Resource, media: Media, include: str) -> Encoder:
    """Frames of one watch: type and object (a Status for ERROR) to bytes."""
    if media.type == PROTOBUF:
        return protobuf.watch_frame
    first = True

    def frame(event_type: str, thing: dict[str, Any]) -> bytes:
        nonlocal first
        if event_type != "ERROR" and media.form == "Table":
            at = {"resourceVersion": thing["metadata"]["resourceVersion"]}
            thing = table(resource, [thing], at, include=include, definitions=first)
            first = False
        elif event_type != "ERROR" and media.form:
            thing = partial(thing)
        return json_frame(event_type, encode(thing))

    return frame


def json_frame(event_type: str, thing_json: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (event_type.encode(), thing_json)


def seen_through(change: Change, prefix: str, selected: Matcher | None) -> tuple[str, Stored] | None:
    """The event that a change is to a watcher of ``prefix`` with this selection, None where it is none.

    An object that leaves the selection is DELETED in its last selected state, with the revision of the change.
    """
    if not change.key.startswith(prefix):
        return None
    before, after = (
        stored if stored and (selected is None or selected(stored.data)) else None
        for stored in (change.before, change.after)
    )
    if after:
        return ("MODIFIED" if before else "ADDED"), after
    if before:
        return "DELETED", Stored.of(before.key, before.data, change.revision)
    return None


@dataclass(eq=False)
class Watch:
    """One open watch: the cache offers changes, ``run`` sends them."""

    cache: WatchCache
    resource: Resource
    prefix: str
    selected: Matcher | None
    frame: Encoder
    plain: bool  # frames are JSON of whole objects, which are encoded already
    since: int = 0
    events_sent: int = 0
    ended: str = ""  # why, once it has to end
    started_from: int = 0
    complete_at: int | None = None  # the revision that a WatchList's end of initial events waits for
    _queue: deque[bytes] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, change: Change) -> None:
        if change.revision <= self.since or self.ended:
            return
        event = seen_through(change, self.prefix, self.selected)
        if event is None:
            return
        if len(self._queue) >= SLOW_WATCHER_EVENTS:
            self._queue.clear()
            self.end("slow")
            return
        self.add(*event)

    def advance(self, revision: int) -> None:
        if self.complete_at is not None and revision >= self.complete_at:
            self._wake.set()

    def terminate(self) -> None:
        self.end("cache-refilled")

    def end(self, why: str) -> None:
        self.ended = self.ended or why
        self._wake.set()

    def add(self, event_type: str, stored: Stored) -> None:
        if self.plain:
            self._queue.append(json_frame(event_type, stored.json))
        else:
            try:
                self._queue.append(self.frame(event_type, stored.data))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                self.end("not-encodable")  # a malformed object ends this watch; the cache and the others go on
        self._wake.set()

    def bookmark(self, at: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(at)}
        if annotations:
            metadata["annotations"] = annotations
        thing = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        return self.frame("BOOKMARK", thing)

    async def run(self, send: Send, options: WatchOptions, period_s: float) -> None:
        """Send until the deadline or until ``end``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + options.timeout_s
        bookmark_at = next_bookmark(loop.time(), deadline, period_s) if options.bookmarks else None
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # the head goes out at once
        while True:
            self._wake.clear()
            await self._flush(send)
            if self.ended:
                return
            now = loop.time()
            if self.complete_at is not None and self.cache.revision >= self.complete_at:
                self.complete_at = None
                await self._send(send, self.bookmark(self.cache.revision, {"k8s.io/initial-events-end": "true"}))
                continue
            if bookmark_at is not None and now >= bookmark_at:
                bookmark_at = next_bookmark(now, deadline, period_s)
                if self.cache.revision > self.started_from and self.complete_at is None:
                    await self._send(send, self.bookmark(self.cache.revision))
                    continue
            if now >= deadline:
                self.end("timeout")
                continue
            until = deadline if bookmark_at is None else min(deadline, bookmark_at)
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _flush(self, send: Send) -> None:
        while self._queue:
            frames, count = b"".join(self._queue), len(self._queue)
            self._queue.clear()
            await self._send(send, frames, count)

    async def _send(self, send: Send, frames: bytes, count: int = 1) -> None:
        await send({"type": "http.response.body", "body": frames, "more_body": True})
        self.events_sent += count


def next_bookmark(now: float, deadline: float, period_s: float) -> float | None:
    """When the next bookmark is due: a period from now or 2 s before the deadline, whichever is first."""
    before_deadline = deadline - BEFORE_DEADLINE_S
    if now < before_deadline < now + period_s:
        return before_deadline
    return now + period_s if now + period_s < deadline else None


async def serve(
    storage: Storage,
    resource: Resource,
    namespace: str,
    query: Query,
    media: Media,
    audience: Audience,
    period_s: float,
    send: Send,
) -> None:
    """Answer a watch request, from its head to its end.

    :raises statuses.ApiError: before anything was sent.
    """
    selected = selection(query, resource.fields)
    options = WatchOptions.of(query)
    complete_at: int | None = None
    if options.initial_events and options.bookmarks:
        complete_at = await storage.revision() if options.start is None else options.start
    cache, prefix = storage.cache, prefix_of(resource, namespace)
    frame = event_encoder(resource, media, query.get("includeObject") or "Metadata")
    plain = media.type != PROTOBUF and not media.form
    watch = Watch(cache, resource, prefix, selected, frame, plain, since=options.start or 0, complete_at=complete_at)
    content_type = f"{PROTOBUF};stream=watch" if media.type == PROTOBUF else media.type
    why = "cancelled"  # the client left, or the drain came to its end
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"cache-control", b"no-cache, private"), (b"content-type", content_type.encode())],
        }
    )
    log.emit(
        "watch-started",
        resource=resource.plural,
        rv=query.get("resourceVersion", ""),
        user=audience.user,
        user_agent=audience.user_agent,
    )
    try:
        try:
            _start(watch, options)
            cache.watchers.add(watch)
            await watch.run(send, options, period_s)
            why = watch.ended
        except statuses.ApiError as error:
            await send({"type": "http.response.body", "body": frame("ERROR", error.status), "more_body": True})
            why = "expired"
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        cache.watchers.discard(watch)
        log.emit(
            "watch-ended",
            resource=resource.plural,
            rv=query.get("resourceVersion", ""),
            user=audience.user,
            user_agent=audience.user_agent,
            events_sent=watch.events_sent,
            why=why,
        )


def _start(watch: Watch, options: WatchOptions) -> None:
    """Queue what there is already: every object, or the changes since the start revision.

    :raises statuses.ApiError: 410, the start revision is too old.
    """
    watch.started_from = options.start or 0
    if options.initial_events or not options.start:
        for stored in watch.cache.under(watch.prefix):
            if watch.selected is None or watch.selected(stored.data):
                watch.add("ADDED", stored)
                watch.started_from = max(watch.started_from, stored.revision)
        watch.since = watch.cache.revision
    else:
        for change in watch.cache.changes_after(options.start):
            event = seen_through(change, watch.prefix, watch.selected)
            if event:
                watch.add(*event)
                watch.started_from = change.revision
