"""What one view has counted since it began; ``metrics.py`` gives it to Prometheus."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from unblink.stream.endings import EndedBy
from unblink.stream.frames import FrameType

EVENT_TYPES = (FrameType.ADDED, FrameType.MODIFIED, FrameType.DELETED, FrameType.BOOKMARK)
STALE = "stale"
"""The cause of a restart that the view itself decided: the old watch did not keep up."""
RESTART_CAUSES = (*EndedBy, STALE)


class ProbeOutcome(StrEnum):
    """How a probe for the newest resourceVersion ended."""

    CAUGHT_UP = "caught-up"
    """The watch was there already, or came in time."""
    BEHIND = "behind"
    """It was answered, and the watch did not reach it in time."""
    FAILED = "failed"
    """It had no usable answer in time."""


def _zeros(*names: str) -> Counter[str]:
    # A series that begins with its first increase has no increase that Prometheus could see.
    return Counter({str(name): 0 for name in names})


@dataclass(slots=True)
class Counters:
    """Counted in the event loop alone; each only grows."""

    events: Counter[str] = field(default_factory=lambda: _zeros(*EVENT_TYPES))
    """By type."""
    restarts: Counter[str] = field(default_factory=lambda: _zeros(*RESTART_CAUSES))
    """Open watches that ended or were given up, by cause."""
    relists: int = 0
    """Lists after the first."""
    duplicates: int = 0
    """Events that were dropped because they were held already."""
    probes: Counter[str] = field(default_factory=lambda: _zeros(*ProbeOutcome))
    """By outcome."""
