import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver import storeproto as proto

MESSAGES = st.one_of(
    st.builds(proto.Range, st.integers(0, 2**31), st.text(), st.text(), st.integers(0, 9), st.integers(0, 9)),
    st.builds(proto.Put, st.integers(0, 2**31), st.text(), st.binary(), st.integers(0, 9)),
    st.builds(proto.Delete, st.integers(0, 2**31), st.text(), st.integers(0, 9)),
    st.builds(proto.Watch, st.integers(0, 2**31), st.integers(0, 9)),
)


async def read(data: bytes) -> proto.Request:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await proto.read_frame(reader, msgspec.msgpack.Decoder(proto.Request))


@given(MESSAGES)
def test_what_is_framed_is_read(message: proto.Request) -> None:
    assert asyncio.run(read(proto.frame(message))) == message


def test_a_peer_that_is_not_ours() -> None:
    with pytest.raises(proto.FrameError, match="at most"):
        asyncio.run(read(b"GET / HTTP/1.1\r\n"))
    with pytest.raises(proto.FrameError):
        asyncio.run(read(b"\0\0\0\1\xc1"))


def test_a_peer_that_leaves() -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        asyncio.run(read(proto.frame(proto.Watch(1, 1))[:-1]))
