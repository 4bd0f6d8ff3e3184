"""What h2 does not do for a client that must not hang: it stands before h2 in the byte stream of the server.

After a graceful GOAWAY the streams that the server accepted go on until they end (RFC 9113, 6.8); kube-apiserver serves
watches for a minute so. h2 4.4 treats GOAWAY as the end of the connection and raises on the next DATA frame, which
would kill every watch of a server that drains. So h2 never gets to see the frame.

A frame longer than we allow is an error as soon as its header says so; h2 waits for all of it before it complains.
"""

from dataclasses import dataclass

_FRAME_HEADER_BYTES = 9
_GOAWAY = 7
_MIN_GOAWAY_BYTES = 8
MAX_FRAME_BYTES = 16384
"""The default SETTINGS_MAX_FRAME_SIZE, which we leave as it is."""


@dataclass(frozen=True, slots=True)
class Goaway:
    """What the server said: streams above ``last_stream_id`` were not processed."""

    last_stream_id: int
    error_code: int


class GoawaySieve:
    """Bytes of the server in; the same bytes without GOAWAY frames, and those frames, out."""

    def __init__(self) -> None:
        self._held = b""
        self._rest_of_frame = 0
        self.overlong_bytes = 0
        """The length of a frame that the server must not send; nothing is given from there on."""

    def feed(self, data: bytes) -> tuple[bytes, list[Goaway]]:
        """Holds back less than one frame header, or one unfinished GOAWAY."""
        if self.overlong_bytes:
            return b"", []
        data = self._held + data
        passed: list[bytes] = []
        found: list[Goaway] = []
        start = 0
        at = min(self._rest_of_frame, len(data))
        self._rest_of_frame -= at
        while len(data) - at >= _FRAME_HEADER_BYTES:
            length = int.from_bytes(data[at : at + 3])
            payload = at + _FRAME_HEADER_BYTES
            end = payload + length
            if length > MAX_FRAME_BYTES:
                self.overlong_bytes = length
                break
            if data[at + 3] == _GOAWAY and length >= _MIN_GOAWAY_BYTES:
                if end > len(data):
                    break
                last_stream_id = int.from_bytes(data[payload : payload + 4]) & 0x7FFFFFFF
                found.append(Goaway(last_stream_id, int.from_bytes(data[payload + 4 : payload + 8])))
                passed.append(data[start:at])
                start = at = end
            elif end > len(data):
                self._rest_of_frame = end - len(data)
                at = len(data)
            else:
                at = end
        passed.append(data[start:at])
        self._held = data[at:]
        return b"".join(passed), found
