from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unblink.client.goaway import Goaway, GoawaySieve


def frame(kind: int, payload: bytes, stream_id: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, 0]) + stream_id.to_bytes(4) + payload


other_frames = st.builds(frame, st.sampled_from([0, 1, 3, 4, 6, 8]), st.binary(max_size=40), st.integers(0, 9))
goaways = st.builds(Goaway, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))


def wire(item: bytes | Goaway) -> bytes:
    if isinstance(item, bytes):
        return item
    return frame(7, item.last_stream_id.to_bytes(4) + item.error_code.to_bytes(4) + b"why")


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in pairwise(places))


@given(st.lists(other_frames | goaways, max_size=8), st.lists(st.integers(0, 500), max_size=20))
def test_goaway_goes_aside_and_every_other_byte_through_in_any_split(
    items: list[bytes | Goaway], cuts: list[int]
) -> None:
    sieve = GoawaySieve()
    passed, found = b"", []
    for piece in pieces(b"".join(map(wire, items)), cuts):
        rest, goaway = sieve.feed(piece)
        passed += rest
        found += goaway
    assert passed == b"".join(item for item in items if isinstance(item, bytes))
    assert found == [item for item in items if isinstance(item, Goaway)]


def test_a_frame_is_too_long_as_soon_as_its_header_says_so() -> None:
    sieve = GoawaySieve()
    good = frame(0, b"data")
    assert sieve.feed(good + (16385).to_bytes(3) + b"\0\0\0\0\0\1") == (good, [])
    assert sieve.overlong_bytes == 16385
    assert sieve.feed(good) == (b"", [])


def test_a_goaway_too_short_to_be_one_is_left_to_h2() -> None:
    assert GoawaySieve().feed(frame(7, b"1234567")) == (frame(7, b"1234567"), [])
