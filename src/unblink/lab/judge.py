"""What a cell shows, and whether that is what was predicted: pure functions over what its processes wrote."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from unblink.bounds import Prediction

Line = Mapping[str, Any]
"""One JSON line of a lab process: ``t`` in CLOCK_MONOTONIC seconds, ``event``, and the event's own fields."""


TOLERANCE_S = 2.0
TOLERANCE_PERIODS = 4


class Verdict(StrEnum):
    """Pass and fail compare with the prediction; unknown means that the cell could not show it."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    UNKNOWN = "unknown"


def merged(verdicts: Collection[Verdict]) -> Verdict:
    """One verdict for many: fail wins over unknown, unknown over pass; of none at all, unknown."""
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.UNKNOWN


@dataclass(frozen=True, slots=True)
class Blindness:
    """How long a watcher was blind after a fault, in seconds.

    ``blind_s`` is the longest time in which it held no event though one was written, None where that time did not
    end; ``open_gap_s`` is such a time at the end of the observation. ``last_event_s`` and ``first_event_after_s`` are
    the moments (CLOCK_MONOTONIC) on both sides of ``blind_s``.
    """

    blind_s: float | None
    open_gap_s: float
    last_event_s: float
    first_event_after_s: float | None


def blindness(
    held: Sequence[tuple[float, int]],
    written: Sequence[tuple[float, int]],
    fault_s: float,
    until_s: float,
    period_s: float,
) -> Blindness:
    """Blind time from (moment, resourceVersion) of what the watcher held and the writer wrote.

    It is counted from the last event that the watcher held, at the earliest from the fault: where a fault lets some
    events through before it takes hold, as a drop in one direction does, those do not count as sight. Nobody is blind
    while nothing is written: a gap begins at most ``period_s``, the time between two events, before the first event
    missed. A gap of up to `tolerance_s` is no blindness.
    """
    sights: list[tuple[float, int]] = [(fault_s, 0)]
    highest = 0
    for moment, version in held:
        if version > highest and moment <= until_s:
            highest = version
            if moment <= fault_s:
                sights[0] = (fault_s, version)
            else:
                sights.append((moment, version))

    def begins(sight: tuple[float, int]) -> float:
        missed = min((moment for moment, version in written if version > sight[1]), default=sight[0])
        return max(sight[0], missed - period_s)

    gaps = [(begins(before), after[0]) for before, after in pairwise(sights)]
    last, first_after = max(gaps, key=lambda gap: gap[1] - gap[0], default=(fault_s, fault_s))
    gap_s = max(0.0, first_after - last)
    owed = any(version > highest and moment <= until_s - tolerance_s(period_s) for moment, version in written)
    open_gap_s = until_s - begins(sights[-1]) if owed else 0.0
    if open_gap_s > gap_s:
        return Blindness(None, open_gap_s, begins(sights[-1]), None)
    return Blindness(gap_s, open_gap_s, last, first_after)


def tolerance_s(period_s: float) -> float:
    """How long a gap between events may be before it counts as blindness: the events' own period with some room."""
    return max(TOLERANCE_S, TOLERANCE_PERIODS * period_s)


def lost(
    held: Sequence[tuple[float, int]], written: Sequence[tuple[float, int]], since_s: float, until_s: float
) -> int:
    """How many of the versions written in the span the watcher never held, be it as an event or in a list."""
    versions = {version for _, version in held}
    return sum(since_s <= moment <= until_s and version not in versions for moment, version in written)


def held_objects(lines: Sequence[Line]) -> list[tuple[float, int]]:
    """(moment, resourceVersion) of every object that a client got, as event or in a list; bookmarks are none."""
    return [
        (line["t"], int(line["rv"])) for line in lines if line["event"] == "object" and line.get("type") != "BOOKMARK"
    ]


def duplicated(lines: Sequence[Line]) -> int:
    """How many events of a watch a client got more than once, by name, type and resourceVersion."""
    seen: set[tuple[str, str, str]] = set()
    again = 0
    for line in lines:
        if line["event"] == "object" and line.get("source") == "watch" and line.get("type") != "BOOKMARK":
            key = (line["name"], line["type"], line["rv"])
            again += key in seen
            seen.add(key)
    return again


def relists(lines: Sequence[Line], since_s: float) -> int:
    """How many lists a client asked for after the moment."""
    return sum(line["event"] == "list" and line["t"] > since_s for line in lines)


def exec_survived(lines: Sequence[Line]) -> bool | None:
    """Whether the idle exec session answered at the end; None where there was none."""
    if not any(line["event"] == "opened" for line in lines):
        return None
    if any(line["event"] == "closed" for line in lines):
        return False
    echoes = [bool(line["ok"]) for line in lines if line["event"] == "echo"]
    return len(echoes) > 1 and echoes[-1]


@dataclass(frozen=True, slots=True)
class Observation:
    """One client of one cell, measured."""

    blindness: Blindness
    was_hit: bool
    """Whether the watch was on the apiserver that the fault hit when it began."""
    observed_for_s: float
    lost: int
    duplicated: int
    relists: int
    exec_survived: bool | None
    client_port_changed: bool | None
    watches_elsewhere: int
    """Watches of this client that another apiserver got between the fault and the end."""
    ended_by: str | None
    """The detector of `bounds.DETECTORS` that ended the watch, another code for another ending, None for none."""
    ended_after_s: float | None
    """How long after the fault that was."""


def judge(seen: Observation, predicted: Prediction) -> tuple[Verdict, str]:
    """Compare, and say in a sentence what decided."""
    blind = seen.blindness
    if not seen.was_hit:
        return Verdict.UNKNOWN, "its watch was not on the apiserver that the fault hit"
    if predicted.exec_survives is not seen.exec_survived and seen.exec_survived is not None:
        became = "survived" if seen.exec_survived else "was cut"
        return Verdict.FAIL, f"the idle exec session {became}, which was not predicted"
    if predicted.recovers is None:
        if seen.ended_by not in predicted.detectors:
            return Verdict.FAIL, f"the watch was ended by {seen.ended_by}, predicted was {predicted.ended_by}"
        if predicted.ended_within_s is not None and (seen.ended_after_s or 0) > predicted.ended_within_s:
            return (
                Verdict.FAIL,
                f"ended after {seen.ended_after_s:.1f} s, over the {predicted.ended_within_s:.1f} s predicted",
            )
        return Verdict.PASS, f"ended in time, and whether its client sees again is chance: {predicted.why}"
    if not predicted.recovers:
        if blind.blind_s is not None:
            return (
                Verdict.FAIL,
                f"the watch saw again after {blind.blind_s:.1f} s, predicted was never: {predicted.why}",
            )
        if seen.client_port_changed:
            return Verdict.FAIL, "the client's connection changed while its watch was blind"
        if seen.watches_elsewhere:
            return Verdict.FAIL, "another apiserver got this watch while it was blind"
        return Verdict.PASS, f"blind to the end: {predicted.why}"
    if blind.blind_s is None:
        return Verdict.FAIL, f"blind to the end, but {predicted.ended_by} should have ended it"
    if predicted.bound_s is not None and max(blind.blind_s, blind.open_gap_s) > predicted.bound_s:
        longest = max(blind.blind_s, blind.open_gap_s)
        return Verdict.FAIL, f"blind for {longest:.1f} s, over the bound of {predicted.bound_s:.1f} s"
    if seen.ended_by is not None and seen.ended_by not in predicted.detectors:
        return Verdict.FAIL, f"the watch was ended by {seen.ended_by}, predicted was {predicted.ended_by}"
    if predicted.recovery == "re-watch" and seen.relists:
        return Verdict.FAIL, f"{seen.relists} relists, where a re-watch was predicted"
    if predicted.lossless and seen.duplicated:
        return Verdict.FAIL, f"{seen.duplicated} events came twice"
    if predicted.lossless and seen.lost and not seen.relists:
        return Verdict.FAIL, f"{seen.lost} versions were lost, and no relist skipped them"
    return Verdict.PASS, predicted.why
