"""Packet captures as pcapng files, with the TLS keys in them.

The format is draft-ietf-opsawg-pcapng: a Section Header, a Decryption Secrets Block, one Interface
Description each, Enhanced Packets, Interface Statistics. All link types are Ethernet, all times are
nanoseconds of CLOCK_REALTIME.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

_SECTION_HEADER, _INTERFACE, _STATISTICS, _PACKET, _SECRETS = 0x0A0D0D0A, 1, 5, 6, 10
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_ETHERNET = 1
_TLS_KEY_LOG = 0x544C534B
_INBOUND, _OUTBOUND = 1, 2

_COMMENT = 1
_USER_APPLICATION = 4
_INTERFACE_NAME, _TIME_RESOLUTION = 2, 9
_PACKET_FLAGS = 2
_RECEIVED, _DROPPED = 4, 5

_PACKET_HEADER = struct.Struct("<5I")


class Interface(NamedTuple):
    """Where packets were captured; ``received`` and ``dropped`` are the kernel's counters at the end of the capture."""

    name: str
    received: int = 0
    dropped: int = 0


class Frame(NamedTuple):
    """One captured frame; ``interface`` is its index in the file's interfaces, ``length`` its size on the wire."""

    time_ns: int
    interface: int
    outgoing: bool
    length: int
    data: bytes


def write(
    stream: BinaryIO,
    interfaces: Sequence[Interface],
    frames: Iterable[Frame],
    *,
    keylog: bytes = b"",
    comment: str = "",
) -> None:
    """Write one section. ``keylog`` is in the NSS key log format (SSLKEYLOGFILE); the reader decrypts with it.

    The secrets stand before every packet, as readers expect them.

    :raises OSError: as the stream's own ``write``.
    """
    options = _option(_USER_APPLICATION, b"unblink lab")
    if comment:
        options += _option(_COMMENT, comment.encode())
    stream.write(_block(_SECTION_HEADER, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + _end(options)))
    if keylog:
        stream.write(_block(_SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(keylog)) + _padded(keylog)))
    for interface in interfaces:
        named = _option(_INTERFACE_NAME, interface.name.encode()) + _option(_TIME_RESOLUTION, b"\x09")
        stream.write(_block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + _end(named)))
    last_ns = 0
    for frame in frames:
        last_ns = max(last_ns, frame.time_ns)
        stream.write(_block(_PACKET, _packet(frame)))
    for index, interface in enumerate(interfaces):
        counters = _option(_RECEIVED, struct.pack("<Q", interface.received))
        counters += _option(_DROPPED, struct.pack("<Q", interface.dropped))
        stream.write(_block(_STATISTICS, struct.pack("<3I", index, *_halves(last_ns)) + _end(counters)))


def _packet(frame: Frame) -> bytes:
    header = _PACKET_HEADER.pack(frame.interface, *_halves(frame.time_ns), len(frame.data), frame.length)
    direction = struct.pack("<I", _OUTBOUND if frame.outgoing else _INBOUND)
    return header + _padded(frame.data) + _end(_option(_PACKET_FLAGS, direction))


def _halves(time_ns: int) -> tuple[int, int]:
    return time_ns >> 32, time_ns & 0xFFFFFFFF


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _option(code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _end(options: bytes) -> bytes:
    return options + b"\0\0\0\0"


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
