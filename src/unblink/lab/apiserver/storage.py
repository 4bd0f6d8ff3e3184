"""Objects in the store, as Kubernetes sees them: compare-and-swap, Status errors, and the watch cache kept filled."""

import asyncio
from typing import Any

from unblink.lab import log
from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.cache import Stored, WatchCache, encode
from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.storeclient import StoreClient, StoreCompacted, StoreConflict, StoreFuture, StoreTimeout

FRESH_WITHIN_S = 3.0  # how long a read waits for the cache to reach a revision (blockTimeout of k8s.io/apiserver)


class Changed(Exception):
    """The object is no longer what it was when it was read; ``now`` is None where it is gone."""

    def __init__(self, now: Stored | None) -> None:
        super().__init__("changed")
        self.now = now


class Storage:
    """Reads and writes of one apiserver. Every method that asks the store raises ``statuses.ApiError`` 500
    ``etcdserver: request timed out`` when it does not answer.
    """

    def __init__(self, store: StoreClient) -> None:
        self.cache = WatchCache()
        self.filled = asyncio.Event()
        self._store = store

    async def run(self) -> None:
        """Keep the cache filled, for ever."""
        await self._store.run(self._follow, self.cache.take)

    async def _follow(self) -> None:
        if not self.filled.is_set():
            await self._fill()
        try:
            # A store that is behind the cache was restarted and counts from the start again.
            lost = await self._store.watch(self.cache.revision + 1) < self.cache.revision
        except StoreCompacted:
            lost = True
        if lost:
            await self._fill()
            await self._store.watch(self.cache.revision + 1)
        self.filled.set()
        log.emit("store-followed", rv=self.cache.revision)

    async def _fill(self) -> None:
        reply = await self._store.range("/registry/")
        self.cache.fill(reply.items, reply.revision)

    async def revision(self) -> int:
        """The store's own revision now."""
        try:
            return await self._store.revision()
        except StoreTimeout as error:
            raise statuses.store_timeout() from error

    async def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        """The newest state, from the store. :raises statuses.ApiError: 404 as well."""
        try:
            pair = await self._store.get(resource.key(namespace, name))
        except StoreTimeout as error:
            raise statuses.store_timeout() from error
        if pair is None:
            raise statuses.not_found(resource.group, resource.plural, name)
        return Stored.of_pair(pair)

    async def at(self, prefix: str, start: str, revision: int) -> list[Stored]:
        """Everything with ``prefix`` from key ``start`` on as it was at ``revision``.

        :raises statuses.ApiError: 410 where it is no longer kept, 504 where it is in the future.
        """
        try:
            reply = await self._store.range(prefix, start=start, revision=revision)
        except StoreTimeout as error:
            raise statuses.store_timeout() from error
        except StoreCompacted as error:
            raise statuses.expired_continue() from error
        except StoreFuture as error:
            raise statuses.resource_version_too_large(revision, error.current) from error
        return [Stored.of_pair(pair) for pair in reply.items]

    async def consistent(self) -> None:
        """Wait until the cache holds all that was written before this call."""
        await self.not_older_than(await self.revision())

    async def not_older_than(self, revision: int) -> None:
        """:raises statuses.ApiError: 504, the cache does not get there in time."""
        if not await self.cache.reached(revision, FRESH_WITHIN_S):
            raise statuses.resource_version_too_large(revision, self.cache.revision)

    async def create(self, resource: Resource, data: dict[str, Any]) -> Stored:
        """:raises statuses.ApiError: 409, there is one already."""
        metadata = data["metadata"]
        key = resource.key(metadata.get("namespace", ""), metadata["name"])
        try:
            return await self._put(key, data, 0)
        except Changed as error:
            raise statuses.already_exists(resource.group, resource.plural, metadata["name"]) from error

    async def replace(self, held: Stored, data: dict[str, Any]) -> Stored:
        """:raises Changed: ``held`` is not the newest state."""
        return await self._put(held.key, data, held.revision)

    async def remove(self, held: Stored) -> Stored:
        """The last state with the revision of the deletion. :raises Changed: ``held`` is not the newest state."""
        try:
            revision = await self._store.delete(held.key, expected=held.revision)
        except StoreTimeout as error:
            raise statuses.store_timeout() from error
        except StoreConflict as error:
            raise Changed(Stored.of_pair(error.held) if error.held else None) from error
        return Stored.of(held.key, held.data, revision)

    async def _put(self, key: str, data: dict[str, Any], expected: int) -> Stored:
        metadata = {name: value for name, value in data["metadata"].items() if name != "resourceVersion"}
        value = encode({**data, "metadata": metadata})
        try:
            revision = await self._store.put(key, value, expected=expected)
        except StoreTimeout as error:
            raise statuses.store_timeout() from error
        except StoreConflict as error:
            raise Changed(Stored.of_pair(error.held) if error.held else None) from error
        return Stored.read(key, value, revision)
