"""``python -m bench.informer [--json FILE] [--quick] [--ours]``: our informer beside others, on the same events.

Exit code 0: all promises are kept; 1: one is not; 3: a peer was left out, and the table says why.
"""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import unblink
from bench.informer import peers, pods, table
from bench.informer.run import ROOT, Client, Many, Memory, Speed, Wrong, many, memory, speed

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pods: int = 2_000
    changes: int = 100_000
    """A second's work for the fastest."""
    repetitions: int = 3
    cached_pods: int = 100_000
    """0: no memory is measured."""
    informers: int = 500
    pods_each: int = 20


QUICK = Plan(pods=100, changes=800, repetitions=1, cached_pods=0, informers=0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.informer", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="few events, once, no memory: to see whether it runs")
    parser.add_argument("--ours", action="store_true", help="unblink only, without peers")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    try:
        figures = measure(plan, with_peers=not options.ours)
    except Wrong as wrong:
        print(f"bench: {wrong}", file=sys.stderr)
        return table.FAILED
    about = machine() | {"pod_bytes": pods.EVENT_BYTES, **dataclasses.asdict(plan)}
    print(table.text(figures), *(f"{name}: {value}" for name, value in about.items()), sep="\n")
    code = table.exit_code(figures)
    if options.json:
        options.json.write_text(json.dumps(as_json(figures, about, code), indent=2) + "\n")
    return code


def measure(plan: Plan, *, with_peers: bool) -> table.Figures:
    """One run of everything, the clients in turn within each repetition.

    :raises Wrong: if a client of ours failed; a peer that does is left out.
    """
    go, frames, left_out = peers.client_go() if with_peers else ([], None, [])
    python, not_installed = peers.python_peers() if with_peers else ([], [])
    left_out = left_out + not_installed
    clients = [*peers.our_clients(), *go, *python, *peers.ceilings()]
    foreign = {client.name for client in (*go, *python)}
    speeds: dict[str, list[Speed]] = {client.name: [] for client in clients}

    def attempt(name: str, measured: Callable[[], T]) -> T | None:
        if any(one.name == name for one in left_out):
            return None
        try:
            return measured()
        except Wrong as wrong:
            if name not in foreign:
                raise
            left_out.append(peers.LeftOut(name, str(wrong)))
            return None

    for repetition in range(1, plan.repetitions + 1):
        for client in clients:
            if one := attempt(client.name, lambda: speed(client, plan.pods, plan.changes // client.share, frames)):  # noqa: B023
                say(f"{repetition}/{plan.repetitions} {client.name}: {one.events_per_s:,.0f} events/s")
                speeds[client.name].append(one)
    memories = {}
    if plan.cached_pods:
        for client in (Client(peers.OURS, peers.ours("memory")), *go):
            bytes_per_pod = attempt(client.name, lambda: per_pod(client, plan.cached_pods, frames))  # noqa: B023
            if bytes_per_pod:
                say(f"{client.name}: {bytes_per_pod.least_bytes:,.0f} bytes per pod")
                memories[client.name] = bytes_per_pod
    several = many(peers.ours("many"), plan.informers, plan.pods_each) if plan.informers else None
    measured = {name: one for name, one in speeds.items() if one}
    return table.Figures(measured, memories, plan.cached_pods, several, left_out)


def per_pod(client: Client, count: int, frames: Path | None) -> table.PerPod:
    """:raises Wrong: if the client failed."""
    collects = client.name != peers.OURS
    empty: Memory = memory(client, 0, frames, collects=collects)
    return table.per_pod(empty, memory(client, count, frames, collects=collects), count)


def machine() -> dict[str, Any]:
    """Where it ran, and of what versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    go_mod = (ROOT / "peers" / "bench-informer" / "go.mod").read_text().split()
    return {
        "cpu": f"{len(models)} x {models[0]}" if models else platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "unblink": unblink.__version__,
        "client_go": go_mod[go_mod.index("k8s.io/client-go") + 1],
        "python_peers": ", ".join(requirement for _, requirement in peers.PYTHON_PEERS.values()),
    }


def as_json(figures: table.Figures, about: dict[str, Any], code: int) -> dict[str, Any]:
    """The figures for a file: rates in events per second, sizes in bytes."""
    several: Many | None = figures.many
    return {
        "about": about,
        "speeds": {name: [dataclasses.asdict(one) for one in measured] for name, measured in figures.speeds.items()},
        "bytes_per_pod": {name: dataclasses.asdict(one) for name, one in figures.memory.items()},
        "many": dataclasses.asdict(several) if several else None,
        "targets": [dataclasses.asdict(target) | {"met": target.met} for target in table.targets(figures)],
        "left_out": [dataclasses.asdict(one) for one in figures.left_out],
        "exit_code": code,
    }


def say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
