"""A drop of all packets towards this process where no network namespace can be had: a socket filter on its sockets.

A drop-all classic BPF filter discards segments before TCP sees them (socket(7), SO_ATTACH_FILTER), so the peer gets no
answer and no error. Connections accepted later inherit the listener's filter. The filter stops what comes in only:
the caller mutes what goes out (``Server.mute``) before it attaches, or the peer would still hear.
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


def attach(port: int) -> int:
    """Drop whatever comes for the TCP sockets of this process on local ``port``; how many sockets those are.

    :raises OSError: the kernel refuses (EPERM); no socket keeps a filter then.
    """
    instructions = ctypes.create_string_buffer(_RET_0, len(_RET_0))
    program = struct.pack("HP", 1, ctypes.addressof(instructions))
    count = 0
    try:
        for each in sockets_on(port):
            each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            count += 1
    except OSError:
        detach(port)
        raise
    return count


def detach(port: int) -> int:
    """Hear again; how many sockets had a filter."""
    count = 0
    for each in sockets_on(port):
        with contextlib.suppress(FileNotFoundError):  # ENOENT: it had none
            each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            count += 1
    return count


def unacked(port: int) -> int:
    """Segments that this process's connections on ``port`` have sent and the peers have not acknowledged"""
    total = 0
    for each in sockets_on(port):
        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
            info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            total += int(struct.unpack_from("I", info, TCP_INFO_UNACKED_OFFSET)[0])
    return total


async def go_deaf(port: int, mute: Callable[[bool], None]) -> bool:
    """Mute, then attach; emit ``deaf`` with the number of sockets, or ``deaf-failed`` and stay as before.

    Between the two the peers may acknowledge what was sent: later the kernel would repeat it to them.
    """
    mute(True)
    for _ in range(ACK_WAIT_MS):
        if not unacked(port):
            break
        await asyncio.sleep(0.001)
    try:
        count = attach(port)
    except OSError as error:
        mute(False)
        emit("deaf-failed", error=os.strerror(error.errno or 0))
        return False
    emit("deaf", sockets=count)
    return True


def hear(port: int, mute: Callable[[bool], None]) -> None:
    """Undo ``go_deaf``; emit ``hearing``."""
    count = detach(port)
    mute(False)
    emit("hearing", sockets=count)
