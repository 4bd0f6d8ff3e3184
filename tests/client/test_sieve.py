from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.client.sieve import Data, FrameSieve, Goaway


def frame(kind: int, payload: bytes, stream_id: int = 0, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


@dataclass(frozen=True)
class Sent:
    """A DATA frame; ``padding`` is None where it is not PADDED."""

    stream_id: int
    data: bytes
    padding: int | None
    ends: bool


Item = bytes | Goaway | Sent
others = st.builds(frame, st.sampled_from([1, 3, 4, 6, 8]), st.binary(max_size=40), st.integers(0, 9))
goaways = st.builds(Goaway, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
data_frames = st.builds(
    Sent, st.sampled_from([1, 3, 5]), st.binary(max_size=60), st.none() | st.integers(0, 30), st.booleans()
)


def wire(item: Item) -> bytes:
    match item:
        case bytes():
            return item
        case Goaway():
            return frame(7, item.last_stream_id.to_bytes(4) + item.error_code.to_bytes(4) + b"why")
        case Sent(padding=None):
            return frame(0, item.data, item.stream_id, int(item.ends))
        case Sent():
            padding = item.padding or 0
            return frame(0, bytes([padding]) + item.data + bytes(padding), item.stream_id, 8 | int(item.ends))


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in pairwise(places))


Row = tuple[str, object]


def rows(found: list[Data | Goaway | bytes]) -> list[Row]:
    """What matters of it: runs of other frames in one piece, and in a row of DATA what each stream got."""
    result: list[Row] = []
    for item in found:
        if isinstance(item, Goaway):
            result.append(("goaway", item))
        elif isinstance(item, bytes):
            before = result.pop()[1] if result and result[-1][0] == "passed" else b""
            assert isinstance(before, bytes)
            result.append(("passed", before + item))
        else:
            if not result or result[-1][0] != "data":
                result.append(("data", {}))
            streams = result[-1][1]
            assert isinstance(streams, dict)
            data, flow, padding, ends = streams.get(item.stream_id, (b"", 0, 0, 0))
            joined = data + b"".join(item.pieces)
            streams[item.stream_id] = (
                joined,
                flow + item.flow_bytes,
                padding + item.padding_bytes,
                ends + item.ended,
            )
    return result


def expected(item: Item) -> Data | Goaway | bytes:
    if not isinstance(item, Sent):
        return item
    padding = 0 if item.padding is None else item.padding + 1
    return Data(item.stream_id, [item.data], len(item.data) + padding, padding, item.ends)


@given(st.lists(others | goaways | data_frames, max_size=12), st.lists(st.integers(0, 800), max_size=20))
def test_any_split_gives_the_same_in_the_same_order(items: list[Item], cuts: list[int]) -> None:
    sieve = FrameSieve()
    found = [item for piece in pieces(b"".join(map(wire, items)), cuts) for item in sieve.feed(piece)]
    assert not sieve.error
    assert rows(found) == rows([expected(item) for item in items])


def test_data_is_handed_on_before_its_frame_is_complete() -> None:
    sieve = FrameSieve()
    whole = frame(0, b"0123456789", 1, flags=1)
    assert sieve.feed(whole[:12]) == [Data(1, [b"012"], 10)]
    assert sieve.feed(whole[12:18]) == [Data(1, [b"345678"])]
    assert sieve.feed(whole[18:]) == [Data(1, [b"9"], ended=True)]


def test_a_row_of_data_names_each_stream_once() -> None:
    row = frame(0, b"a", 1) + frame(0, b"b", 3) + frame(0, b"c", 1)
    assert FrameSieve().feed(row) == [Data(1, [b"a", b"c"], 2), Data(3, [b"b"], 1)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ((16385).to_bytes(3) + b"\0\0\0\0\0\1", "a frame of 16385 bytes, where 16384 are allowed"),
        (frame(0, b"\x05abcd", 1, flags=8), "more padding than payload"),
        (frame(0, b"", 1, flags=8), "more padding than payload"),
        (frame(0, b"a", 0), "DATA on stream 0"),
    ],
)
def test_what_a_server_must_not_send_is_an_error_and_the_end(bad: bytes, error: str) -> None:
    sieve = FrameSieve()
    assert sieve.feed(frame(0, b"data", 1) + bad) == [Data(1, [b"data"], 4)]
    assert error in sieve.error
    assert sieve.feed(frame(0, b"data", 1)) == []


def test_a_goaway_too_short_to_be_one_is_left_to_h2() -> None:
    assert FrameSieve().feed(frame(7, b"1234567")) == [frame(7, b"1234567")]
