"""Table output, what ``kubectl get`` prints: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables

Columns and their descriptions are the recorded server's where it was recorded (configmaps).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.selectors import field

_Object = dict[str, Any]

_NAME = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a"
    " client to request the generation of an appropriate name automatically. Name is primarily intended for creation"
    " idempotence and configuration definition. Cannot be updated. More info:"
    " https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
_AGE = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed"
    " to be set in happens-before order across separate operations. Clients may not set this value. It is represented"
    " in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info:"
    " https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)
_DATA = (
    "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values"
    " with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the"
    " keys in the BinaryData field, this is enforced during validation process."
)


@dataclass(frozen=True)
class Column:
    name: str
    description: str
    cell: Callable[[_Object], Any]
    type: str = "string"
    format: str = ""

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": 0,
        }


def _at(path: str) -> Callable[[_Object], str]:
    return lambda thing: field(thing, path)


def _age_since(path: str) -> Callable[[_Object], str]:
    return lambda thing: age(field(thing, path))


def _data(thing: _Object) -> int:
    return len(thing.get("data") or {}) + len(thing.get("binaryData") or {})


def _ready(thing: _Object) -> str:
    statuses = thing.get("status", {}).get("containerStatuses") or []
    return f"{sum(1 for s in statuses if s.get('ready'))}/{len(thing.get('spec', {}).get('containers') or [])}"


def _restarts(thing: _Object) -> str:
    statuses = thing.get("status", {}).get("containerStatuses") or []
    return str(sum(s.get("restartCount", 0) for s in statuses))


def _involved(thing: _Object) -> str:
    return f"{field(thing, 'involvedObject.kind').lower()}/{field(thing, 'involvedObject.name')}"


_FIRST = Column("Name", _NAME, _at("metadata.name"), format="name")
_LAST = Column("Age", _AGE, _age_since("metadata.creationTimestamp"))

_BETWEEN: dict[str, tuple[Column, ...]] = {
    "configmaps": (Column("Data", _DATA, _data),),
    "secrets": (
        Column("Type", "Used to facilitate programmatic handling of secret data.", _at("type")),
        Column("Data", "Data contains the secret data.", _data),
    ),
    "namespaces": (Column("Status", "The status of the namespace", _at("status.phase")),),
    "pods": (
        Column("Ready", "The aggregate readiness state of this pod for accepting traffic.", _ready),
        Column("Status", "The aggregate status of the containers in this pod.", _at("status.phase")),
        Column("Restarts", "The number of times the containers in this pod have been restarted.", _restarts),
    ),
    "leases": (Column("Holder", "The identity of the holder of a current lease.", _at("spec.holderIdentity")),),
}
_WHOLE: dict[str, tuple[Column, ...]] = {
    "events": (
        Column("Last Seen", "The time at which this event was last seen.", _age_since("lastTimestamp")),
        Column("Type", "Type of this event (Normal, Warning).", _at("type")),
        Column("Reason", "The reason for the transition into the object's current status.", _at("reason")),
        Column("Object", "The object that this event is about.", _involved),
        Column("Message", "A human-readable description of this event.", _at("message")),
    ),
}


def columns(resource: Resource) -> tuple[Column, ...]:
    if resource.custom:
        return _FIRST, _LAST
    return _WHOLE.get(resource.plural) or (_FIRST, *_BETWEEN.get(resource.plural, ()), _LAST)


def table(
    resource: Resource,
    objects: Iterable[_Object],
    metadata: dict[str, Any],
    *,
    include: str = "Metadata",
    definitions: bool = True,
) -> _Object:
    """A meta.k8s.io/v1 Table. ``include``: the request's includeObject, "None", "Metadata" or "Object"."""
    wanted = columns(resource)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [column.definition() for column in wanted] if definitions else None,
        "rows": [
            {"cells": [column.cell(thing) for column in wanted], "object": _included(thing, include)}
            for thing in objects
        ],
    }


def partial(thing: _Object) -> _Object:
    """The object's PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}


def _included(thing: _Object, include: str) -> _Object | None:
    match include:
        case "None":
            return None
        case "Object":
            return thing
    return partial(thing)


def age(timestamp: str, now: datetime | None = None) -> str:
    """Time since an RFC 3339 time, as k8s.io/apimachinery duration.HumanDuration prints it."""
    try:
        since = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    seconds = int(((now or datetime.now(UTC)) - since).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"
