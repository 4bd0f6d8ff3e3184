"""What a cell's picture shows, chosen from its evidence: lanes of events over strips of socket state.

All times are seconds since the cell's start.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

Step = Mapping[str, Any]

_APISERVER_PORT = 6443
_FIRST_EPHEMERAL_PORT = 32768
_STRIPS_OF_A_HOST = 4
_STORY_LINES = 80
_MARGIN_S = 1.0
_NO_CHANGE = frozenset({"fault-off", "proof", "echo"})

# What a strip shows of a socket: its timer while established, else how far it is in opening or closing.
_CLOSING = frozenset({"fin-wait-1", "fin-wait-2", "time-wait", "close-wait", "last-ack", "closing"})
_TIMERS = {
    "off": "no timer",
    "keepalive": "keepalive",
    "retransmit": "retransmit",
    "persist": "persist",
    "timewait": "closing",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One event that counts: ``kind`` names its shape, ``label`` stands by it where there is room."""

    t: float
    kind: str
    label: str
    detail: str


@dataclass(slots=True)
class Lane:
    """What one party did. ``blind`` is from the fault to its first event after it, or to the end of the observation."""

    name: str
    note: str = ""
    ticks: list[float] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    open_from: float | None = None
    open_to: float | None = None
    blind: tuple[float, float] | None = None
    blind_label: str = ""
    bound_at: float | None = None
    bound_label: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a socket."""

    t: float
    kind: str
    unacked: int


@dataclass(slots=True)
class Strip:
    """One TCP connection of a host over time; ``gone_at`` is the first look that did not find it any more."""

    name: str
    note: str
    samples: list[Sample]
    gone_at: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """All of one cell's picture, and ``story``: the same in words, in order.

    The picture starts a while before the fault and ends a while after the last change, the cell at ``cell_end``.
    ``proof`` says how the run knows that the fault hit. ``left_out`` connections and ``untold`` lines of the story are
    in the evidence only.
    """

    start: float
    end: float
    cell_end: float
    fault_on: float | None
    fault_off: float | None
    proof: str
    lanes: list[Lane]
    strips: list[Strip]
    left_out: int
    story: list[tuple[float, str, str]]
    untold: int


def figure(rows: Sequence[Mapping[str, Any]], folder: Path) -> Figure | None:
    """The picture of the cell whose result rows (one for each client) share this evidence; None without a timeline."""
    told = (step for step in read_lines(folder / "timeline.jsonl") if "who" in step and "event" in step)
    steps = sorted(told, key=lambda step: step["t"])
    if not steps:
        return None
    on, off = _first(steps, "fault", "on"), _first(steps, "fault", "off")
    observed_s = max((row.get("observed_for_s") or 0 for row in rows), default=0)
    end = max(steps[-1]["t"], (on or 0) + observed_s)
    lanes = [_fault_lane(steps), _writer_lane(steps)]
    lanes += [_client_lane(row, steps, on, end) for row in rows]
    lanes.append(_exec_lane(steps, end))
    lanes = [lane for lane in lanes if lane.ticks or lane.marks or lane.blind]
    start, shown_end = _worth_showing(lanes, on, end)
    strips, left_out = _strips(folder, steps, on)
    story = list(_story(steps))
    return Figure(
        start=start,
        end=shown_end,
        cell_end=end,
        fault_on=on,
        fault_off=off,
        proof=next(
            (str(step.get("evidence") or _detail(step)) for step in _of(steps, "fault") if step["event"] == "proof"),
            "none",
        ),
        lanes=lanes,
        strips=strips,
        left_out=left_out,
        story=story[:_STORY_LINES],
        untold=len(story[_STORY_LINES:]),
    )


def _worth_showing(lanes: Iterable[Lane], on: float | None, end: float) -> tuple[float, float]:
    """From the first step to the end, but cut where nothing changes, so that what matters is not in a corner.

    After the fault twice the time to the last change, before it at most half of that.
    """
    first = max(0.0, min([t for lane in lanes for t in _times(lane)], default=0.0) - _MARGIN_S)
    if on is None:
        return first, end
    changes = [on]
    for lane in lanes:
        changes += [mark.t for mark in lane.marks if mark.kind not in _NO_CHANGE]
        changes += [lane.blind[1]] if lane.blind else []
        changes += [lane.bound_at] if lane.bound_at is not None else []
    shown_end = min(end, on + 2 * (max(changes) - on) + 2 * _MARGIN_S)
    return max(first, on - (shown_end - on) / 2 - _MARGIN_S), shown_end


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a time of a JSONL file; none if it is not there. Torn lines are passed over."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                said = decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(said.get("t"), int | float):
                yield said


def seconds(value: float) -> str:
    """As a person reads it."""
    return f"{value:.1f} s"


def _first(steps: Iterable[Step], who: str, event: str) -> float | None:
    return next((float(step["t"]) for step in steps if step.get("who") == who and step.get("event") == event), None)


def _of(steps: Iterable[Step], who: str) -> Iterator[Step]:
    return (step for step in steps if step.get("who") == who)


def _times(lane: Lane) -> Iterator[float]:
    yield from lane.ticks[:1]
    yield from (mark.t for mark in lane.marks)


def _detail(step: Step) -> str:
    told = (f"{key.replace('_', ' ')} {value}" for key, value in step.items() if key not in {"t", "who", "event"})
    return ", ".join(told)


def _mark(step: Step, kind: str, label: str) -> Mark:
    what = f"{seconds(step['t'])}: {step['who']} {step['event']}"
    detail = _detail(step)
    return Mark(step["t"], kind, label, f"{what} ({detail})" if detail else what)


def _fault_lane(steps: Sequence[Step]) -> Lane:
    labels = {"on": "fault on", "off": "fault off", "proof": "proof that it hit"}
    kinds = {"on": "fault-on", "off": "fault-off", "proof": "proof"}
    lane = Lane("fault")
    for step in _of(steps, "fault"):
        event = str(step["event"])
        lane.marks.append(_mark(step, kinds.get(event, "other"), labels.get(event, event)))
    return lane


def _writer_lane(steps: Sequence[Step]) -> Lane:
    ticks = [step["t"] for step in _of(steps, "writer") if step["event"] == "written"]
    return Lane("writer", f"{len(ticks)} writes", ticks)


def _client_lane(row: Mapping[str, Any], steps: Sequence[Step], on: float | None, end: float) -> Lane:
    lane = Lane(str(row["client"]))
    for step in _of(steps, lane.name):
        match step["event"]:
            case "object" if step.get("source") != "list" and step.get("type") != "BOOKMARK":
                lane.ticks.append(step["t"])
            case "watch":
                lane.marks.append(_mark(step, "watch", ""))
            case "list":
                relist = step.get("reason") == "relist"
                lane.marks.append(_mark(step, "relist" if relist else "list", "relist" if relist else ""))
            case "ended":
                lane.marks.append(_mark(step, "ended", f"ended: {step.get('by', 'unknown')}"))
    judged = {
        "last-event": ("last", "last event"),
        "first-event-after": ("first", "first event after"),
        "detector": ("detector", "detector"),
    }
    last_event = None
    for step in _of(steps, "judge"):
        if step.get("client") in {None, lane.name} and step["event"] in judged:
            if step["event"] == "last-event":
                last_event = step["t"]
            kind, label = judged[step["event"]]
            if kind == "detector":
                label = f"detector: {step.get('detector') or step.get('by') or 'fired'}"
            lane.marks.append(_mark(step, kind, label))
    lane.note = f"{len(lane.ticks)} events"
    blind_s, bound_s = row.get("blind_s"), row.get("bound_s")
    if on is not None:
        begun = on if last_event is None else max(on, last_event)
        lane.blind = (begun, end if blind_s is None else begun + blind_s)
        lane.blind_label = "blind to the end" if blind_s is None else f"blind {seconds(blind_s)}"
        if bound_s is not None:
            lane.bound_at, lane.bound_label = begun + bound_s, f"bound {seconds(bound_s)}"
    return lane


def _exec_lane(steps: Sequence[Step], end: float) -> Lane:
    lane = Lane("exec", "idle session")
    for step in _of(steps, "exec"):
        match step["event"]:
            case "opened":
                lane.open_from, lane.open_to = step["t"], end
                lane.marks.append(_mark(step, "watch", "opened"))
            case "echo":
                well = bool(step.get("ok"))
                lane.marks.append(_mark(step, "echo" if well else "ended", "echo" if well else "no echo"))
            case "closed":
                lane.open_to = step["t"]
                lane.marks.append(_mark(step, "ended", f"closed: {step.get('by', 'unknown')}"))
    return lane


_TOLD = {"ended", "list", "watch", "doubted", "stale", "proven", "opened", "echo", "closed", "fatal"}


def _story(steps: Sequence[Step]) -> Iterator[tuple[float, str, str]]:
    for step in steps:
        who, event = str(step.get("who")), str(step.get("event"))
        if who in {"fault", "judge"} or event in _TOLD:
            detail = _detail(step)
            yield step["t"], who, f"{event.replace('-', ' ')}: {detail}" if detail else event.replace("-", " ")


def _strips(folder: Path, steps: Sequence[Step], on: float | None) -> tuple[list[Strip], int]:
    """The weightiest connections to apiservers, then those of the client leg; and how many are left out."""
    target = next((_address(step) for step in _of(steps, "fault") if step["event"] == "on"), None)
    looks: dict[str, list[float]] = defaultdict(list)
    found: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    cell_start = _cell_start(steps)
    for line in read_lines(folder / "sockets.jsonl"):
        t, host = line["t"] - cell_start, str(line.get("host"))
        looks[host].append(t)
        for row in line.get("sockets", ()):
            if _shown(host, row, target):
                found[host, row["local"], row["remote"]].append(Sample(t, _kind(row), row.get("unacked", 0)))
    carried = _carried(steps)
    strips: list[Strip] = []
    left_out = 0
    for wanted, name in (("gateway", "gateway → apiserver"), ("client", "client → gateway")):
        of_host = [
            (key, samples)
            for key, samples in found.items()
            if key[0] == wanted and any(sample.kind not in {"closing", "connecting"} for sample in samples)
        ]
        of_host.sort(key=lambda item: _importance(item[1], item[0][2], target, carried.get(item[0][1], set()), on))
        left_out += len(of_host[_STRIPS_OF_A_HOST:])
        for (host, local, remote), samples in of_host[:_STRIPS_OF_A_HOST]:
            gone_at = next((t for t in looks[host] if t > samples[-1].t), None)
            what = ", ".join(sorted(carried.get(local, ())))
            note = f":{local.rpartition(':')[2]} → {remote}"
            strips.append(Strip(f"{name}{f' ({what})' if what else ''}", note, samples, gone_at))
    return strips, left_out


def _cell_start(steps: Sequence[Step]) -> float:
    return next((float(step["monotonic_s"]) for step in _of(steps, "lab") if "monotonic_s" in step), 0.0)


def _address(step: Step) -> str | None:
    address = step.get("address")
    return None if address is None else str(address).partition(":")[0]


def _shown(host: str, row: Mapping[str, Any], target: str | None) -> bool:
    """Whether a connection was opened by the gateway to an apiserver, or by the client."""
    address, _, port = row["remote"].rpartition(":")
    if host == "gateway":
        return bool(address == target) or int(port) == _APISERVER_PORT
    return host == "client" and int(port) < _FIRST_EPHEMERAL_PORT


def _kind(row: Mapping[str, Any]) -> str:
    state = row["state"]
    if state in _CLOSING:
        return "closing"
    if state != "established":
        return "connecting"
    return _TIMERS.get(row["timer"], str(row["timer"]))


def _carried(steps: Sequence[Step]) -> dict[str, set[str]]:
    """What the gateway's access log says of connections, by their opening end: watch, exec."""
    carried: dict[str, set[str]] = defaultdict(set)
    for step in _of(steps, "gateway"):
        path = str(step.get("path"))
        what = "watch" if "watch=true" in path or "watch=1" in path else "exec" if "/exec" in path else None
        for end in ("client", "server_leg"):
            if what and step.get(end):
                carried[step[end]].add(what)
    return carried


def _importance(
    samples: Sequence[Sample], remote: str, target: str | None, carried: set[str], on: float | None
) -> tuple[bool, bool, bool, float]:
    """Sorts first what carries a watch, goes to the faulted apiserver, was there at the fault, and lived long."""
    across_fault = on is not None and samples[0].t <= on <= samples[-1].t
    to_faulted = remote.rpartition(":")[0] == target
    return "watch" not in carried, not to_faulted, not across_fault, samples[0].t - samples[-1].t
