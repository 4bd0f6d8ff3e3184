"""``unblink.watch``: every event of a resource, one after another, for ``for`` and ``async for``."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from unblink.client.health import Health
from unblink.client.objects import Object
from unblink.client.view import DEFAULT_MAX_STALENESS_S, View


class EventType(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. ``object`` is the object after it, of a deletion its last known state."""

    type: EventType
    object: Object


class Watch:
    """The events of one resource; see ``watch``. Iterate over it once, with ``for`` or with ``async for``."""

    def __init__(self, view: View, events: deque[Event]) -> None:
        self._view = view
        self._events = events

    @property
    def staleness(self) -> float:
        """Seconds: every change written longer ago than this has been given. Infinite before the first proof."""
        return self._view.staleness

    def is_live(self) -> bool:
        """Whether the events are not later than ``max_staleness``."""
        return self._view.is_live()

    def health(self) -> Health:
        """How fresh the view is, and why."""
        return self._view.health()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._follow()

    async def _follow(self) -> AsyncGenerator[Event]:
        view, events = self._view, self._events
        async with view:
            while True:
                while events:
                    yield events.popleft()
                await view.changed()

    def __iter__(self) -> Iterator[Event]:
        """:raises Exception: what ended the watch."""
        handed: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()

        async def follow() -> None:
            try:
                async for event in self:
                    handed.put(event)
            except Exception as error:
                handed.put(error)

        following: asyncio.Task[None] = loop.create_task(follow())
        thread = threading.Thread(target=_run, args=(loop, following), name="unblink.watch", daemon=True)
        thread.start()
        try:
            while True:
                event = handed.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            if thread.is_alive():
                loop.call_soon_threadsafe(following.cancel)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop, following: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(asyncio.wait((following,)))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def watch(
    api_version: str,
    resource: str,
    *,
    namespace: str | None = None,
    label_selector: str | None = None,
    field_selector: str | None = None,
    max_staleness: float = DEFAULT_MAX_STALENESS_S,
    metadata_only: bool = False,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
    insecure_skip_tls_verify: bool = False,
) -> Watch:
    """Every object there is as ADDED, then every change, at most ``max_staleness`` seconds late while an apiserver can
    be reached::

        for event in unblink.watch("apps/v1", "deployments"):
            print(event.type, event.object.metadata.name)

    The same with ``async for``. Events wait in memory until they are taken; what a relist shows to be gone comes as
    DELETED. The arguments are those of ``Informer``.

    :raises ValueError: if a name, selector or the bound cannot be used.

    Iterating raises ``WatchRefused`` and ``KubeconfigError`` as ``Informer`` does.
    """
    events: deque[Event] = deque()

    def put(_key: str, old: Object | None, new: Object | None) -> None:
        again = old is not None and new is not None and old.metadata.uid != new.metadata.uid
        if old is not None and (new is None or again):
            events.append(Event(EventType.DELETED, old))
        if new is not None:
            events.append(Event(EventType.ADDED if old is None or again else EventType.MODIFIED, new))

    view = View(
        api_version,
        resource,
        put,
        namespace=namespace,
        label_selector=label_selector,
        field_selector=field_selector,
        max_staleness=max_staleness,
        metadata_only=metadata_only,
        kubeconfig=kubeconfig,
        context=context,
        insecure_skip_tls_verify=insecure_skip_tls_verify,
    )
    return Watch(view, events)
