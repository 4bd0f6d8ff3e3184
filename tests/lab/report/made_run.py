"""A run as the lab would leave it, made up: three cells with their evidence, for the report's tests."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

START = 1000.0
FAULT = 6.0
GATEWAY, DEAD, ALIVE = "198.18.2.2", "198.18.3.2", "198.18.4.2"
END = 40.0
CLIENTS = ("kubectl", "reflector", "client-go")
Line = dict[str, Any]


def make(folder: Path, real_time: bool = False) -> dict[str, Any]:
    """Write the evidence and give the ``result.json``."""
    cells: list[Line] = []
    end = 900.0 if real_time else END
    for cell_id, cure, bound_s, blind_s, ended_by in (
        ("a-no-cure", "none", None, None, None),
        ("c-tcp-keepalive", "tcpKeepalive", 5.8, 4.6, "stream-reset"),
        ("b-stream-idle-timeout", "stream_idle_timeout", 5.2, 7.1, "stream-reset"),
    ):
        cell = folder / cell_id
        cell.mkdir(parents=True)
        lines = sorted(timeline(cell_id, blind_s, end), key=lambda line: line["t"])
        dump(cell / "timeline.jsonl", lines)
        dump(cell / "sockets.jsonl", sockets(cure, blind_s, end))
        for name in ("client-leg.pcapng", "server-leg.pcapng", "envoy.log"):
            (cell / name).write_text("made up")
        for number, client in enumerate(CLIENTS):
            blind = None if blind_s is None else round(blind_s + number * 0.3, 2)
            failed = cell_id.startswith("b")
            cells.append(
                {
                    "id": f"{cell_id}/{client}",
                    "cure": cure,
                    "fault": "drop",
                    "client": client,
                    "blind_s": blind,
                    "observed_for_s": end - FAULT,
                    "bound_s": bound_s,
                    "lost": 0,
                    "duplicated": 0,
                    "relists": 0 if blind is None else 1,
                    "exec_survived": not failed,
                    "client_port_changed": False,
                    "ended_by": ended_by,
                    "verdict": "fail" if failed else "unknown" if client == "client-go" else "pass",
                    "reason": "blind for 7.1 s, over the bound of 5.2 s <by 1.9 s>" if failed else "as predicted",
                    "evidence": cell_id,
                }
            )
    return {
        "scenario": "incident",
        "started": "2026-11-23T02:41:00+00:00",
        "versions": {"unblink": "0.1.0", "envoy": "1.40.0", "kubectl": "1.36.2", "linux": "6.18"},
        "mode": "namespaces",
        "cells": cells,
    }


def dump(path: Path, lines: Iterator[Line] | list[Line]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def step(t: float, who: str, event: str, **fields: Any) -> Line:
    return {"t": round(t, 6), "who": who, "event": event, **fields}


def timeline(cell_id: str, blind_s: float | None, end: float) -> Iterator[Line]:
    chance = random.Random(7)
    yield step(0, "lab", "start", monotonic_s=START)
    for name in ("store", "apiserver-1", "apiserver-2", "gateway"):
        yield step(0.4 + chance.random(), name, "ready")
    yield step(FAULT, "fault", "on", fault="drop", target="apiserver-1", address=DEAD)
    yield step(FAULT + 1.2, "fault", "proof", proven=True, evidence="3 packets came to the router and none left it")
    yield step(end - 0.4, "fault", "off")
    writes = [3 + number * 0.5 for number in range(int((end - 3.5) / 0.5))]
    for number, t in enumerate(writes):
        yield step(t, "writer", "written", rv=str(100 + number), sent_t=START + t - 0.004)
    for number, client in enumerate(CLIENTS):
        back = None if blind_s is None else FAULT + blind_s + number * 0.3
        yield step(2.1 + number * 0.2, client, "list", rv="99", items=1, reason="initial")
        yield step(2.2 + number * 0.2, client, "watch", rv="99", timeout_s=400)
        for write, t in enumerate(writes):
            if t < FAULT or (back is not None and t >= back):
                yield step(t + 0.006, client, "object", type="MODIFIED", rv=str(100 + write), source="watch")
        for age in range(int(end) - 3):
            yield step(3.0 + age, client, "alive", watch_age_s=age)
        yield step(FAULT - 0.494, "judge", "last-event", client=client, rv="105")
        if back is not None:
            yield step(back - 0.35, "judge", "detector", client=client, detector="tcp_keepalive")
            yield step(back - 0.3, client, "ended", by="stream-reset", detail="INTERNAL_ERROR")
            yield step(back - 0.15, client, "list", rv="120", items=1, reason="relist")
            yield step(back - 0.1, client, "watch", rv="120", timeout_s=420)
            yield step(back, "judge", "first-event-after", client=client, rv="121")
    yield step(2.5, "exec", "opened")
    yield step(2.6, "exec", "echo", ok=True, seconds=0.01)
    if cell_id.startswith("b"):
        yield step(8.6, "exec", "closed", by="gateway", detail="stream idle timeout")
    else:
        yield step(end - 0.6, "exec", "echo", ok=True, seconds=0.01)
    watch_path = "/api/v1/namespaces/lab/configmaps?watch=true"
    yield step(
        2.3, "gateway", "request-started", path=watch_path, client="198.18.1.2:40001", server_leg=f"{GATEWAY}:50001"
    )
    yield step(2.5, "gateway", "request-started", path="/api/v1/namespaces/lab/pods/p/exec", client="198.18.1.2:40009")


def sockets(cure: str, blind_s: float | None, end: float) -> Iterator[Line]:
    t = 0.5
    while t < end:
        after = t - FAULT
        gone = blind_s is not None and after > blind_s - 0.3
        old: Line = {"local": f"{GATEWAY}:50001", "remote": f"{DEAD}:6443", "state": "established", "unacked": 0}
        old["timer"] = "keepalive" if cure == "tcpKeepalive" else "off"
        if cure == "stream_idle_timeout" and after > 1:
            old |= {"timer": "retransmit", "unacked": min(5, int(after))}
        busy: Line = {**old, "local": f"{GATEWAY}:50002", "timer": "off", "unacked": 0}
        if after > 0:
            busy |= {"timer": "retransmit", "unacked": 3}
        other: Line = {**old, "local": f"{GATEWAY}:50003", "remote": f"{ALIVE}:6443", "timer": "off", "unacked": 0}
        yield {"t": START + t, "host": "gateway", "sockets": [busy, other] + ([] if gone else [old])}
        client: Line = {**other, "local": "198.18.1.2:40001", "remote": f"{GATEWAY}:443", "timer": "keepalive"}
        session: Line = {**client, "local": "198.18.1.2:40009", "timer": "off"}
        closed = cure == "stream_idle_timeout" and t > 8.6
        yield {"t": START + t, "host": "client", "sockets": [client] + ([] if closed else [session])}
        t += 0.25
