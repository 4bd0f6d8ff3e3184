"""The lab's network: one namespace per host, a veth pair each, one router in the middle, by netlink alone.

    client ---+                +--- apiserver-1
    gateway --+---- router ----+--- apiserver-2 ...
    writer ---+                +--- store

Addresses come from 198.18.0.0/15 (RFC 2544: benchmarking). The loopback network gives the same hosts
addresses in 127.0.0.0/8 and no namespaces, where those are forbidden.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import AsyncIPRoute

from unblink.lab.hosts.sandbox import CLONE_NEWNET, setns, unshare

HOST_INTERFACE = "eth0"
FAULT_TABLE = 100
FAULT_RULE_PRIORITY = 10
CLAIM_PORT = 64430
"""No host of the lab listens here, and it is no ephemeral port (ip_local_port_range)."""


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the lab. ``netns`` is an open file of its network namespace, None on loopback."""

    name: str
    address: str
    netns: int | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calling thread work in this host's network; sockets opened and processes started here stay in it."""
        if self.netns is None:
            yield
            return
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self.netns, CLONE_NEWNET)
            try:
                yield
            finally:
                setns(home, CLONE_NEWNET)
        finally:
            os.close(home)


@dataclass(slots=True)
class Network:
    """The hosts of one chain. ``router`` is None on loopback, where there is no network to break."""

    hosts: dict[str, Host]
    router: Host | None = None
    routing: AsyncIPRoute | None = None
    _closed: bool = field(default=False, repr=False)

    async def prepare_drop(self, flows: Iterable[tuple[str | None, str | None]]) -> None:
        """Send the flows (source address, destination address; None is any) through the fault table, empty as yet."""
        assert self.routing is not None
        for source, destination in flows:
            match: dict[str, object] = {}
            if source is not None:
                match |= {"src": source, "src_len": 32}
            if destination is not None:
                match |= {"dst": destination, "dst_len": 32}
            await self.routing.rule("add", priority=FAULT_RULE_PRIORITY, table=FAULT_TABLE, **match)

    async def drop(self, on: bool) -> None:
        """Begin or end dropping the prepared flows: one netlink message, so that all begin and end at once."""
        assert self.routing is not None
        await self.routing.route("add" if on else "del", type="blackhole", dst="0.0.0.0/0", table=FAULT_TABLE)

    async def close(self) -> None:
        """Let go of the namespaces; the kernel removes those in which no process is left."""
        if self._closed:
            return
        self._closed = True
        if self.routing is not None:
            self.routing.close()
        for host in (*self.hosts.values(), *([self.router] if self.router else [])):
            if host.netns is not None:
                os.close(host.netns)


async def in_namespaces(names: dict[str, int]) -> Network:
    """Build the network for hosts by name and subnet number: host N is 198.18.N.10, its router 198.18.N.1.

    Raises:
        OSError: the kernel refused a namespace or a sysctl; what was made is gone with its last open file.
    """
    router = Host("router", "198.18.0.1", _new_namespace())
    hosts: dict[str, Host] = {}
    with router.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        routing = AsyncIPRoute()
        await routing.setup_endpoint()
    network = Network(hosts, router, routing)
    await routing.link("set", index=1, state="up")
    for name, number in names.items():
        hosts[name] = host = Host(name, f"198.18.{number}.10", _new_namespace())
        peer = {"ifname": HOST_INTERFACE, "net_ns_fd": host.netns}
        await routing.link("add", ifname=name, kind="veth", peer=peer)
        (index,) = await routing.link_lookup(ifname=name)
        await routing.addr("add", index=index, address=f"198.18.{number}.1", prefixlen=24)
        await routing.link("set", index=index, state="up")
        await _configure_host(host, number)
    return network


def on_loopback(names: dict[str, int], cell: int) -> Network:
    """The same hosts without namespaces: host N of cell C is 127.C.N.10."""
    return Network({name: Host(name, f"127.{cell}.{number}.10") for name, number in names.items()})


@contextmanager
def loopback_numbers(count: int) -> Iterator[Sequence[int]]:
    """Numbers of `count` cells that no other run on this machine's loopback has, held by a socket each until the end.

    Raises:
        OSError: fewer are free.
    """
    numbers: list[int] = []
    with ExitStack() as held:
        for number in range(1, 255):
            if len(numbers) == count:
                break
            holder = held.enter_context(socket.socket())
            with suppress(OSError):
                holder.bind((f"127.{number}.0.1", CLAIM_PORT))
                numbers.append(number)
        if len(numbers) < count:
            raise OSError(errno.EADDRINUSE, f"only {len(numbers)} of 254 cells on loopback are free, not {count}")
        yield numbers


async def _configure_host(host: Host, number: int) -> None:
    with host.entered():
        inside = AsyncIPRoute()
        await inside.setup_endpoint()
    try:
        await inside.link("set", index=1, state="up")
        (index,) = await inside.link_lookup(ifname=HOST_INTERFACE)
        await inside.addr("add", index=index, address=host.address, prefixlen=24)
        await inside.link("set", index=index, state="up")
        await inside.route("add", dst="0.0.0.0/0", gateway=f"198.18.{number}.1")
    finally:
        inside.close()


def _new_namespace() -> int:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        made = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        setns(home, CLONE_NEWNET)
        return made
    finally:
        os.close(home)
