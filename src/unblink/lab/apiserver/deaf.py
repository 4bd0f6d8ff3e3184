"""A drop of all packets towards this process where no network namespace can be had: options on its own sockets.

Two ways, both before TCP sees a segment, so that the peer gets no answer and no error: a drop-all classic BPF filter
(socket(7), SO_ATTACH_FILTER), and, where the kernel lets only root have that (EPERM), the TTL security check (ip(7),
IP_MINTTL; RFC 5082) with the highest minimum, which Linux peers with their TTL of 64 never reach. Connections that are
accepted later inherit either from the listener.

Both stop only what comes in: ``Server.mute`` stops what goes out, or the peer would still hear.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from unblink.lab.log import emit

SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
IP_MINTTL = 21
IPV6_MINHOPCOUNT = 73
HIGHEST_TTL = 255
TCP_INFO_UNACKED_OFFSET = 24  # struct tcp_info: 8 bytes of u8, then rto, ato, snd_mss, rcv_mss, unacked
ACK_WAIT_MS = 100  # more than a delayed acknowledgement (40 ms)
_RET_0 = struct.pack("HBBI", 0x06, 0, 0, 0)


def sockets_on(port: int) -> Iterator[socket.socket]:
    """This process's TCP sockets on local ``port``: listener, accepted ones, and those still in their TLS handshake."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                internet = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
                if internet and found.getsockname()[1] == port:
                    yield found


def attach(port: int) -> tuple[str, int]:
    """Drop whatever comes for the TCP sockets of this process on ``port``; by which way, and on how many sockets.

    :raises OSError: the kernel allows neither way.
    """
    try:
        return "socket-filter", _on_each(port, _attach_filter)
    except PermissionError:
        return "minimum-ttl", _on_each(port, _demand_highest_ttl)


def detach(port: int) -> int:
    """Hear again; how many sockets."""
    return _on_each(port, _undo)


def unacked(port: int) -> int:
    """Segments sent on ``port`` that the peers have not acknowledged (tcp(7), TCP_INFO)."""
    total = 0
    for each in sockets_on(port):
        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
            info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            total += int(struct.unpack_from("I", info, TCP_INFO_UNACKED_OFFSET)[0])
    return total


async def go_deaf(port: int, mute: Callable[[bool], None]) -> bool:
    """Mute, then attach; emit ``deaf`` {by, sockets}, or ``deaf-failed`` {error} and stay as before.

    Between the two the peers may acknowledge what was sent: later the kernel would repeat it to them.
    """
    mute(True)
    for _ in range(ACK_WAIT_MS):
        if not unacked(port):
            break
        await asyncio.sleep(0.001)
    try:
        by, count = attach(port)
    except OSError as error:
        detach(port)
        mute(False)
        emit("deaf-failed", error=os.strerror(error.errno or 0))
        return False
    emit("deaf", by=by, sockets=count)
    return True


def hear(port: int, mute: Callable[[bool], None]) -> None:
    """Undo ``go_deaf``; emit ``hearing``."""
    count = detach(port)
    mute(False)
    emit("hearing", sockets=count)


def _on_each(port: int, change: Callable[[socket.socket], None]) -> int:
    count = 0
    for each in sockets_on(port):
        change(each)
        count += 1
    return count


def _attach_filter(each: socket.socket) -> None:
    instructions = ctypes.create_string_buffer(_RET_0, len(_RET_0))
    each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(instructions)))


def _demand_highest_ttl(each: socket.socket) -> None:
    _set_lowest_ttl(each, HIGHEST_TTL)


def _undo(each: socket.socket) -> None:
    with contextlib.suppress(FileNotFoundError):  # ENOENT: it has no filter
        each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    _set_lowest_ttl(each, 0)


def _set_lowest_ttl(each: socket.socket, ttl: int) -> None:
    if each.family == socket.AF_INET6:
        each.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl)
    else:
        each.setsockopt(socket.IPPROTO_IP, IP_MINTTL, ttl)
