"""The JSON lines that a lab process writes, read while it goes on writing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from unblink.lab.log import monotonic_s

POLL_S = 0.05

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Journal:
    """The lines of one file so far, in order. A torn last line waits until its rest is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[dict[str, Any]] = []
        self._offset = 0

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines until now; what is not JSON (a runtime's own complaint) is left out."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                block = stream.read()
            whole = block.rfind(b"\n") + 1
            self._offset += whole
            for line in block[:whole].splitlines():
                try:
                    self._lines.append(_decode(line))
                except msgspec.DecodeError:
                    continue
        return self._lines

    async def wait_for(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float, count: int = 1) -> bool:
        """Wait until `count` lines are wanted ones; False when they were not there in time."""
        deadline = monotonic_s() + timeout_s
        while sum(map(wanted, self.lines())) < count:
            if monotonic_s() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True
