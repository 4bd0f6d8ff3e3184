"""An apiserver's connection to the store: requests with a time limit, one event stream, reconnection.

A cut network is silent, so nothing here waits for the peer alone: a request that is not answered in time fails with
``StoreTimeout`` and drops the connection, an idle connection is asked for the revision every second, and a connection
attempt is given up after the same limit. After a reconnection the event stream goes on after the last event seen.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import msgspec

from unblink.lab import log
from unblink.lab.apiserver import storeproto as proto
from unblink.lab.apiserver.storeproto import Event, KeyValue, Reply

RECONNECT_PAUSE_S = 0.25
PROBE_PERIOD_S = 1.0
LIMIT_BYTES = proto.MAX_FRAME_BYTES + 4


class StoreTimeout(Exception):
    """The store did not answer in time, or there is no connection to it. A write may have happened."""


class StoreConflict(Exception):
    """The key is not at the expected revision; ``held`` is what it is now."""

    def __init__(self, held: KeyValue | None) -> None:
        super().__init__("conflict")
        self.held = held


class StoreCompacted(Exception):
    """The revision is no longer kept; ``oldest`` is."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"compacted below {oldest}")
        self.oldest = oldest


class StoreFuture(Exception):
    """The revision has not been written yet; ``current`` is the store's."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the store is at {current}")
        self.current = current


class StoreClient:
    """One connection, kept up by ``run``. All methods belong to one event loop."""

    def __init__(self, address: str, port: int, *, timeout_ms: int) -> None:
        self._address = address
        self._port = port
        self._timeout_s = timeout_ms / 1000
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._writer: asyncio.StreamWriter | None = None

    @property
    def connected(self) -> bool:
        """Whether the last exchange with the store worked."""
        return self._writer is not None

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Reply:
        """``Reply`` with items, revision and remaining.

        :raises StoreTimeout: no answer. :raises StoreCompacted: too old. :raises StoreFuture: not yet.
        """
        return await self._ask(lambda number: proto.Range(number, prefix, start, limit, revision))

    async def get(self, key: str) -> KeyValue | None:
        """:raises StoreTimeout: no answer."""
        reply = await self.range(key, limit=1)
        return reply.items[0] if reply.items and reply.items[0].key == key else None

    async def revision(self) -> int:
        """:raises StoreTimeout: no answer."""
        return (await self.range("\0", limit=1)).revision

    async def put(self, key: str, value: bytes, *, expected: int) -> int:
        """The write's revision. :raises StoreTimeout: no answer. :raises StoreConflict: not at ``expected``."""
        return (await self._ask(lambda number: proto.Put(number, key, value, expected))).revision

    async def delete(self, key: str, *, expected: int) -> int:
        """The deletion's revision. :raises StoreTimeout: no answer. :raises StoreConflict: not at ``expected``."""
        return (await self._ask(lambda number: proto.Delete(number, key, expected))).revision

    async def run(self, connected: Callable[[], Awaitable[None]], on_event: Callable[[Event], None]) -> None:
        """Keep a connection, for ever. ``connected`` is awaited on each one and starts the event stream with
        ``watch`` (its StoreTimeout means: connect again); ``on_event`` gets the events in order.
        """
        while True:
            with contextlib.suppress(OSError, TimeoutError, proto.FrameError, asyncio.IncompleteReadError):
                await self._one_connection(connected, on_event)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def watch(self, revision: int) -> int:
        """Ask for the events from ``revision`` on; the store's own revision.

        :raises StoreTimeout: no answer. :raises StoreCompacted: too old.
        """
        return (await self._ask(lambda number: proto.Watch(number, revision))).revision

    async def _one_connection(
        self, connected: Callable[[], Awaitable[None]], on_event: Callable[[Event], None]
    ) -> None:
        async with asyncio.timeout(self._timeout_s):
            reader, writer = await asyncio.open_connection(self._address, self._port, limit=LIMIT_BYTES)
        self._writer = writer
        beside = asyncio.create_task(self._start_and_probe(connected))
        try:
            decoder = msgspec.msgpack.Decoder(Reply | Event)
            while True:
                message = await proto.read_frame(reader, decoder)
                if isinstance(message, Event):
                    on_event(message)
                elif (future := self._waiting.get(message.id)) and not future.done():
                    future.set_result(message)
        finally:
            beside.cancel()
            self._drop(writer)
            log.emit("store-lost")
            with contextlib.suppress(asyncio.CancelledError, StoreTimeout):
                await beside

    async def _start_and_probe(self, connected: Callable[[], Awaitable[None]]) -> None:
        await connected()
        while True:
            await asyncio.sleep(PROBE_PERIOD_S)
            await self.revision()

    async def _ask(self, request: Callable[[int], proto.Request]) -> Reply:
        writer = self._writer
        if writer is None:
            await asyncio.sleep(0)
            raise StoreTimeout("no connection to the store")
        number = next(self._ids)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            writer.write(proto.frame(request(number)))
            async with asyncio.timeout(self._timeout_s):
                reply = await future
        except TimeoutError:
            self._drop(writer)
            raise StoreTimeout("no answer from the store") from None
        finally:
            del self._waiting[number]
        match reply.error:
            case "conflict":
                raise StoreConflict(reply.items[0] if reply.items else None)
            case "compacted":
                raise StoreCompacted(reply.revision)
            case "future":
                raise StoreFuture(reply.revision)
        return reply

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        """Give the connection up without waiting for a peer that may be unreachable."""
        if self._writer is writer:
            self._writer = None
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(StoreTimeout("the connection to the store was lost"))
        writer.transport.abort()
