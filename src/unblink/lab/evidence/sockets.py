"""The kernel's table of TCP sockets, with their timers: sock_diag(7), INET_DIAG.

pyroute2's DiagSocket is not used: it runs an asyncio loop of its own and so fails inside a running one. ``ss`` is not
used: it prints timers in two units. TCP_USER_TIMEOUT is not shown: the kernel does not tell it of another's sockets.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, NamedTuple, TypedDict

import msgspec

from unblink.lab.log import monotonic_s

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
_TIMEOUT_S = 2
_RECEIVE_BYTES = 256 << 10

_STATES = {
    1: "established",
    2: "syn-sent",
    3: "syn-recv",
    4: "fin-wait-1",
    5: "fin-wait-2",
    6: "time-wait",
    7: "close",
    8: "close-wait",
    9: "last-ack",
    10: "listen",
    11: "closing",
    12: "syn-recv",
}
_LISTEN, _CLOSE = 10, 7
_EVERY_CONNECTION = sum(1 << number for number in _STATES if number not in (_LISTEN, _CLOSE))
_TIMERS = {0: "off", 1: "retransmit", 2: "keepalive", 3: "timewait", 4: "persist"}

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2 with no socket named
_MESSAGE = struct.Struct("=BBBB2s2s4s12x4s12xI8xIIIII")  # inet_diag_msg of AF_INET
_ATTRIBUTE = struct.Struct("=HH")
_TCP_INFO = struct.Struct("=xxBBB3xI12xI16xIxxxxII")  # tcp_info up to tcpi_last_ack_recv


class Row(TypedDict):
    """One TCP connection. ``local`` and ``remote`` are ``address:port``.

    ``timer`` is off, retransmit, keepalive, timewait or persist, and fires in ``expires_ms``. ``retransmits`` counts
    timeouts in a row, ``probes`` unanswered keepalive or window probes, ``unacked`` segments. ``recv_q`` and ``send_q``
    are bytes; ``send_q`` holds unacknowledged and unsent ones. Of a socket in time-wait or syn-recv the kernel tells no
    more than its addresses and timer, and the rest is 0.
    """

    local: str
    remote: str
    state: str
    timer: str
    expires_ms: int
    retransmits: int
    probes: int
    backoff: int
    unacked: int
    recv_q: int
    send_q: int
    rto_ms: int
    last_data_sent_ms: int
    last_data_recv_ms: int
    last_ack_recv_ms: int


class Table(NamedTuple):
    """A socket of ``open_table``, and the addresses whose connections to keep: all where none is named."""

    diag: socket.socket
    addresses: Collection[str] = ()


def open_table() -> socket.socket:
    """Open the socket table of the calling thread's network namespace, readable from anywhere. Needs no privilege.

    :raises OSError: the kernel has no sock_diag.
    """
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        diag.settimeout(
            _TIMEOUT_S
        )  # the answer is there at once; this only keeps a kernel's fault from hanging the lab
        diag.bind((0, 0))
    except BaseException:
        diag.close()
        raise
    return diag


def sample(diag: socket.socket, addresses: Collection[str] = ()) -> list[Row]:
    """Read all IPv4 TCP connections, listening sockets excepted, or those from or to one of the addresses.

    The kernel gives a large table in parts, between which it may change: a connection can then be missing or doubled.

    :raises OSError: the kernel refused, or gave no answer within 2 s.
    """
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _EVERY_CONNECTION)
    length = _HEADER.size + len(request)
    diag.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + request)
    return [
        row
        for row in map(parse, _answers(diag))
        if not addresses or not {_host(row["local"]), _host(row["remote"])}.isdisjoint(addresses)
    ]


def record(stream: BinaryIO, tables: Mapping[str, Table]) -> None:
    """Write a line ``{"t", "host", "sockets": [Row]}`` for each host, ``t`` in CLOCK_MONOTONIC seconds, and flush."""
    for host, table in tables.items():
        rows = sample(table.diag, table.addresses)
        stream.write(msgspec.json.encode({"t": round(monotonic_s(), 6), "host": host, "sockets": rows}) + b"\n")
    stream.flush()


async def watch(stream: BinaryIO, tables: Mapping[str, Table], period_s: float) -> None:
    """Call ``record`` now and then once each period, until cancelled."""
    while True:
        record(stream, tables)
        await asyncio.sleep(period_s)


def parse(message: bytes) -> Row:
    """Read an inet_diag_msg and its tcp_info (linux/inet_diag.h, linux/tcp.h), without the netlink header."""
    fields = _MESSAGE.unpack_from(message)
    _, state, timer, retransmits, sport, dport, src, dst, _, expires_ms, recv_q, send_q, _, _ = fields
    row = Row(
        local=f"{socket.inet_ntoa(src)}:{int.from_bytes(sport, 'big')}",
        remote=f"{socket.inet_ntoa(dst)}:{int.from_bytes(dport, 'big')}",
        state=_STATES.get(state, str(state)),
        timer=_TIMERS.get(timer, str(timer)),
        expires_ms=expires_ms,
        retransmits=retransmits if timer == 1 else 0,
        probes=retransmits if timer in (2, 4) else 0,
        backoff=0,
        unacked=0,
        recv_q=recv_q,
        send_q=send_q,
        rto_ms=0,
        last_data_sent_ms=0,
        last_data_recv_ms=0,
        last_ack_recv_ms=0,
    )
    for kind, value in _attributes(message, _MESSAGE.size):
        if kind == _INET_DIAG_INFO and len(value) >= _TCP_INFO.size:
            info = _TCP_INFO.unpack_from(value)
            row["retransmits"], row["probes"], row["backoff"], rto_us, row["unacked"] = info[:5]
            row["rto_ms"] = rto_us // 1000
            row["last_data_sent_ms"], row["last_data_recv_ms"], row["last_ack_recv_ms"] = info[5:]
    return row


def _answers(diag: socket.socket) -> Iterator[bytes]:
    while True:
        part = diag.recv(_RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(part):
            length, kind, _, _, _ = _HEADER.unpack_from(part, at)
            body = part[at + _HEADER.size : at + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -int(struct.unpack_from("=i", body)[0]) or errno.EPROTO
                raise OSError(number, f"reading the socket table: {os.strerror(number)}")
            yield body
            at += (length + 3) & ~3


def _attributes(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, message[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]
