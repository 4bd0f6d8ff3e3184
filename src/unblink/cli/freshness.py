"""How fresh a view is, for people: one line, made of its health alone."""

from dataclasses import dataclass
from enum import StrEnum

from unblink.client.health import Health


class Freshness(StrEnum):
    """The states that a line tells apart."""

    SYNCING = "syncing"
    FRESH = "fresh"
    STALE = "STALE"


COLOURS = {Freshness.SYNCING: "yellow", Freshness.FRESH: "green", Freshness.STALE: "bold red"}


@dataclass(frozen=True, slots=True)
class Line:
    """``text`` is one line without its end."""

    state: Freshness
    text: str


def line(health: Health) -> Line:
    """What a user must know: whether all that happened is on the screen, up to when, and why that is known."""
    if not health.synced:
        return Line(Freshness.SYNCING, f"syncing: {_one_line(health.reason.removeprefix('not synced, '))}")
    if health.live:
        up_to = f"every change older than {health.staleness_s:.1f} s is here"
        return Line(Freshness.FRESH, f"fresh: {up_to} ({_one_line(health.reason)})")
    return Line(Freshness.STALE, f"STALE: {_one_line(health.reason)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
