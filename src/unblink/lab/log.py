"""JSON lines on standard output: what every process of the lab says, stamped with CLOCK_MONOTONIC.

The clock is one for all namespaces of a machine, so lines of different hosts order themselves.
"""

import sys
import time

import msgspec

_encode = msgspec.json.Encoder().encode


def monotonic_s() -> float:
    """Seconds of CLOCK_MONOTONIC."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def emit(event: str, **fields: object) -> None:
    """Write one line ``{"t": seconds, "event": event, ...fields}`` and flush it."""
    line = _encode({"t": round(monotonic_s(), 6), "event": event, **fields})
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
