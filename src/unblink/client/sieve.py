"""What h2 does not do for a client of watches: it stands before h2 in the byte stream of the server.

- DATA. kube-apiserver sends one DATA frame for each watch event; h2 takes about 30 us for each of them, this a tenth.
- GOAWAY. After a graceful one the streams that the server accepted go on until they end (RFC 9113, 6.8);
  kube-apiserver serves watches for a minute so. h2 4.4 takes GOAWAY for the end of the connection.
- A frame longer than we allow is an error as soon as its header says so; h2 waits for all of it before it complains.
"""

from dataclasses import dataclass, field
from struct import Struct

_HEADER = Struct(">BHBBI")
_FRAME_HEADER_BYTES = 9
_DATA = 0
_GOAWAY = 7
_END_STREAM = 0x1
_PADDED = 0x8
_MIN_GOAWAY_BYTES = 8
_STREAM_ID = 0x7FFFFFFF
MAX_FRAME_BYTES = 16384
"""The default SETTINGS_MAX_FRAME_SIZE, which we leave as it is."""


@dataclass(slots=True)
class Data:
    """What came on one stream in successive DATA frames.

    ``flow_bytes`` is what those frames whose header came take from the windows, of which ``padding_bytes`` are no data
    (RFC 9113, 6.9.1). ``pieces`` may be behind by what is still to come of a frame, and is then continued.
    """

    stream_id: int
    pieces: list[bytes] = field(default_factory=list)
    flow_bytes: int = 0
    padding_bytes: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Goaway:
    """What the server said: streams above ``last_stream_id`` were not processed."""

    last_stream_id: int
    error_code: int


class FrameSieve:
    """Bytes of the server in; out, in order, DATA and GOAWAY taken apart, and all other frames as they are."""

    def __init__(self) -> None:
        self._held = b""
        self._passing_bytes = 0  # the rest of a frame for h2
        self._stream_id = 0  # of the unfinished DATA frame, whose rest is the next three
        self._data_bytes = 0
        self._padding_bytes = 0
        self._ends_stream = False
        self.error = ""
        """What the server must not send; nothing is given from there on."""

    def feed(self, data: bytes) -> list[Data | Goaway | bytes]:
        """Holds back less than one frame header, or one unfinished GOAWAY. In a row of DATA frames each stream is
        given once."""
        items: list[Data | Goaway | bytes] = []
        if self.error:
            return items
        if self._held:
            data = self._held + data
            self._held = b""
        row: dict[int, Data] = {}
        size = len(data)
        start = 0  # of what passes
        at = min(self._passing_bytes, size)
        self._passing_bytes -= at
        if self._stream_id:
            at = start = self._continue(data, items, row)
        while size - at >= _FRAME_HEADER_BYTES:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, at)
            length = high << 16 | low
            payload = at + _FRAME_HEADER_BYTES
            end = payload + length
            if length > MAX_FRAME_BYTES:
                self.error = f"a frame of {length} bytes, where {MAX_FRAME_BYTES} are allowed"
                break
            if kind == _DATA:
                stream_id &= _STREAM_ID
                padding = 0
                if not stream_id:
                    self.error = "DATA on stream 0"
                    break
                if flags & _PADDED:
                    if length and payload == size:
                        break
                    padding = data[payload] + 1 if length else 1
                    payload += 1
                    if padding > length:
                        self.error = "a DATA frame with more padding than payload"
                        break
                if start < at:
                    items.append(data[start:at])
                    row.clear()
                item = row.get(stream_id)
                if item is None:
                    item = row[stream_id] = Data(stream_id)
                    items.append(item)
                item.flow_bytes += length
                item.padding_bytes += padding
                if end <= size:
                    if length > padding:
                        item.pieces.append(data[payload : payload + length - padding])
                    at = start = end
                    if flags & _END_STREAM:
                        item.ended = True
                        del row[stream_id]
                    continue
                self._stream_id = stream_id
                self._data_bytes = length - padding
                self._padding_bytes = padding - 1 if padding else 0
                self._ends_stream = bool(flags & _END_STREAM)
                self._continue(data[payload:], items, row)
                at = start = size
            elif kind == _GOAWAY and length >= _MIN_GOAWAY_BYTES:
                if end > size:
                    break
                if start < at:
                    items.append(data[start:at])
                row.clear()
                last_stream_id = int.from_bytes(data[payload : payload + 4]) & _STREAM_ID
                items.append(Goaway(last_stream_id, int.from_bytes(data[payload + 4 : payload + 8])))
                at = start = end
            elif end > size:
                self._passing_bytes = end - size
                at = size
            else:
                at = end
        if start < at:
            items.append(data[start:at])
        self._held = data[at:]
        return items

    def _continue(self, data: bytes, items: list[Data | Goaway | bytes], row: dict[int, Data]) -> int:
        """More of the unfinished DATA frame, from the beginning of ``data``; where it stops there."""
        item = row.get(self._stream_id)
        if item is None:
            item = row[self._stream_id] = Data(self._stream_id)
            items.append(item)
        taken = min(self._data_bytes, len(data))
        if taken:
            item.pieces.append(data[:taken])
            self._data_bytes -= taken
        skipped = min(self._padding_bytes, len(data) - taken)
        self._padding_bytes -= skipped
        if not self._data_bytes and not self._padding_bytes:
            if self._ends_stream:
                item.ended = True
                del row[self._stream_id]
            self._stream_id = 0
        return taken + skipped
