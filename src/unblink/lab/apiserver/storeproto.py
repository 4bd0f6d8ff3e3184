"""What an apiserver and the store say to each other: MessagePack in frames of a 4-byte big-endian length.

The semantics are etcd's: one revision counter over all keys, compare-and-swap on a key's mod revision, reads at an
older revision while it is kept, one ordered stream of events. Replies carry the request's ``id``; events carry none.
"""

import asyncio
from typing import TypeVar

import msgspec

MAX_FRAME_BYTES = 64 << 20


class KeyValue(msgspec.Struct, array_like=True, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int


class Range(msgspec.Struct, array_like=True, frozen=True, tag="range"):
    """Keys with ``prefix``, from ``start`` on, in order; ``limit`` 0 is all, ``revision`` 0 is now."""

    id: int
    prefix: str
    start: str = ""
    limit: int = 0
    revision: int = 0


class Put(msgspec.Struct, array_like=True, frozen=True, tag="put"):
    """Write if the key's mod revision is ``expected`` (0: the key does not exist)."""

    id: int
    key: str
    value: bytes
    expected: int


class Delete(msgspec.Struct, array_like=True, frozen=True, tag="delete"):
    id: int
    key: str
    expected: int


class Watch(msgspec.Struct, array_like=True, frozen=True, tag="watch"):
    """Events of all keys from ``revision`` on, on this connection."""

    id: int
    revision: int


Request = Range | Put | Delete | Watch


class Reply(msgspec.Struct, array_like=True, frozen=True, tag="reply"):
    """``revision`` is the store's own (for Put and Delete: the write's). ``error``: "", "compacted", "future" or
    "conflict"; with "conflict" ``items`` holds what the key is now, with "compacted" ``revision`` is the oldest kept.
    ``remaining`` counts the keys behind a limit.
    """

    id: int
    revision: int
    error: str = ""
    items: list[KeyValue] = []
    remaining: int = 0


class Event(msgspec.Struct, array_like=True, frozen=True, tag="event"):
    """One write; ``value`` None is a deletion."""

    revision: int
    key: str
    value: bytes | None
    create_revision: int


class FrameError(ValueError):
    """A frame that is too long or does not decode: the peer is not ours."""


_T = TypeVar("_T")


async def read_frame(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    """The next message.

    :raises asyncio.IncompleteReadError: the peer is gone.
    :raises FrameError: not a message of ours.
    """
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes, at most {MAX_FRAME_BYTES} are taken")
    try:
        return decoder.decode(await reader.readexactly(size))
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from error


_encoder = msgspec.msgpack.Encoder()


def frame(message: Request | Reply | Event) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body
