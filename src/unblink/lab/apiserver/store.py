"""The store process: what etcd is to a real control plane, in memory (``python -m unblink.lab.apiserver.store``).

Kept from etcd: one revision counter, compare-and-swap, reads at a kept revision, ordered events, compaction. Not
kept: persistence, leases, quorum. A store that is restarted starts anew at revision 1.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unblink.lab import log
from unblink.lab.apiserver import storeproto as proto
from unblink.lab.apiserver.config import ConfigError, StoreConfig, load

SLOW_WATCHER_BYTES = 64 << 20  # a watcher further behind than this is cut off; it reconnects and catches up


class Compacted(Exception):
    """The revision is no longer kept."""


@dataclass(frozen=True, slots=True)
class _Write:
    event: proto.Event
    before: proto.KeyValue | None


class Keys:
    """The keys at every kept revision, without I/O."""

    def __init__(self, history: int) -> None:
        self.revision = 1
        self.compacted = 0  # revisions below this are gone
        self._history = history
        self._writes: deque[_Write] = deque()
        self._now: dict[str, proto.KeyValue] = {}

    def get(self, key: str) -> proto.KeyValue | None:
        return self._now.get(key)

    def put(self, key: str, value: bytes) -> proto.Event:
        before = self._now.get(key)
        self.revision += 1
        created = before.create_revision if before else self.revision
        self._now[key] = proto.KeyValue(key, value, created, self.revision)
        return self._remember(proto.Event(self.revision, key, value, created), before)

    def delete(self, key: str) -> proto.Event:
        """:raises KeyError: there is no such key."""
        before = self._now.pop(key)
        self.revision += 1
        return self._remember(proto.Event(self.revision, key, None, before.create_revision), before)

    def range(self, prefix: str, start: str, limit: int, revision: int) -> tuple[list[proto.KeyValue], int]:
        """Items in key order, and how many more the limit left out.

        :raises Compacted: ``revision`` is no longer kept.
        """
        keys = self._now if revision in (0, self.revision) else self._at(revision)
        found = sorted(key for key in keys if key.startswith(prefix) and key >= start)
        taken = found[:limit] if limit else found
        return [keys[key] for key in taken], len(found) - len(taken)

    def events_from(self, revision: int) -> list[proto.Event]:
        """:raises Compacted: some event from ``revision`` on is no longer kept."""
        if revision <= self.compacted:
            raise Compacted
        return [write.event for write in self._writes if write.event.revision >= revision]

    def _remember(self, event: proto.Event, before: proto.KeyValue | None) -> proto.Event:
        self._writes.append(_Write(event, before))
        if len(self._writes) > self._history:
            self.compacted = self._writes.popleft().event.revision
        return event

    def _at(self, revision: int) -> dict[str, proto.KeyValue]:
        if revision < self.compacted:
            raise Compacted
        keys = dict(self._now)
        for write in reversed(self._writes):
            if write.event.revision <= revision:
                break
            if write.before is None:
                del keys[write.event.key]
            else:
                keys[write.event.key] = write.before
        return keys


class Store:
    """Answers the connections of the apiservers over one ``Keys``."""

    def __init__(self, history: int) -> None:
        self.keys = Keys(history)
        self._watchers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its peer leaves. Asyncio's TCP transports have TCP_NODELAY set."""
        decoder = msgspec.msgpack.Decoder(proto.Request)
        self._connections.add(writer)
        try:
            while True:
                request = await proto.read_frame(reader, decoder)
                self._answer(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except proto.FrameError as error:
            log.emit("peer-refused", error=str(error))
        finally:
            self._watchers.discard(writer)
            self._connections.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def close(self) -> None:
        for writer in tuple(self._connections):
            writer.close()

    def _answer(self, request: proto.Request, writer: asyncio.StreamWriter) -> None:
        match request:
            case proto.Range():
                writer.write(proto.frame(self._range(request)))
            case proto.Watch():
                self._watch(request, writer)
            case _:
                writer.write(proto.frame(self._write(request)))

    def _range(self, request: proto.Range) -> proto.Reply:
        now = self.keys.revision
        if request.revision > now:
            return proto.Reply(request.id, now, "future")
        try:
            items, remaining = self.keys.range(request.prefix, request.start, request.limit, request.revision)
        except Compacted:
            return proto.Reply(request.id, self.keys.compacted, "compacted")
        return proto.Reply(request.id, request.revision or now, items=items, remaining=remaining)

    def _write(self, request: proto.Put | proto.Delete) -> proto.Reply:
        """The event goes out before the reply: an apiserver that has the reply has read its own write."""
        held = self.keys.get(request.key)
        if request.expected != (held.mod_revision if held else 0) or (
            held is None and isinstance(request, proto.Delete)
        ):
            return proto.Reply(request.id, self.keys.revision, "conflict", [held] if held else [])
        if isinstance(request, proto.Put):
            event = self.keys.put(request.key, request.value)
        else:
            event = self.keys.delete(request.key)
        frame = proto.frame(event)
        for watcher in tuple(self._watchers):
            if watcher.transport.get_write_buffer_size() > SLOW_WATCHER_BYTES:
                self._watchers.discard(watcher)
                watcher.transport.abort()
            else:
                watcher.write(frame)
        return proto.Reply(request.id, event.revision)

    def _watch(self, request: proto.Watch, writer: asyncio.StreamWriter) -> None:
        try:
            events = self.keys.events_from(request.revision)
        except Compacted:
            writer.write(proto.frame(proto.Reply(request.id, self.keys.compacted, "compacted")))
            return
        writer.write(proto.frame(proto.Reply(request.id, self.keys.revision)))
        writer.writelines(map(proto.frame, events))
        self._watchers.add(writer)


async def run(config: StoreConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises OSError: the address cannot be bound.
    """
    store = Store(config.history)
    server = await asyncio.start_server(store.serve, config.address, config.port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.emit("ready", address=config.address, port=server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()
    store.close()
    await server.wait_closed()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="unblink.lab.apiserver.store", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    try:
        asyncio.run(run(load(parser.parse_args(arguments).config, StoreConfig)))
    except (ConfigError, OSError) as error:
        log.emit("fatal", error=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
