"""resourceVersions: how far a watcher has come, and what of a stream is news to it.

A resourceVersion is opaque by contract; where both are integers they may be compared, but only within one resource
(https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
"""

from collections.abc import Collection

from unblink.stream.frames import Frame

MOST_DIGITS = 20
"""Of an unsigned integer of 64 bits, which is what kube-apiserver takes for one."""


def number(version: str) -> int | None:
    """The version as an integer, None where it is opaque."""
    return int(version) if len(version) <= MOST_DIGITS and version.isascii() and version.isdigit() else None


def reached(held: str, wanted: str) -> bool:
    """Whether who holds ``held`` has seen all up to ``wanted``; opaque versions are reached only by themselves."""
    if held == wanted:
        return True
    have, want = number(held), number(wanted)
    return have is not None and want is not None and have >= want


class Progress:
    """The version that a watcher holds. It never goes back while versions can be compared.

    Several streams of one watcher may bring the same events. Integer versions tell duplicates by themselves; for opaque
    ones the (uid, version) pairs are kept that came while more than one stream was open, see ``overlap``.
    """

    def __init__(self, version: str = "") -> None:
        self.version = version
        self.duplicates = 0
        """Events dropped because they were held already."""
        self._number = number(version)
        self._seen: set[tuple[str, str]] | None = None

    def move(self, version: str) -> None:
        """Hold the version of a list, whatever was held before."""
        self.version, self._number = version, number(version)
        if self._seen is not None:
            self._seen = set()

    def overlap(self, *, expected: bool) -> None:
        """Whether another stream may bring again what comes from now on."""
        if not expected:
            self._seen = None
        elif self._seen is None:
            self._seen = set()

    def news(self, frames: Collection[Frame]) -> list[Frame]:
        """Those of ``frames`` that are not held yet, in order; they are held from now on."""
        held, fresh = self._number, []
        for frame in frames:
            text = frame.metadata.resource_version
            if held is not None:
                try:
                    at = int(text)
                except ValueError:
                    held = None
                else:
                    if at > held:
                        held = at
                        fresh.append(frame)
                    continue
            if self._is_new(frame):
                fresh.append(frame)
                self.version = text
                held = number(text)
        self.duplicates += len(frames) - len(fresh)
        if fresh:
            self.version = fresh[-1].metadata.resource_version
        self._number = held
        return fresh

    def _is_new(self, frame: Frame) -> bool:
        key = (frame.metadata.uid, frame.metadata.resource_version)
        if frame.metadata.resource_version == self.version or (self._seen is not None and key in self._seen):
            return False
        if self._seen is not None:
            self._seen.add(key)
        return True
