"""JSON watch frames: newline-delimited JSON (what kube-apiserver writes), however the bytes are split.

A frame is ``{"type": ..., "object": ...}``. Only type and metadata are decoded. A frame that cannot be
understood is an error with its place in the stream, and a frame without end is one once it is too long.
"""

from enum import StrEnum
from typing import assert_never

import msgspec

from unblink.stream.objects import INITIAL_EVENTS_END, Metadata, Status

DEFAULT_MAX_FRAME_BYTES = 16 * 1024 * 1024
"""More than any object: etcd refuses requests over 1.5 MiB by default, kube-apiserver those over 3 MiB."""


class FrameType(StrEnum):
    """The event types of ``meta/v1 WatchEvent``."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class Frame(msgspec.Struct, frozen=True):
    """One event. ``raw`` is the whole frame without its newline, ``position`` the stream's byte that it begins at.

    ``status`` is there for ERROR alone; ``ends_initial_events`` is true for the bookmark that ends a WatchList's list.
    """

    type: FrameType
    metadata: Metadata
    raw: bytes
    position: int
    status: Status | None = None
    ends_initial_events: bool = False

    def object_json(self) -> msgspec.Raw:
        """The object's JSON as it came."""
        return _decode_envelope(self.raw).object


class FrameError(ValueError):
    """A frame that cannot be understood. ``position`` is the stream's byte at which the frame begins."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"watch frame at byte {position}: {reason}")
        self.position = position
        self.reason = reason


class _Object(msgspec.Struct):
    metadata: Metadata = Metadata()


class _Event(msgspec.Struct):
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


class FrameDecoder:
    """Bytes in, frames out. After an error the stream is lost: every later call raises the same error."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._begin = 0
        self._searched = 0
        self._position = 0
        self._error: FrameError | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes held of a frame that is not complete."""
        return len(self._buffer) - self._begin

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream; then ask for frames until there is none."""
        if self._begin:
            del self._buffer[: self._begin]
            self._searched -= self._begin
            self._begin = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next complete frame, None if more bytes are needed.

        :raises FrameError: if it cannot be understood or is longer than ``max_frame_bytes``.
        """
        if self._error is not None:
            raise self._error
        try:
            while True:
                end = self._buffer.find(b"\n", self._searched)
                length = (len(self._buffer) if end < 0 else end) - self._begin
                if length > self._max_frame_bytes:
                    raise FrameError(self._position, f"longer than {self._max_frame_bytes} bytes")
                if end < 0:
                    self._searched = len(self._buffer)
                    return None
                line, position = bytes(self._buffer[self._begin : end]), self._position
                self._position += length + 1
                self._begin = self._searched = end + 1
                if line and not line.isspace():
                    return _decode(line, position)
        except FrameError as error:
            self._error = error
            raise

    def finish(self) -> None:
        """The stream ended cleanly.

        :raises FrameError: if it ended inside a frame.
        """
        rest = self.pending_bytes
        if rest and not self._buffer[self._begin :].isspace():
            raise FrameError(self._position, f"the stream ended inside this frame, after {rest} bytes of it")


def _decode(line: bytes, position: int) -> Frame:
    try:
        event = _decode_event(line)
        metadata = event.object.metadata
        match event.type:
            case FrameType.ADDED | FrameType.MODIFIED | FrameType.DELETED:
                # A Table's frame has no name of its own; its RV stands in the Table's metadata.
                if not metadata.resource_version:
                    raise FrameError(position, f"{event.type} without metadata.resourceVersion")
                return Frame(event.type, metadata, line, position)
            case FrameType.BOOKMARK:
                if not metadata.resource_version:
                    raise FrameError(position, "BOOKMARK without metadata.resourceVersion")
                annotations = _decode_bookmark(line).object.metadata.annotations or {}
                ends = annotations.get(INITIAL_EVENTS_END) == "true"
                return Frame(event.type, metadata, line, position, ends_initial_events=ends)
            case FrameType.ERROR:
                return Frame(event.type, metadata, line, position, status=_decode_error(line).object)
            case _:
                assert_never(event.type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(position, str(error)) from None
