"""The watch cache of one apiserver: the newest state of every object and the latest changes, without I/O.

It follows k8s.io/apiserver's watchCache: filled by one list, then by the store's event stream; a watch can start at
any revision since that list as long as the changes are still held. What differs: there, a cache per resource; here one
for all, so every resource's revision keeps up with the store's, as progress notifications bring about there.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.storeproto import Event, KeyValue

CHANGES_HELD = 2_000

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An object as it was at ``revision``; ``data`` holds its resourceVersion and is not to be changed."""

    key: str
    revision: int
    data: dict[str, Any]
    json: bytes

    @classmethod
    def read(cls, key: str, value: bytes, revision: int) -> "Stored":
        """``value``: the object's JSON as it lies in the store, that is without a resourceVersion."""
        return cls.of(key, _decode(value), revision)

    @classmethod
    def of(cls, key: str, data: dict[str, Any], revision: int) -> "Stored":
        metadata = {}
        for name in _BEFORE_VERSION:
            if name in data["metadata"]:
                metadata[name] = data["metadata"][name]
        metadata["resourceVersion"] = str(revision)
        for name, value in data["metadata"].items():
            metadata.setdefault(name, value)
        data = {**data, "metadata": metadata}
        return cls(key, revision, data, encode(data))

    @classmethod
    def of_pair(cls, pair: KeyValue) -> "Stored":
        return cls.read(pair.key, pair.value, pair.mod_revision)


_BEFORE_VERSION = ("name", "generateName", "namespace", "uid")


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One write: ``before`` is None for a creation, ``after`` for a deletion."""

    revision: int
    key: str
    before: Stored | None
    after: Stored | None


class Watcher(Protocol):
    def offer(self, change: Change) -> None:
        """A change of any resource, in order."""

    def advance(self, revision: int) -> None:
        """The cache is at ``revision``."""

    def terminate(self) -> None:
        """The cache lost its place in the event stream: the watch must end."""


class WatchCache:
    def __init__(self) -> None:
        self.revision = 0  # 0: not filled yet
        self.watchers: set[Watcher] = set()
        self._objects: dict[str, Stored] = {}
        self._changes: deque[Change] = deque()
        self._oldest = 0  # a watch may start from here on
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def fill(self, pairs: Iterable[KeyValue], revision: int) -> None:
        """Start anew from a list of the store; running watches end."""
        self._objects = {pair.key: Stored.of_pair(pair) for pair in pairs}
        self._changes.clear()
        self._oldest = revision
        for watcher in tuple(self.watchers):
            watcher.terminate()
        self._advance(revision)

    def take(self, event: Event) -> None:
        """The store's next event."""
        if event.revision <= self.revision:
            return
        before = self._objects.get(event.key)
        after: Stored | None = None
        if event.value is not None:
            after = self._objects[event.key] = Stored.read(event.key, event.value, event.revision)
        elif before is not None:
            del self._objects[event.key]
        change = Change(event.revision, event.key, before, after)
        self._changes.append(change)
        if len(self._changes) > CHANGES_HELD:
            self._oldest = self._changes.popleft().revision
        for watcher in tuple(self.watchers):
            watcher.offer(change)
        self._advance(event.revision)

    def get(self, key: str) -> Stored | None:
        return self._objects.get(key)

    def under(self, prefix: str) -> list[Stored]:
        """Objects whose key starts with ``prefix``, in key order."""
        return [self._objects[key] for key in sorted(self._objects) if key.startswith(prefix)]

    def changes_after(self, revision: int) -> list[Change]:
        """:raises statuses.ApiError: ``revision`` is older than what is held (410 Expired)."""
        if revision < self._oldest:
            raise statuses.expired(revision, self._oldest)
        return [change for change in self._changes if change.revision > revision]

    async def reached(self, revision: int, within_s: float) -> bool:
        """Wait until the cache is at ``revision``; False if it is not in time."""
        if self.revision >= revision:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(within_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting = [other for other in self._waiting if other is not entry]
        return True

    def _advance(self, revision: int) -> None:
        self.revision = revision
        for watcher in tuple(self.watchers):
            watcher.advance(revision)
        for wanted, future in self._waiting:
            if wanted <= revision and not future.done():
                future.set_result(None)


def prefix_of(resource: Resource, namespace: str) -> str:
    """Key prefix of a collection; ``namespace`` empty is all of them."""
    return f"{resource.prefix}{namespace}/" if resource.namespaced and namespace else resource.prefix
