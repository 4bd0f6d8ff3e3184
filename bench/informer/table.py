"""The figures of a run: medians, ratios, and whether they are what we promise."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.informer import peers
from bench.informer.run import Many, Memory, Speed

MADE, FAILED, LEFT_OUT = 0, 1, 3
"""Exit codes."""


@dataclass(frozen=True)
class Target:
    """A promise: ``value`` is at least ``wanted``, or at most where ``most``. None: what it needs was not measured."""

    text: str
    value: float | None
    wanted: float
    most: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.wanted if self.most else self.value >= self.wanted


@dataclass(frozen=True)
class PerPod:
    """Resident bytes for each cached pod, above the same process without pods."""

    standing_bytes: float
    collected_bytes: float | None

    @property
    def least_bytes(self) -> float:
        """After a collection, where the client has one."""
        return self.standing_bytes if self.collected_bytes is None else self.collected_bytes


def per_pod(empty: Memory, full: Memory, count: int) -> PerPod:
    collected = None
    if empty.collected_bytes is not None and full.collected_bytes is not None:
        collected = (full.collected_bytes - empty.collected_bytes) / count
    return PerPod((full.standing_bytes - empty.standing_bytes) / count, collected)


@dataclass(frozen=True)
class Figures:
    """All that a run measured, by the names of the clients."""

    speeds: Mapping[str, Sequence[Speed]]
    memory: Mapping[str, PerPod]
    cached_pods: int
    many: Many | None
    left_out: Sequence[peers.LeftOut]

    def median(self, name: str) -> float | None:
        """Events per second."""
        measured = self.speeds.get(name)
        return statistics.median(one.events_per_s for one in measured) if measured else None

    def ratio(self, name: str, to: str) -> float | None:
        over, under = self.median(name), self.median(to)
        return None if over is None or under is None else over / under

    def memory_ratio(self, to: str) -> float | None:
        if peers.OURS not in self.memory or to not in self.memory:
            return None
        return self.memory[peers.OURS].least_bytes / self.memory[to].least_bytes


def targets(figures: Figures) -> list[Target]:
    """What we promise of the informer."""
    faster = (
        (peers.OURS, peers.CLIENT_GO_JSON, 10),
        (peers.OURS, peers.OFFICIAL, 25),
        (peers.OURS, peers.CLIENT_GO_PROTOBUF, 1),
        (peers.OURS_METADATA, peers.CLIENT_GO_METADATA, 1),
    )
    made = [Target(f"{name}: events/s of {to}", figures.ratio(name, to), wanted) for name, to, wanted in faster]
    if figures.cached_pods:
        made += [
            Target(f"{peers.OURS}: memory per pod of {to}", figures.memory_ratio(to), 0.5, most=True)
            for to in (peers.CLIENT_GO_JSON, peers.CLIENT_GO_PROTOBUF)
        ]
        made.append(Target(f"{peers.OURS}: pods in one cache", figures.cached_pods, 100_000))
    if figures.many:
        made.append(Target(f"{peers.OURS}: informers in one process", figures.many.informers, 500))
    return made


def exit_code(figures: Figures) -> int:
    """A broken promise says more than a peer that is not there."""
    if any(target.met is False for target in targets(figures)):
        return FAILED
    return LEFT_OUT if figures.left_out else MADE


def text(figures: Figures) -> str:
    """The table, and below it what was promised."""
    heads = ("client", "events/s", "lowest to highest", "of client-go JSON", "handler calls", "events")
    rows = [heads, *(_row(figures, name) for name in figures.speeds)]
    parts = [_aligned(rows)]
    if figures.memory:
        memory = [(f"bytes per pod of {figures.cached_pods:,}", "as it stands", "after a collection")]
        for name, bytes_per_pod in figures.memory.items():
            collected = bytes_per_pod.collected_bytes
            after = "-" if collected is None else f"{collected:,.0f}"
            memory.append((name, f"{bytes_per_pod.standing_bytes:,.0f}", after))
        parts.append(_aligned(memory))
    if figures.many:
        many = figures.many
        parts.append(
            f"{many.informers} informers in one process: synced after {many.synced_s:.2f} s, "
            f"{many.resident_bytes / 1e6:.0f} MB resident, {many.connections} connections"
        )
    parts.append(_aligned([("promised", "wanted", "measured", ""), *map(_promise, targets(figures))]))
    parts += [f"left out: {one.name}: {one.why}" for one in figures.left_out]
    return "\n\n".join(parts)


def _row(figures: Figures, name: str) -> tuple[str, ...]:
    measured = figures.speeds[name]
    rates = [one.events_per_s for one in measured]
    ratio = figures.ratio(name, peers.CLIENT_GO_JSON)
    return (
        name,
        f"{statistics.median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        "-" if ratio is None else f"{ratio:.2f}",
        f"{statistics.median(one.calls for one in measured):,.0f}",
        f"{measured[0].events:,}",
    )


def _promise(target: Target) -> tuple[str, ...]:
    wanted = f"at {'most' if target.most else 'least'} {target.wanted:,g}"
    value = "-" if target.value is None else f"{target.value:,.2f}"
    return (target.text, wanted, value, {True: "met", False: "NOT MET", None: "not measured"}[target.met])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
