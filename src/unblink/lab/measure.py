"""From a cell's files to an `Observation` of each of its clients."""

import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from unblink.bounds import PROOF_OF_LIFE
from unblink.chain import CLIENTS
from unblink.gateway.envoy import access_log
from unblink.lab import judge
from unblink.lab.cell import VICTIM, Stage
from unblink.lab.judge import Observation
from unblink.lab.log import monotonic_s

USER_AGENTS = {
    "kubectl": "kubectl",
    "reflector": "unblink-reflector",
    "client-go": "client-go-informer",
    "informer": "unblink-informer",
}
"""The product that each client names first in its User-Agent (RFC 9110, 10.1.5)."""

ENDED_BY = {
    "gateway-stream-idle-timeout": "stream-idle-timeout",
    "server-closed": "tcp-close",
    "server-reset": "tcp-close",
}
"""Detectors of `bounds.DETECTORS` by `access_log.ending`; ``server-connection-lost`` needs more evidence."""

BY_CLIENT = frozenset({"client-closed", "client-reset"})
"""A watcher that bounds its staleness closes a watch that gave no proof of life."""

TIMERS = {"keepalive": "tcp-keepalive", "retransmit": "tcp-user-timeout", "persist": "tcp-user-timeout"}
"""The detector that ends a connection, by the timer that its socket ran last."""


def observation(stage: Stage, client: str, realtime_ahead_s: float) -> Observation:
    """What one client of the cell went through. `realtime_ahead_s` is CLOCK_REALTIME less CLOCK_MONOTONIC.

    A client with a bound of its own is observed until it holds what was written by the end, for as long as its bound.
    """
    until_s = stage.until_s if CLIENTS[client].max_staleness_ms is None else stage.settled_s
    lines = [line for line in stage.journal(client).lines() if line["t"] <= until_s]
    held = judge.held_objects(lines)
    written = [(line["t"], int(line["rv"])) for line in stage.journal("writer").lines() if line["event"] == "written"]
    period_s = stage.cell.event_period_ms / 1000
    blind = judge.blindness(held, written, stage.fault_s, until_s, period_s)
    streams = _watch_streams(stage, client)
    fault_unix_s = stage.fault_s + realtime_ahead_s
    until_unix_s = until_s + realtime_ahead_s
    before = [row for row in streams if row.start_s <= fault_unix_s]
    ports_before = {row.client for row in before}
    ports_after = {row.client for row in streams if fault_unix_s < row.start_s <= until_unix_s}
    served = max(before, key=lambda row: row.start_s, default=None)
    ended = _ended_by(stage, client, served, until_unix_s, realtime_ahead_s) if served else None
    victim = stage.apiservers[VICTIM]
    return Observation(
        blindness=blind,
        was_hit=served is not None and served.server == f"{victim.address}:{victim.port}",
        observed_for_s=until_s - stage.fault_s,
        lost=judge.lost(held, written, stage.steady_s, until_s - judge.tolerance_s(period_s)),
        duplicated=judge.duplicated(lines),
        relists=judge.relists(lines, stage.fault_s),
        exec_survived=judge.exec_survived(stage.journal("exec").lines()),
        client_port_changed=bool(ports_after - ports_before) if served else None,
        watches_elsewhere=_watches_elsewhere(stage, streams, fault_unix_s, until_unix_s),
        ended_by=ended,
        ended_after_s=served.start_s + served.duration_ms / 1000 - fault_unix_s if served and ended else None,
    )


def _watch_streams(stage: Stage, client: str) -> list[access_log.Row]:
    """The client's watches through the gateway, each by the last line that the access log has of it."""
    latest: dict[str, access_log.Row] = {}
    for row in access_log.read(stage.folder / "access.jsonl"):
        if row.is_watch and _product(row) == USER_AGENTS[client]:
            latest[row.stream] = row
    return list(latest.values())


def _product(row: access_log.Row) -> str:
    return (row.user_agent or "").partition(" ")[0].partition("/")[0]


def _ended_by(
    stage: Stage, client: str, row: access_log.Row, until_unix_s: float, realtime_ahead_s: float
) -> str | None:
    ending = access_log.ending(row)
    ended_s = row.start_s + row.duration_ms / 1000
    if ending is None or ended_s > until_unix_s:
        return None
    if CLIENTS[client].max_staleness_ms is not None and (ending in BY_CLIENT or _is_over(row, ending)):
        return PROOF_OF_LIFE
    if ending != "server-connection-lost":
        is_watch_route = (
            ending == "gateway-stream-idle-timeout" and stage.cell.gateway.watch_idle_timeout_ms is not None
        )
        return "watch-idle-timeout" if is_watch_route else ENDED_BY.get(ending, ending)
    if _stat(stage.folder / "stats.json", "cluster.apiserver.http2.keepalive_timeout"):
        return "http2-ping"
    timer = _last_timer(stage.folder / "sockets.jsonl", row.server_leg, ended_s - realtime_ahead_s)
    return TIMERS.get(timer or "", "tcp-close")


def _is_over(row: access_log.Row, ending: str) -> bool:
    """Whether the server ended the watch cleanly at its timeoutSeconds, which such a watcher keeps short."""
    asked = parse_qs(urlsplit(row.path or "").query).get("timeoutSeconds", [""])[0]
    return ending == "server-closed" and asked.isdecimal() and row.duration_ms >= int(asked) * 1000


def _stat(path: Path, name: str) -> int:
    return int(msgspec.json.decode(path.read_bytes()).get(name, 0)) if path.exists() else 0


def _last_timer(path: Path, local: str | None, ended_s: float) -> str | None:
    """The timer of the gateway's socket when it was seen last, if it was then waiting for an answer in vain."""
    last: str | None = None
    for line in path.read_bytes().splitlines():
        table: dict[str, Any] = msgspec.json.decode(line)
        if table["t"] > ended_s:
            break
        for row in table["sockets"]:
            if row["local"] == local:
                last = row["timer"] if row["probes"] or row["retransmits"] else None
    return last


def _watches_elsewhere(stage: Stage, streams: Sequence[access_log.Row], since_s: float, until_s: float) -> int:
    """By the gateway's own word, which it gives of every apiserver, embedded or real."""
    victim = stage.apiservers[VICTIM]
    served_by_victim = f"{victim.address}:{victim.port}"
    return sum(
        row.status == HTTPStatus.OK and row.server != served_by_victim and since_s < row.start_s <= until_s
        for row in streams
    )


def realtime_ahead_s() -> float:
    """CLOCK_REALTIME less CLOCK_MONOTONIC, now."""
    return time.time() - monotonic_s()
