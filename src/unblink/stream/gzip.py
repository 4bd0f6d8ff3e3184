"""Content-Encoding: gzip (RFC 9110, 8.4.1.3) of lists and streams, in bounded memory.

kube-apiserver compresses lists over 128 KiB for who accepts gzip, and never a watch; a proxy may do so.
"""

import zlib
from collections.abc import Iterator

STEP_BYTES = 1024 * 1024
_GZIP = 31  # zlib.h, inflateInit2: windowBits of 15, plus 16 for a gzip header and trailer


class GzipError(ValueError):
    """Bytes that are not gzip. ``position`` is where in the compressed stream that shows, at the latest."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"gzip at byte {position}: {reason}")
        self.position = position


class Gunzip:
    """Compressed bytes in, the bytes they stand for out, in steps of at most ``STEP_BYTES``."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP)
        self._position = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Whoever takes the steps decides when it is too much.

        :raises GzipError: if it is not gzip.
        """
        while data:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                plain = self._inflate.decompress(data, STEP_BYTES)
            except zlib.error as error:
                raise GzipError(self._position, str(error)) from None
            rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self._position += len(data) - len(rest)
            data = rest
            if plain:
                yield plain
        # What one step did not hold is still inside.
        while not self._inflate.eof and (plain := self._more()):
            yield plain

    def _more(self) -> bytes:
        try:
            return self._inflate.decompress(b"", STEP_BYTES)
        except zlib.error as error:
            raise GzipError(self._position, str(error)) from None

    def finish(self) -> None:
        """The stream ended.

        :raises GzipError: if it ended inside the gzip data.
        """
        if self._position and not self._inflate.eof:
            raise GzipError(self._position, "the stream ended inside the gzip data")


def inflate(body: bytes, limit_bytes: int) -> bytes:
    """The whole of a compressed body.

    :raises GzipError: if it is not gzip, or stands for more than ``limit_bytes``.
    """
    gunzip, plain = Gunzip(), bytearray()
    for step in gunzip.feed(body):
        plain += step
        if len(plain) > limit_bytes:
            raise GzipError(gunzip._position, f"stands for more than {limit_bytes} bytes")
    gunzip.finish()
    return bytes(plain)
