"""Envoy's admin interface over its Unix socket (https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin)."""

import asyncio
import os
import socket
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path
from typing import cast

import msgspec


class AdminError(Exception):
    """Envoy's admin interface answered with another status than 200."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"Envoy's admin answered {status} to {path}")
        self.status = status


class Host(msgspec.Struct, frozen=True):
    """One endpoint of a cluster. ``address`` is ``ip:port``; ``stats`` holds its counters and gauges by name."""

    address: str
    healthy: bool
    stats: dict[str, int]


async def get(socket_path: Path, path: str) -> bytes:
    """The body of ``GET path``. The socket's path can be of any length, its name alone has unix(7)'s limit.

    Raises OSError when nothing listens there, AdminError when the status is not 200, http.client.HTTPException
    when the answer is cut off.
    """
    # sun_path has 108 bytes; the folder's descriptor stands for the rest of the path.
    folder = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{socket_path.name}")
    finally:
        os.close(folder)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return _body(path, answer)


async def ready(socket_path: Path) -> bool:
    """Whether Envoy listens and takes requests. False too when it is not there (yet)."""
    try:
        return await get(socket_path, "/ready") == b"LIVE\n"
    except (AdminError, ConnectionError, FileNotFoundError):
        return False


async def stats(socket_path: Path) -> dict[str, int]:
    """All counters and gauges by name. Raises as `get`."""
    answer = msgspec.json.decode(await get(socket_path, "/stats?format=json"), type=_Stats)
    return {stat.name: stat.value for stat in answer.stats if stat.name and isinstance(stat.value, int)}


async def clusters(socket_path: Path) -> dict[str, list[Host]]:
    """The endpoints of each cluster. Raises as `get`."""
    answer = msgspec.json.decode(await get(socket_path, "/clusters?format=json"), type=_Clusters)
    return {cluster.name: [_host(status) for status in cluster.host_statuses] for cluster in answer.cluster_statuses}


class _Stat(msgspec.Struct):
    name: str = ""
    value: int | str | None = None


class _Stats(msgspec.Struct):
    stats: list[_Stat]


class _SocketAddress(msgspec.Struct):
    address: str
    port_value: int


class _Address(msgspec.Struct):
    socket_address: _SocketAddress


class _HostStat(msgspec.Struct):
    name: str
    value: str = "0"


class _HealthStatus(msgspec.Struct):
    failed_active_health_check: bool = False


class _HostStatus(msgspec.Struct):
    address: _Address
    health_status: _HealthStatus
    stats: list[_HostStat] = []


class _Cluster(msgspec.Struct):
    name: str
    host_statuses: list[_HostStatus] = []


class _Clusters(msgspec.Struct):
    cluster_statuses: list[_Cluster] = []


def _host(status: _HostStatus) -> Host:
    where = status.address.socket_address
    return Host(
        address=f"{where.address}:{where.port_value}",
        healthy=not status.health_status.failed_active_health_check,
        stats={stat.name: int(stat.value) for stat in status.stats},
    )


class _Received:
    """Bytes already received, in the shape in which http.client takes a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


def _body(path: str, answer: bytes) -> bytes:
    response = HTTPResponse(cast(socket.socket, _Received(answer)))
    response.begin()
    if response.status != 200:
        raise AdminError(path, response.status)
    return response.read()
