"""Packet capture on interfaces of the lab, and counting what crossed them.

A packet socket (packet(7)) belongs to the namespace in which it was opened; from then on it can be read from
anywhere, so one process captures on all hosts of a cell.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from unblink.lab.evidence import pcapng

_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS_NEW = 26, 33, 64
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_OUTGOING = 263, 6, 4
_RECEIVE_BUFFER_BYTES = 4 << 20
_LARGEST_FRAME_BYTES = 256 << 10
_OVERHEAD_BYTES = 600
_FRAMES_PER_WAKE = 256
_MOST_ADDRESSES = 100

_TIMESPEC = struct.Struct("=qq")
_IP_ADDRESSES = struct.Struct("!4s4s")
_TCP_START = struct.Struct("!HHIIBB")

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class Packet(NamedTuple):
    """What is remembered of a TCP segment. ``t`` is CLOCK_MONOTONIC seconds; ``flags`` as in the header (FIN is 1)."""

    t: float
    interface: str
    outgoing: bool
    src: str
    sport: int
    dst: str
    dport: int
    flags: int
    seq: int
    payload_bytes: int


def seen(
    packets: Iterable[Packet],
    interface: str,
    *,
    src: str | None = None,
    dst: str | None = None,
    since: float | None = None,
    until: float | None = None,
    outgoing: bool | None = None,
) -> int:
    """Count the packets at an interface, of an address pair, in a span of time (both ends included), in a direction."""
    return sum(
        packet.interface == interface
        and (src is None or packet.src == src)
        and (dst is None or packet.dst == dst)
        and (since is None or packet.t >= since)
        and (until is None or packet.t <= until)
        and (outgoing is None or packet.outgoing == outgoing)
        for packet in packets
    )


def open_interface(name: str, addresses: Sequence[str] = ()) -> socket.socket:
    """Open a packet socket on an interface of the calling thread's network namespace, for TCP over IPv4 only.

    With ``addresses`` (at most 100) only packets to or from one of them: many cells can share one loopback interface.

    :raises PermissionError: without CAP_NET_RAW in the user namespace that owns this network namespace.
    :raises OSError: there is no such interface.
    :raises ValueError: too many addresses.
    """
    program = _tcp_filter(addresses)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        _attach_filter(raw, program)
        raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
        try:
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        except PermissionError:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        raw.bind((name, _ETH_P_ALL))
    except BaseException:
        raw.close()
        raise
    return raw


class Capture:
    """Packets of several interfaces, kept in memory until they are written: the TLS keys come last and stand first.

    At ``limit_bytes`` it stops by itself, sets ``stopped_at`` (CLOCK_MONOTONIC seconds) and says so in the file.
    Made and used on one running asyncio loop; it owns the sockets that it is given.
    """

    def __init__(self, limit_bytes: int = 64 << 20) -> None:
        self.packets: list[Packet] = []
        self.stopped_at: float | None = None
        self._limit_bytes = limit_bytes
        self._kept_bytes = 0
        self._frames: list[pcapng.Frame] = []
        self._interfaces: list[str] = []
        self._loopback: list[bool] = []
        self._sockets: dict[int, socket.socket] = {}
        self._received: dict[int, int] = {}
        self._dropped: dict[int, int] = {}
        self._buffer = bytearray(_LARGEST_FRAME_BYTES)
        self._loop = asyncio.get_running_loop()

    def add(self, interface: str, raw: socket.socket) -> None:
        """Capture from a socket of ``open_interface``; ``interface`` is the name in records and files, unique here."""
        if interface in self._interfaces:
            raise ValueError(f"the capture already has an interface {interface!r}")
        index = len(self._interfaces)
        self._interfaces.append(interface)
        self._loopback.append(raw.getsockname()[0] == "lo")
        self._sockets[index] = raw
        self._received[index] = self._dropped[index] = 0
        self._loop.add_reader(raw, self._drain, index)

    @property
    def open_interfaces(self) -> frozenset[str]:
        """The interfaces still captured; one that went down or away is not."""
        return frozenset(self._interfaces[index] for index in self._sockets)

    def close(self) -> None:
        """Take what is still queued and close the sockets; packets and files stay available. May be called twice."""
        for index, raw in list(self._sockets.items()):
            while self._drain(index) == _FRAMES_PER_WAKE and index in self._sockets:
                pass
            if index in self._sockets:
                self._close(index, raw)

    def write(self, path: Path, keylog: bytes = b"", interfaces: Iterable[str] | None = None) -> None:
        """Write a pcapng file of all interfaces, or of those named, in order of time.

        :raises OSError: the file cannot be written.
        :raises ValueError: an interface is not of this capture.
        """
        for index in self._sockets:
            self._count(index)
        indexes = [self._interfaces.index(name) for name in (self._interfaces if interfaces is None else interfaces)]
        renumbered = {old: new for new, old in enumerate(indexes)}
        frames = [
            frame._replace(interface=renumbered[frame.interface])
            for frame in self._frames
            if frame.interface in renumbered
        ]
        frames.sort(key=lambda frame: frame.time_ns)
        with path.open("wb") as stream:
            pcapng.write(
                stream,
                [
                    pcapng.Interface(self._interfaces[index], self._received[index], self._dropped[index])
                    for index in indexes
                ],
                frames,
                keylog=keylog,
                comment=self._comment(),
            )

    def _comment(self) -> str:
        if self.stopped_at is None:
            return ""
        return f"incomplete: the capture stopped at its limit of {self._limit_bytes} bytes"

    def _drain(self, index: int) -> int:
        raw = self._sockets[index]
        offset_ns = _realtime_ahead_ns()
        taken = 0
        while taken < _FRAMES_PER_WAKE:
            try:
                length, ancillary, _, address = raw.recvmsg_into([self._buffer], 64, socket.MSG_TRUNC)
            except BlockingIOError:
                break
            except OSError:  # ENETDOWN: the interface went down or away, and nothing more will come
                self._close(index, raw)
                break
            taken += 1
            outgoing = address[2] == _PACKET_OUTGOING
            if outgoing and self._loopback[index]:
                continue  # the loopback interface shows each packet twice
            self._keep(index, offset_ns, outgoing, length, ancillary)
            if self._kept_bytes > self._limit_bytes:
                self.stopped_at = self.packets[-1].t
                for open_index, open_raw in list(self._sockets.items()):
                    self._close(open_index, open_raw)
                break
        return taken

    def _keep(
        self, index: int, offset_ns: int, outgoing: bool, length: int, ancillary: list[tuple[int, int, bytes]]
    ) -> None:
        data = bytes(memoryview(self._buffer)[:length])
        seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
        time_ns = seconds * 1_000_000_000 + nanoseconds
        packet = parse((time_ns - offset_ns) / 1e9, self._interfaces[index], outgoing, data)
        if packet is None:
            return
        self.packets.append(packet)
        self._frames.append(pcapng.Frame(time_ns, index, outgoing, length, data))
        self._kept_bytes += len(data) + _OVERHEAD_BYTES

    def _close(self, index: int, raw: socket.socket) -> None:
        self._loop.remove_reader(raw)
        self._count(index)
        del self._sockets[index]
        raw.close()

    def _count(self, index: int) -> None:
        with contextlib.suppress(OSError):
            counters = self._sockets[index].getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            received, dropped = struct.unpack("=II", counters)  # reading resets them
            self._received[index] += received
            self._dropped[index] += dropped


def parse(t: float, interface: str, outgoing: bool, frame: bytes) -> Packet | None:
    """Read the Ethernet, IPv4 and TCP headers of a frame; None for all else, and for fragments after the first.

    The payload's length is that of the IP header, or of the frame where a segmentation offload left the IP length 0.
    """
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP or frame[14] >> 4 != 4:
        return None
    if (int.from_bytes(frame[20:22], "big") & 0x1FFF) != 0:
        return None
    tcp = 14 + (frame[14] & 15) * 4
    if tcp < 34 or len(frame) < tcp + 20:
        return None
    src, dst = _IP_ADDRESSES.unpack_from(frame, 26)
    sport, dport, seq, _, offset, flags = _TCP_START.unpack_from(frame, tcp)
    end = 14 + int.from_bytes(frame[16:18], "big") if frame[16:18] != b"\0\0" else len(frame)
    payload_bytes = max(0, end - tcp - (offset >> 4) * 4)
    return Packet(
        t, interface, outgoing, socket.inet_ntoa(src), sport, socket.inet_ntoa(dst), dport, flags, seq, payload_bytes
    )


def _realtime_ahead_ns() -> int:
    """How far CLOCK_REALTIME, the kernel's stamp, is ahead of CLOCK_MONOTONIC; the narrowest of three readings."""
    readings = []
    for _ in range(3):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        real = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        readings.append((after - before, real - (before + after) // 2))
    return min(readings)[1]


def _tcp_filter(addresses: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Classic BPF over an Ethernet frame: IPv4, TCP, and where addresses are given source or destination among them."""
    if len(addresses) > _MOST_ADDRESSES:
        raise ValueError(f"a capture filter takes at most {_MOST_ADDRESSES} addresses")
    load_byte, load_half, load_word, equal, give = 0x30, 0x28, 0x20, 0x15, 0x06
    refuse = 4 + (2 * (len(addresses) + 1) if addresses else 0)  # its index; the one after it accepts
    program = [
        (load_half, 0, 0, 12),
        (equal, 0, refuse - 2, 0x0800),
        (load_byte, 0, 0, 23),
        (equal, 0 if addresses else 1, refuse - 4, socket.IPPROTO_TCP),
    ]
    for offset in (26, 30) if addresses else ():
        program.append((load_word, 0, 0, offset))
        for address in addresses:
            matched = refuse - len(program)
            program.append((equal, matched, 0, int.from_bytes(socket.inet_aton(address), "big")))
    return [*program, (give, 0, 0, 0), (give, 0, 0, _LARGEST_FRAME_BYTES)]


def _attach_filter(raw: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
