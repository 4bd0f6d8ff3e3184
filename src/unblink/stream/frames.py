"""Watch frames, however the bytes are split: lines of JSON, WebSocket messages of JSON, protobuf.

A frame is ``{"type": ..., "object": ...}``, in protobuf a 4-byte big-endian length and a ``WatchEvent``
(k8s.io/apimachinery, ``util/framer``). Only type and metadata are decoded. A frame that cannot be understood is an
error with its place in the stream, and a frame without end is one once it is too long.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from unblink.stream import protobuf
from unblink.stream.objects import INITIAL_EVENTS_END, UNREADABLE, Metadata, Status

DEFAULT_MAX_FRAME_BYTES = 16 * 1024 * 1024
"""More than any object: etcd refuses requests over 1.5 MiB by default, kube-apiserver those over 3 MiB."""


class FrameType(StrEnum):
    """The event types of ``meta/v1 WatchEvent``."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class Framing(StrEnum):
    """How frames follow each other, by the stream's media type or protocol."""

    LINES = "application/json"
    MESSAGES = "websocket"
    PROTOBUF = "application/vnd.kubernetes.protobuf"


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event. ``raw`` is the whole frame without newline or length, ``position`` the stream's byte it begins at.

    ``status`` is there for ERROR alone; ``ends_initial_events`` is true for the bookmark that ends a WatchList's list.
    """

    type: FrameType
    metadata: Metadata
    raw: bytes
    position: int
    status: Status | None = None
    ends_initial_events: bool = False

    def object_json(self) -> bytes:
        """The object's JSON as it came; for frames of JSON."""
        return bytes(_decode_envelope(self.raw).object)


class FrameError(ValueError):
    """A frame that cannot be understood. ``position`` is the stream's offending byte, as near as it is known."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"watch frame at byte {position}: {reason}")
        self.position = position
        self.reason = reason


class Decoder(Protocol):
    """Bytes in, frames out. After an error the stream is lost: nothing more comes out."""

    error: FrameError | None

    @property
    def pending_bytes(self) -> int:
        """Bytes held of a frame that is not complete."""

    def feed(self, *pieces: bytes) -> list[Frame]:
        """The frames that are complete now; those before a bad one are given, and ``error`` is set."""

    def finish(self) -> None:
        """The stream ended cleanly; sets ``error`` if that was inside a frame."""


class _Object(msgspec.Struct, gc=False):
    metadata: Metadata = Metadata()


class _Event(msgspec.Struct, gc=False):
    type: FrameType
    object: _Object


class _Envelope(msgspec.Struct):
    object: msgspec.Raw


class _BookmarkMetadata(msgspec.Struct):
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMetadata


class _BookmarkEvent(msgspec.Struct):
    object: _Bookmark


class _ErrorEvent(msgspec.Struct):
    object: Status


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_bookmark = msgspec.json.Decoder(_BookmarkEvent).decode
_decode_error = msgspec.json.Decoder(_ErrorEvent).decode

_AT_BYTE = re.compile(r"\(byte (\d+)\)")
_OBJECT_TYPES = frozenset({FrameType.ADDED, FrameType.MODIFIED, FrameType.DELETED})


def decoder(framing: Framing, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> Decoder:
    """A decoder for one stream."""
    made: dict[Framing, Callable[[int], Decoder]] = {
        Framing.LINES: Lines,
        Framing.MESSAGES: Messages,
        Framing.PROTOBUF: Protobuf,
    }
    return made[framing](max_frame_bytes)


class Lines:
    """Newline-delimited JSON, what kube-apiserver writes."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.error: FrameError | None = None
        self.pending_bytes = 0
        self._max_frame_bytes = max_frame_bytes
        self._pending: list[bytes] = []
        self._position = 0  # of the first pending byte

    def feed(self, *pieces: bytes) -> list[Frame]:
        if self.error is not None:
            return []
        frames: list[Frame] = []
        try:
            for piece in pieces:
                # kube-apiserver writes each frame by itself, so a piece is mostly one whole line.
                if not self._pending and 0 <= piece.find(b"\n") == len(piece) - 1:
                    self._take(piece[:-1], frames)
                else:
                    self._cut(piece, frames)
        except FrameError as error:
            self.error = error
        return frames

    def _cut(self, data: bytes, frames: list[Frame]) -> None:
        if b"\n" not in data:
            self._hold(data)
            return
        if self._pending:
            data = b"".join((*self._pending, data))
            self._pending.clear()
            self.pending_bytes = 0
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take(line, frames)
        self._hold(rest)

    def _take(self, line: bytes, frames: list[Frame]) -> None:
        position = self._position
        if len(line) > self._max_frame_bytes:
            raise FrameError(position + self._max_frame_bytes, f"longer than {self._max_frame_bytes} bytes")
        self._position = position + len(line) + 1
        try:
            event = _decode_event(line)
        except UNREADABLE as error:
            if not line or line.isspace():
                return
            raise _placed(error, position) from None
        metadata = event.object.metadata
        if event.type in _OBJECT_TYPES and metadata.resource_version:
            frames.append(Frame(event.type, metadata, line, position))
        else:
            frames.append(_special(event.type, metadata, line, position))

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._pending.append(data)
        self.pending_bytes += len(data)
        if self.pending_bytes > self._max_frame_bytes:
            self._pending.clear()
            raise FrameError(self._position + self._max_frame_bytes, f"longer than {self._max_frame_bytes} bytes")

    def finish(self) -> None:
        if self.error is None and self._pending and not b"".join(self._pending).isspace():
            self.error = _cut_short(self._position, self.pending_bytes)


class Messages:
    """One JSON frame in each WebSocket message (k8s.io/apiserver, ``endpoints/handlers/watch.go``, HandleWS)."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.error: FrameError | None = None
        self.pending_bytes = 0
        self._lines = Lines(max_frame_bytes)

    def feed(self, *pieces: bytes) -> list[Frame]:
        frames = self._lines.feed(*(piece if piece.endswith(b"\n") else piece + b"\n" for piece in pieces))
        self.error = self._lines.error
        return frames

    def finish(self) -> None:
        """A message is whole or it does not come."""


class Protobuf:
    """Length-delimited protobuf."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.error: FrameError | None = None
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._position = 0

    @property
    def pending_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, *pieces: bytes) -> list[Frame]:
        if self.error is not None:
            return []
        for piece in pieces:
            self._buffer += piece
        buffer, at, frames = self._buffer, 0, []
        try:
            while len(buffer) - at >= _LENGTH_BYTES:
                position = self._position + at
                length = int.from_bytes(buffer[at : at + _LENGTH_BYTES])
                if length > self._max_frame_bytes:
                    raise FrameError(position, f"{length} bytes long, where {self._max_frame_bytes} are allowed")
                end = at + _LENGTH_BYTES + length
                if end > len(buffer):
                    break
                frames.append(_decode_protobuf(bytes(buffer[at + _LENGTH_BYTES : end]), position))
                at = end
        except FrameError as error:
            self.error = error
            return frames
        del buffer[:at]
        self._position += at
        return frames

    def finish(self) -> None:
        if self.error is None and self._buffer:
            self.error = _cut_short(self._position, len(self._buffer))


_LENGTH_BYTES = 4


def _cut_short(position: int, rest_bytes: int) -> FrameError:
    return FrameError(position, f"the stream ended inside this frame, after {rest_bytes} bytes of it")


def _placed(error: Exception, position: int) -> FrameError:
    found = _AT_BYTE.search(str(error))
    offset = error.start if isinstance(error, UnicodeDecodeError) else int(found[1]) if found else 0
    return FrameError(position + offset, str(error))


def _special(kind: FrameType, metadata: Metadata, line: bytes, position: int) -> Frame:
    """A BOOKMARK, an ERROR, or an object that lacks what it needs."""
    try:
        if kind is FrameType.ERROR:
            return Frame(kind, metadata, line, position, status=_decode_error(line).object)
        _check_version(kind, metadata, position)
        annotations = _decode_bookmark(line).object.metadata.annotations or {}
    except UNREADABLE as error:
        raise _placed(error, position) from None
    return Frame(kind, metadata, line, position, ends_initial_events=annotations.get(INITIAL_EVENTS_END) == "true")


def _check_version(kind: FrameType, metadata: Metadata, position: int) -> None:
    # A Table's frame has no name of its own; its RV stands in the Table's metadata.
    if not metadata.resource_version:
        raise FrameError(position, f"{kind} without metadata.resourceVersion")


def _decode_protobuf(data: bytes, position: int) -> Frame:
    try:
        name, span = protobuf.watch_event(data)
        try:
            kind = FrameType(name)
        except ValueError:
            raise FrameError(position + _LENGTH_BYTES, f"type {name[:40]!r}") from None
        if kind is FrameType.ERROR:
            return Frame(kind, Metadata(), data, position, status=protobuf.status(data, span))
        metadata, ends = protobuf.metadata(data, span)
    except protobuf.ProtobufError as error:
        raise FrameError(position + _LENGTH_BYTES + error.position, str(error)) from None
    _check_version(kind, metadata, position)
    return Frame(kind, metadata, data, position, ends_initial_events=ends and kind is FrameType.BOOKMARK)
