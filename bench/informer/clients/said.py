"""What every client says on standard output: ``synced`` when its cache is there, then in one line what it has seen."""

import json
import time
import zlib
from collections.abc import Iterable


def synced() -> None:
    print("synced", flush=True)


def done(*, events: int, calls: int, last: str, versions: Iterable[tuple[str, str]]) -> None:
    """``calls`` of a handler told of ``events``; ``versions`` are the names and versions held. The time is now."""
    done_unix_s = time.time()
    checksum = sum(zlib.crc32(f"{name} {version}".encode()) for name, version in versions)
    seen = {"done_unix_s": done_unix_s, "events": events, "calls": calls, "last": last, "checksum": checksum}
    print(json.dumps(seen), flush=True)
