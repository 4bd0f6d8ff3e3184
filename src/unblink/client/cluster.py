"""One cluster as a process uses it: its address and credentials, and the connections that all watchers there share."""

import asyncio
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from unblink.chain import Http2Ping, TcpKeepalive
from unblink.client.kubeconfig import Access, find
from unblink.client.pool import Pool
from unblink.client.transport import Limits
from unblink.stream.bookmarks import Bookmarks

LIMITS = Limits(
    connect_ms=3_000,
    tls_ms=3_000,
    ping=Http2Ping(interval_ms=10_000, timeout_ms=5_000),
    tcp_keepalive=TcpKeepalive(time_s=10, interval_s=5, probes=2),
    tcp_user_timeout_ms=15_000,
)
"""Of our own leg. They end dead connections; what a watch may be blind for does not hang on them."""


@dataclass
class Cluster:
    """Shared by the watchers of one event loop; its connections are closed when the last one has left."""

    access: Access
    pool: Pool
    watchers: int = 0
    _bookmarks: dict[str, Bookmarks] = field(default_factory=dict)

    def bookmarks(self, path: str) -> Bookmarks:
        """What is known of the bookmarks of a resource, by its collection's path."""
        return self._bookmarks.setdefault(path, Bookmarks())


_Key = tuple[Path | str | None, str | None, bool]
_clusters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Cluster]] = weakref.WeakKeyDictionary()


def join(kubeconfig: Path | str | None, context: str | None, *, insecure: bool) -> Cluster:
    """The running event loop's cluster of these arguments; each ``join`` needs a ``leave``.

    :raises KubeconfigError: if there is no usable configuration.
    """
    of_loop = _clusters.setdefault(asyncio.get_running_loop(), {})
    key = (kubeconfig, context, insecure)
    cluster = of_loop.get(key)
    if cluster is None:
        access = find(kubeconfig, context, insecure=insecure)
        cluster = of_loop[key] = Cluster(access, Pool(access, LIMITS))
    cluster.watchers += 1
    return cluster


async def leave(cluster: Cluster) -> None:
    """Give a cluster back."""
    cluster.watchers -= 1
    if not cluster.watchers:
        of_loop = _clusters.get(asyncio.get_running_loop(), {})
        for key in [key for key, one in of_loop.items() if one is cluster]:
            del of_loop[key]
        await cluster.pool.close()
