import asyncio
import concurrent.futures
import io
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pcapng
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcapng import blocks
from pyroute2 import IPRoute
from tests.inside import inside

from unblink.lab.evidence.capture import ACK, FIN, SYN, Capture, Packet, open_interface, parse, seen
from unblink.lab.hosts import sandbox

pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")

GATEWAY, APISERVER = "198.18.0.1", "198.18.0.2"


def packet(t: float = 0, interface: str = "before", src: str = GATEWAY, dst: str = APISERVER, **fields: bool) -> Packet:
    return Packet(t, interface, fields.get("outgoing", False), src, 40000, dst, 6443, ACK, 1, 0)


PACKETS = [
    packet(1),
    packet(2),
    packet(2, "behind", outgoing=True),
    packet(3),
    packet(3, src=APISERVER, dst=GATEWAY, outgoing=True),
]


@pytest.mark.parametrize(
    ("count", "interface", "conditions"),
    [
        (4, "before", {}),
        (1, "behind", {}),
        (0, "elsewhere", {}),
        (3, "before", {"src": GATEWAY}),
        (1, "before", {"dst": GATEWAY}),
        (2, "before", {"src": GATEWAY, "since": 2}),
        (2, "before", {"src": GATEWAY, "until": 2}),
        (0, "behind", {"since": 2.5}),
        (1, "before", {"outgoing": True}),
        (3, "before", {"outgoing": False}),
    ],
)
def test_packets_are_counted_by_place_addresses_time_and_direction(
    count: int, interface: str, conditions: dict[str, Any]
) -> None:
    assert seen(PACKETS, interface, **conditions) == count


def frame(payload: bytes = b"", *, options: int = 0, ip_length: int | None = None, fragment: int = 0) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 40000, 6443, 99, 0, (5 + options) << 4, ACK, 0, 0, 0) + bytes(options * 4) + payload
    length = 20 + len(tcp) if ip_length is None else ip_length
    addresses = socket.inet_aton(GATEWAY) + socket.inet_aton(APISERVER)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, fragment, 64, 6, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp


def test_the_headers_are_read() -> None:
    assert parse(1.5, "eth0", True, frame(b"x" * 100, options=3)) == Packet(
        1.5, "eth0", True, GATEWAY, 40000, APISERVER, 6443, ACK, 99, 100
    )


def test_ethernet_padding_is_no_payload() -> None:
    read = parse(0, "eth0", False, frame() + bytes(6))
    assert read is not None
    assert read.payload_bytes == 0


def test_an_offloaded_frame_without_an_ip_length_counts_by_its_size() -> None:
    read = parse(0, "eth0", False, frame(bytes(70_000), ip_length=0))
    assert read is not None
    assert read.payload_bytes == 70_000


@pytest.mark.parametrize(
    "other",
    [
        b"",
        frame()[:53],
        frame(fragment=8),
        frame().replace(b"\x08\x00", b"\x86\xdd"),
        frame()[:23] + b"\x11" + frame()[24:],
    ],
)
def test_all_else_is_passed_over(other: bytes) -> None:
    assert parse(0, "eth0", False, other) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_parsed(data: bytes) -> None:
    parse(0, "eth0", False, data)
    parse(0, "eth0", False, frame()[:24] + data)


@inside
async def test_an_unknown_interface_is_an_error() -> None:
    await asyncio.to_thread(up, "lo")
    with pytest.raises(OSError, match="No such device"):
        open_interface("no-such-if0").close()


def test_too_many_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="100"):
        open_interface("lo", ["127.0.0.1"] * 101).close()


def up(interface: str, address: str | None = None) -> None:
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=interface)
        if address:
            ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up")


async def talk(address: str, payload: bytes, thread: concurrent.futures.Executor | None = None) -> None:
    """One connection to a server, which a thread may serve: in the namespace of that thread."""
    loop = asyncio.get_running_loop()

    def serve() -> socket.socket:
        return socket.create_server((address, 0))

    def receive() -> None:
        with server, server.accept()[0] as accepted:
            while accepted.recv(1 << 16):
                pass

    server = await loop.run_in_executor(thread, serve)
    served = loop.run_in_executor(thread, receive)
    endpoint = server.getsockname()

    def send() -> None:
        with socket.create_connection(endpoint) as client:
            client.sendall(payload)

    await asyncio.gather(loop.run_in_executor(None, send), served)


async def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


def stream_bytes(packets: Iterable[Packet]) -> int:
    """Bytes that the streams carried, each counted once however often TCP sent it again."""
    flows: dict[tuple[str, str, int], list[Packet]] = {}
    for packet in packets:
        flows.setdefault((packet.interface, packet.src, packet.sport), []).append(packet)
    carried = 0
    for sent in flows.values():
        spans = sorted(((packet.seq - sent[0].seq) % 2**32, packet.payload_bytes) for packet in sent)
        reached = 0
        for start, length in spans:
            carried += max(0, start + length - max(start, reached))
            reached = max(reached, start + length)
    return carried


def who_sent_fin(packets: Iterable[Packet]) -> set[tuple[str, str, int]]:
    return {(packet.interface, packet.src, packet.sport) for packet in packets if packet.flags & FIN}


def packets_of(path: Path) -> list[blocks.EnhancedPacket]:
    found = pcapng.FileScanner(io.BytesIO(path.read_bytes()))
    return [block for block in found if isinstance(block, blocks.EnhancedPacket)]


@inside
async def test_each_packet_of_the_loopback_interface_once_with_its_time(tmp_path: Path) -> None:
    await asyncio.to_thread(up, "lo")
    capture = Capture()
    capture.add("loopback", open_interface("lo"))
    before = time.monotonic()
    await talk("127.0.0.2", b"x" * 300_000)
    after = time.monotonic()
    await until(lambda: len(who_sent_fin(capture.packets)) == 2)
    capture.close()
    capture.close()
    assert [packet.flags for packet in capture.packets[:2]] == [SYN, SYN | ACK]
    assert stream_bytes(capture.packets) == 300_000
    assert max(packet.payload_bytes for packet in capture.packets) > 20_000
    assert before - 0.01 <= capture.packets[0].t <= capture.packets[-1].t <= after + 0.1
    path = tmp_path / "loopback.pcapng"
    capture.write(path, b"CLIENT_RANDOM 00 11\n")
    assert [len(found.packet_data) for found in packets_of(path)] == [found.packet_len for found in packets_of(path)]
    assert len(packets_of(path)) == len(capture.packets)
    assert abs(packets_of(path)[0].timestamp - time.time()) < 10


@inside
async def test_only_the_addresses_asked_for(tmp_path: Path) -> None:
    await asyncio.to_thread(up, "lo")
    capture = Capture()
    capture.add("one", open_interface("lo", ["127.0.0.9", "127.0.0.2"]))
    capture.add("all", open_interface("lo"))
    await talk("127.0.0.2", b"here")
    await talk("127.0.0.3", b"not here")
    await until(lambda: seen(capture.packets, "all", dst="127.0.0.3") >= 4)
    capture.close()
    assert seen(capture.packets, "one", dst="127.0.0.2") == seen(capture.packets, "all", dst="127.0.0.2") > 0
    assert seen(capture.packets, "one", src="127.0.0.2") == seen(capture.packets, "all", src="127.0.0.2") > 0
    assert seen(capture.packets, "one", dst="127.0.0.3") == seen(capture.packets, "one", src="127.0.0.3") == 0
    capture.write(tmp_path / "one.pcapng", interfaces=["one"])
    assert len(packets_of(tmp_path / "one.pcapng")) == seen(capture.packets, "one")
    with pytest.raises(ValueError, match="other"):
        capture.write(tmp_path / "one.pcapng", interfaces=["other"])
    with pytest.raises(ValueError, match="one"):
        capture.add("one", open_interface("lo"))


@inside
async def test_a_capture_stops_at_its_limit_and_says_so(tmp_path: Path) -> None:
    await asyncio.to_thread(up, "lo")
    capture = Capture(limit_bytes=100_000)
    capture.add("lo", open_interface("lo"))
    await talk("127.0.0.1", bytes(1_000_000))
    await until(lambda: capture.stopped_at is not None)
    kept = len(capture.packets)
    await talk("127.0.0.1", b"more")
    await asyncio.sleep(0)
    capture.close()
    assert capture.stopped_at == capture.packets[-1].t
    assert len(capture.packets) == kept
    capture.write(tmp_path / "full.pcapng")
    assert (tmp_path / "full.pcapng").stat().st_size < 300_000
    section = next(iter(pcapng.FileScanner(io.BytesIO((tmp_path / "full.pcapng").read_bytes()))))
    assert "stopped at its limit" in section.options["opt_comment"]


@inside
async def test_a_veth_pair_between_namespaces_shows_both_directions_and_its_end(tmp_path: Path) -> None:
    await asyncio.to_thread(up, "lo")
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1) as there, concurrent.futures.ThreadPoolExecutor(1) as here:

        def move() -> int:
            sandbox.unshare(sandbox.CLONE_NEWNET)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

        namespace = await loop.run_in_executor(there, move)

        def connect() -> None:
            with IPRoute() as ip:
                ip.link("add", ifname="a0", kind="veth", peer={"ifname": "b0"})
                ip.link("set", index=ip.link_lookup(ifname="b0")[0], net_ns_fd=namespace)
            up("a0", GATEWAY)

        await loop.run_in_executor(here, connect)
        await loop.run_in_executor(there, up, "b0", APISERVER)
        capture = Capture()
        capture.add("gateway", open_interface("a0"))
        capture.add("apiserver", await loop.run_in_executor(there, open_interface, "b0"))
        with pytest.raises(OSError):
            open_interface("b0").close()
        await talk(APISERVER, bytes(200_000), there)
        # both have sent their FIN, and the first to do so its last ACK
        await until(lambda: len(who_sent_fin(capture.packets)) == 4)
        await until(
            lambda: (
                seen(capture.packets, "gateway", src=GATEWAY, outgoing=True)
                == seen(capture.packets, "apiserver", src=GATEWAY, outgoing=False)
                > 3
            )
        )
        assert stream_bytes(packet for packet in capture.packets if packet.interface == "apiserver") == 200_000
        assert seen(capture.packets, "gateway", src=GATEWAY, outgoing=False) == 0
        assert seen(capture.packets, "gateway", src=APISERVER, outgoing=False) > 0

        def remove() -> None:
            with IPRoute() as ip:
                ip.link("del", index=ip.link_lookup(ifname="a0")[0])

        await loop.run_in_executor(here, remove)
        await until(lambda: not capture.open_interfaces)
        capture.write(tmp_path / "both.pcapng")
        flags = [found.options["epb_flags"].inout for found in packets_of(tmp_path / "both.pcapng")]
        assert set(flags) == {"inbound", "outbound"}
