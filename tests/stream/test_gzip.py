import gzip
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream.driver import Driver, frame

from unblink.stream.endings import EndedBy
from unblink.stream.gzip import STEP_BYTES, Gunzip, GzipError, inflate
from unblink.stream.messages import AskWatch, Chunk, Close, Command, Delivered, Ended, WatchAnswer
from unblink.stream.policy import CLIENT_GO


def plain(gunzip: Gunzip, chunks: Iterable[bytes]) -> bytes:
    return b"".join(step for chunk in chunks for step in gunzip.feed(chunk))


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
def test_every_split_gives_the_same_bytes_and_members_follow_each_other(parts: list[bytes], size: int) -> None:
    packed = b"".join(gzip.compress(part) for part in parts)
    gunzip = Gunzip()
    assert plain(gunzip, (packed[at : at + size] for at in range(0, len(packed), size))) == b"".join(parts)
    gunzip.finish()
    assert inflate(packed, 10_000) == b"".join(parts)


def test_what_was_flushed_comes_out_before_the_end() -> None:
    """As a proxy does that compresses a watch."""
    squeeze, gunzip = zlib.compressobj(wbits=31), Gunzip()
    for event in (b"one\n", b"two\n"):
        assert plain(gunzip, [squeeze.compress(event) + squeeze.flush(zlib.Z_SYNC_FLUSH)]) == event


@pytest.mark.parametrize("megabytes", [1, 3, 40])
def test_a_bomb_comes_in_steps_and_is_refused_at_the_limit(megabytes: int) -> None:
    bomb = gzip.compress(bytes(megabytes * STEP_BYTES))
    steps = list(map(len, Gunzip().feed(bomb)))
    assert sum(steps) == megabytes * STEP_BYTES
    assert max(steps) <= STEP_BYTES
    assert len(inflate(bomb, megabytes * STEP_BYTES)) == megabytes * STEP_BYTES
    with pytest.raises(GzipError, match=f"stands for more than {megabytes * STEP_BYTES - 1} bytes"):
        inflate(bomb, megabytes * STEP_BYTES - 1)


def test_a_bomb_is_unpacked_no_further_than_it_is_taken() -> None:
    bomb = gzip.compress(bytes(50 * STEP_BYTES))
    tracemalloc.start()
    try:
        for number, _ in enumerate(Gunzip().feed(bomb)):
            if number == 5:
                break
        assert tracemalloc.get_traced_memory()[1] < 4 * STEP_BYTES
    finally:
        tracemalloc.stop()


@given(st.binary(min_size=1, max_size=200), st.integers(0, 10_000), st.integers(1, 255))
def test_a_wrong_byte_is_an_error_or_the_same_bytes(content: bytes, which: int, change: int) -> None:
    packed = bytearray(gzip.compress(content))
    packed[which % len(packed)] ^= change
    try:
        assert inflate(bytes(packed), 10_000) == content, "only the header has bytes that do not matter"
    except GzipError as error:
        assert str(error).startswith("gzip at byte ")


@given(st.binary(min_size=1, max_size=200), st.integers(1, 10_000))
def test_an_end_inside_the_data_is_an_error(content: bytes, cut: int) -> None:
    packed = gzip.compress(content)
    with pytest.raises(GzipError, match="the stream ended inside the gzip data"):
        inflate(packed[: max(1, cut % len(packed))], 10_000)


def test_an_error_says_where() -> None:
    with pytest.raises(GzipError, match=r"gzip at byte 0: .*incorrect header check"):
        inflate(b"plain text", 100)


def watching() -> tuple[Driver, int]:
    driver = Driver(CLIENT_GO)
    driver.start()
    number = driver.last(AskWatch)
    driver.give(WatchAnswer(number, 200, gzip=True))
    driver.chunk(gzip.compress(frame("BOOKMARK", 10, annotations={"k8s.io/initial-events-end": "true"})))
    return driver, number


def test_a_session_reads_a_compressed_watch() -> None:
    driver, number = watching()
    packed = gzip.compress(frame("ADDED", 11) + frame("ADDED", 12))
    commands: list[Command] = []
    for at in range(len(packed)):
        commands += driver.give(Chunk(number, packed[at : at + 1]))
    delivered = [one for command in commands if isinstance(command, Delivered) for one in command.frames]
    assert [one.metadata.resource_version for one in delivered] == ["11", "12"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(bytes(200 * STEP_BYTES)), "longer than 10000 bytes"),
        (b"not gzip", "incorrect header check"),
    ],
)
def test_a_session_gives_a_bomb_or_nonsense_up(data: bytes, says: str) -> None:
    driver, number = watching()
    close, ended = driver.give(Chunk(number, data))
    assert close == Close(number)
    assert isinstance(ended, Ended)
    assert ended.ending.by is EndedBy.ERROR_EVENT
    assert says in ended.ending.detail
