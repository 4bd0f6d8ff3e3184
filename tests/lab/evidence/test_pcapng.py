import io
import struct
from typing import Any

import pcapng
import pcapng.blocks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.evidence.pcapng import Frame, Interface, write

# python-pcapng warns of its own tables
pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")

frames = st.lists(
    st.builds(
        Frame,
        time_ns=st.integers(0, 2**63 - 1),
        interface=st.integers(0, 1),
        outgoing=st.booleans(),
        length=st.integers(2000, 70000),
        data=st.binary(min_size=1, max_size=1000),
    ),
    max_size=8,
)
KEYLOG = b"CLIENT_RANDOM 00 11\n"


def blocks(written: bytes) -> list[Any]:
    return list(pcapng.FileScanner(io.BytesIO(written)))


@given(frames, st.binary(max_size=200))
def test_an_independent_reader_reads_back_what_was_written(given: list[Frame], keylog: bytes) -> None:
    stream = io.BytesIO()
    write(stream, [Interface("client-leg"), Interface("server-leg")], given, keylog=keylog)
    packets = [block for block in blocks(stream.getvalue()) if isinstance(block, pcapng.blocks.EnhancedPacket)]
    assert [
        Frame(
            (packet.timestamp_high << 32) + packet.timestamp_low,
            packet.interface_id,
            packet.options["epb_flags"].inout == "outbound",
            packet.packet_len,
            packet.packet_data,
        )
        for packet in packets
    ] == given


def test_times_are_nanoseconds() -> None:
    stream = io.BytesIO()
    write(stream, [Interface("eth0")], [Frame(1_700_000_000_123_456_789, 0, False, 3, b"abc")])
    (packet,) = (block for block in blocks(stream.getvalue()) if isinstance(block, pcapng.blocks.EnhancedPacket))
    assert packet.timestamp_resolution == 1e-9
    assert abs(packet.timestamp - 1_700_000_000.123456789) < 1e-6


def test_interfaces_have_names_and_the_kernels_counters() -> None:
    stream = io.BytesIO()
    write(stream, [Interface("eth0", 7, 2), Interface("eth1")], [])
    found = blocks(stream.getvalue())
    described = [block for block in found if isinstance(block, pcapng.blocks.InterfaceDescription)]
    assert [(block.options["if_name"], block.link_type) for block in described] == [("eth0", 1), ("eth1", 1)]
    statistics = [block for block in found if isinstance(block, pcapng.blocks.InterfaceStatistics)]
    assert [(block.interface_id, block.options["isb_ifrecv"], block.options["isb_ifdrop"]) for block in statistics] == [
        (0, 7, 2),
        (1, 0, 0),
    ]


def test_the_tls_keys_stand_before_the_packets() -> None:
    stream = io.BytesIO()
    write(stream, [Interface("eth0")], [Frame(1, 0, False, 3, b"abc")], keylog=KEYLOG)
    found = blocks(stream.getvalue())
    kinds = [type(block).__name__ for block in found]
    assert kinds == ["SectionHeader", "UnknownBlock", "InterfaceDescription", "EnhancedPacket", "InterfaceStatistics"]
    secrets = found[1]
    assert secrets.block_type == 0x0000000A
    kind, length = struct.unpack("<II", secrets.data[:8])
    assert struct.pack(">I", kind) == b"TLSK"
    assert secrets.data[8 : 8 + length] == KEYLOG


def test_no_keys_no_secrets_block() -> None:
    stream = io.BytesIO()
    write(stream, [Interface("eth0")], [])
    assert "UnknownBlock" not in [type(block).__name__ for block in blocks(stream.getvalue())]


def test_the_comment_is_the_sections() -> None:
    stream = io.BytesIO()
    write(stream, [], [], comment="incomplete: stopped")
    (section,) = blocks(stream.getvalue())
    assert section.options["opt_comment"] == "incomplete: stopped"
