"""As many connections to one server as the requests on them need, and no more."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from unblink.client.http2 import STREAMS_BEFORE_SETTINGS
from unblink.client.kubeconfig import Access
from unblink.client.transport import Connection, Limits, Unreachable, connect


@dataclass(slots=True)
class _Connecting:
    task: asyncio.Task[None]
    waiting: int = 0


class Pool:
    """The connections to one server.

    A connection that is under way is shared by those who wait for one, as far as its requests will probably go: what
    one connection of this server took at first is what the next is counted on for.
    """

    def __init__(self, access: Access, limits: Limits | None = None) -> None:
        self.access = access
        self._limits = limits
        self._connections: list[Connection] = []  # the newest last
        self._connecting: list[_Connecting] = []
        self._capacity = 1 if access.scheme == "http" else STREAMS_BEFORE_SETTINGS
        self._closed = False

    async def acquire(self, avoid: Collection[Connection] = ()) -> Connection:
        """A connection that takes a request now, and is not in ``avoid``: the newest that stands, else a new one.

        It is the caller's as long as nothing else is awaited before its ``request``.

        :raises Unreachable: if a new one is needed and cannot be made.
        :raises KubeconfigError: if the access has unusable certificates.
        """
        while True:
            if self._closed:
                raise Unreachable("the pool is closed")
            self._drop_useless()
            for connection in reversed(self._connections):
                if connection.spare and connection not in avoid:
                    return connection
            connecting = next((one for one in self._connecting if one.waiting < self._capacity), None)
            if connecting is None:
                connecting = _Connecting(asyncio.ensure_future(self._connect()))
                connecting.task.add_done_callback(_retrieve)
                self._connecting.append(connecting)
            connecting.waiting += 1
            try:
                # Who gives up waiting leaves it to the others.
                await asyncio.shield(connecting.task)
            except asyncio.CancelledError:
                if connecting.task.cancelled():
                    continue
                raise
            finally:
                connecting.waiting -= 1

    async def close(self) -> None:
        """Close all connections, and give up those under way: who waits for one is told."""
        self._closed = True
        tasks = [connecting.task for connecting in self._connecting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def _connect(self) -> None:
        try:
            connection = await connect(self.access, self._limits)
        finally:
            task = asyncio.current_task()
            self._connecting = [one for one in self._connecting if one.task is not task]
        self._capacity = max(1, connection.spare)
        self._connections.append(connection)

    def _drop_useless(self) -> None:
        useless = [connection for connection in self._connections if connection.idle and not connection.usable]
        for connection in useless:
            connection.close()
            self._connections.remove(connection)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Where nobody waits any more, asyncio would log the error."""
    if not task.cancelled():
        task.exception()
