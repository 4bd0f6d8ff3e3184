"""What a table says of an object, from the object alone.

kubectl asks the server to print (``as=Table``); a watch of ours holds whole objects, for ``-o json`` and the cache, so
the columns of what is watched most are made here by the same rules, and all else has NAME and AGE. The rules are those
of kubernetes/pkg/printers/internalversion/printers.go (1.36) and apimachinery's ``duration.HumanDuration``.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

Body = Mapping[str, Any]
Columns = tuple[tuple[str, ...], Callable[[Body, datetime], tuple[str, ...]]]
"""Headings, and what stands below them for an object at a time."""

UNKNOWN = "<unknown>"
MINUTE_S, HOUR_S, DAY_S, YEAR_DAYS = 60, 3600, 86400, 365


def columns_of(group: str, kind: str) -> Columns:
    """The columns between NAME and the end of the line, AGE included."""
    return OF_KIND.get((group, kind), (("AGE",), _age_alone))


def human_duration(seconds: float) -> str:
    """``90s``, ``5m30s``, ``3h12m``, ``2d4h``, ``400d``, ``3y20d``: the longer, the coarser."""
    s = int(seconds)
    if s < -1:
        return "<invalid>"
    s = max(0, s)
    if s < 2 * MINUTE_S:
        return f"{s}s"
    if s < 10 * MINUTE_S:
        return _two(s // MINUTE_S, "m", s % MINUTE_S, "s")
    if s < 3 * HOUR_S:
        return f"{s // MINUTE_S}m"
    if s < 8 * HOUR_S:
        return _two(s // HOUR_S, "h", s // MINUTE_S % 60, "m")
    hours, days = s // HOUR_S, s // DAY_S
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * YEAR_DAYS:
        return f"{days}d"
    if days < 8 * YEAR_DAYS:
        return _two(days // YEAR_DAYS, "y", days % YEAR_DAYS, "d")
    return f"{days // YEAR_DAYS}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def age(body: Body, now: datetime) -> str:
    """Since ``metadata.creationTimestamp``."""
    return _since(body.get("metadata", {}).get("creationTimestamp"), now)


def _since(stamp: str | None, now: datetime) -> str:
    try:
        return human_duration((now - datetime.fromisoformat(stamp or "")).total_seconds())
    except (ValueError, TypeError):
        return UNKNOWN


def _age_alone(body: Body, now: datetime) -> tuple[str, ...]:
    return (age(body, now),)


def _deployment(body: Body, now: datetime) -> tuple[str, ...]:
    spec, status = body.get("spec", {}), body.get("status", {})
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}"
    return ready, str(status.get("updatedReplicas", 0)), str(status.get("availableReplicas", 0)), age(body, now)


def _pod(body: Body, now: datetime) -> tuple[str, ...]:
    spec, status = body.get("spec", {}), body.get("status", {})
    sidecars = {one.get("name") for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"}
    initial, regular = status.get("initContainerStatuses") or (), status.get("containerStatuses") or ()
    reason, started_sidecars, initializing = _initial(initial, sidecars, len(spec.get("initContainers") or ()))
    total = len(spec.get("containers") or ()) + len(sidecars)
    ready = started_sidecars
    counted = list(initial)
    if not initializing or _condition(status, "Initialized"):
        reason, running = _regular(regular, reason or _phase(status))
        ready += running
        counted = [one for one in initial if one.get("name") in sidecars] + list(regular)
        if reason == "Completed" and running:
            reason = "Running" if _condition(status, "Ready") else "NotReady"
    if body.get("metadata", {}).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return f"{ready}/{total}", reason, _restarts(counted, now), age(body, now)


def _phase(status: Body) -> str:
    gated = any(
        one.get("type") == "PodScheduled" and one.get("reason") == "SchedulingGated"
        for one in status.get("conditions") or ()
    )
    return "SchedulingGated" if gated else status.get("reason") or status.get("phase") or ""


def _initial(statuses: Iterable[Body], sidecars: set[Any], count: int) -> tuple[str, int, bool]:
    """The reason that init containers give for the pod's state, how many sidecars are ready, whether one still runs."""
    ready = 0
    for number, one in enumerate(statuses):
        state = one.get("state", {})
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated and not terminated.get("exitCode"):
            continue
        if one.get("name") in sidecars and one.get("started"):
            ready += bool(one.get("ready"))
            continue
        if terminated:
            return f"Init:{_ended(terminated)}", ready, True
        if waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}", ready, True
        return f"Init:{number}/{count}", ready, True
    return "", ready, False


def _regular(statuses: Iterable[Body], reason: str) -> tuple[str, int]:
    """The pod's state by its containers, and how many are ready."""
    ready = 0
    for one in reversed(list(statuses)):
        state = one.get("state", {})
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated"):
            reason = _ended(state["terminated"])
        elif one.get("ready") and state.get("running") is not None:
            ready += 1
    return reason, ready


def _ended(terminated: Body) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    return f"Signal:{terminated['signal']}" if terminated.get("signal") else f"ExitCode:{terminated.get('exitCode', 0)}"


def _restarts(statuses: Iterable[Body], now: datetime) -> str:
    statuses = list(statuses)
    count = sum(one.get("restartCount", 0) for one in statuses)
    ends = [(one.get("lastState", {}).get("terminated") or {}).get("finishedAt") for one in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({_since(last, now)} ago)" if count and last else str(count)


def _condition(status: Body, kind: str) -> bool:
    return any(one.get("type") == kind and one.get("status") == "True" for one in status.get("conditions") or ())


OF_KIND: dict[tuple[str, str], Columns] = {
    ("", "Pod"): (("READY", "STATUS", "RESTARTS", "AGE"), _pod),
    ("apps", "Deployment"): (("READY", "UP-TO-DATE", "AVAILABLE", "AGE"), _deployment),
}
