"""httpx clients with connections of their own: a copy of the user's client that shares its settings, not its pool.

httpx has no public way to ask for a fresh connection. Where its insides are not as expected, the user's own pool
serves, and a dead connection of it costs one deadline.
"""

import copy
from typing import Any


def own(client: Any) -> tuple[Any, list[Any]]:
    """A copy of an httpx ``Client`` or ``AsyncClient``, and the transports that are its own, to be closed with it."""
    clone = copy.copy(client)
    made: list[Any] = []
    if hasattr(client, "_transport"):
        clone._transport = _own_transport(client._transport, made)
    if hasattr(client, "_mounts"):
        clone._mounts = {
            pattern: transport and _own_transport(transport, made) for pattern, transport in client._mounts.items()
        }
    return clone, made


def _own_transport(transport: Any, made: list[Any]) -> Any:
    pool = getattr(transport, "_pool", None)
    if pool is None or not all(hasattr(pool, name) for name in ("_connections", "_requests", "_optional_thread_lock")):
        return transport
    own_pool = copy.copy(pool)
    own_pool._connections, own_pool._requests = [], []
    own_pool._optional_thread_lock = type(pool._optional_thread_lock)()
    clone = copy.copy(transport)
    clone._pool = own_pool
    made.append(clone)
    return clone
