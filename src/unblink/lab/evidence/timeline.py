"""One ordered timeline of a cell, from what every process said and what the lab did."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from unblink.lab.log import monotonic_s

NAME = "timeline.jsonl"
_ACCESS_LOG = "access.jsonl"
_NOT_STEPS = frozenset({NAME, "sockets.jsonl"})
_ACCESS_EVENTS = {
    "DownstreamStart": "request-started",
    "DownstreamPeriodic": "request-open",
    "DownstreamEnd": "request-ended",
}

Step = dict[str, Any]
"""``{"t": seconds since the cell's start, "who": process or part, "event": kebab-case, ...}``"""


class Timeline:
    """What the lab itself does in a cell, which starts ``start_s`` (CLOCK_MONOTONIC seconds), now by default.

    The first step, the lab's ``start``, tells that time as ``monotonic_s``: other evidence is on that clock.
    """

    def __init__(self, start_s: float | None = None) -> None:
        self.start_s = monotonic_s() if start_s is None else start_s
        self.steps: list[Step] = [{"t": 0.0, "who": "lab", "event": "start", "monotonic_s": round(self.start_s, 6)}]
        self._start_epoch_s = time.time() - monotonic_s() + self.start_s

    def step(self, who: str, event: str, *, at_s: float | None = None, **fields: object) -> None:
        """Note a step, which happened now or ``at_s`` (CLOCK_MONOTONIC seconds)."""
        since_start = (monotonic_s() if at_s is None else at_s) - self.start_s
        self.steps.append({"t": round(since_start, 6), "who": who, "event": event, **fields})

    def write(self, folder: Path) -> list[Step]:
        """Merge the lab's steps with the JSONL files of the cell's folder, and write ``timeline.jsonl`` there.

        Steps of one moment stay in their order. :raises OSError: a file cannot be read or written.
        """
        steps = sorted([*self.steps, *read(folder, self.start_s, self._start_epoch_s)], key=lambda step: step["t"])
        encode = msgspec.json.Encoder().encode
        with (folder / NAME).open("wb") as stream:
            stream.writelines(encode(step) + b"\n" for step in steps)
        return steps


def read(folder: Path, start_s: float, start_epoch_s: float) -> Iterator[Step]:
    """The lines of every JSONL file of the folder, with the file's stem as ``who``; socket tables are not steps.

    Lines carry ``t`` in CLOCK_MONOTONIC seconds; those of Envoy's access log ``start_s`` in seconds of the epoch and
    ``duration_ms``, and become the gateway's request-started, request-open and request-ended. Any other line, as the
    torn last one of a killed process, is an ``unreadable-line`` at the time of the line before it.
    """
    decode = msgspec.json.Decoder(Step).decode
    for path in sorted(folder.glob("*.jsonl")):
        if path.name in _NOT_STEPS:
            continue
        last_t = 0.0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    said = decode(line)
                    if path.name == _ACCESS_LOG:
                        step = _access(said, start_epoch_s)
                    else:
                        step = {"t": said.pop("t") - start_s, "who": path.stem, "event": said.pop("event"), **said}
                    step["t"] = last_t = round(step["t"], 6)
                except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                    step = {"t": last_t, "who": path.stem, "event": "unreadable-line", "line": number}
                yield step


def _access(line: Step, start_epoch_s: float) -> Step:
    started = float(line.pop("start_s")) - start_epoch_s
    event = _ACCESS_EVENTS[line.pop("type")]
    return {"t": started + float(line.get("duration_ms") or 0) / 1000, "who": "gateway", "event": event, **line}
