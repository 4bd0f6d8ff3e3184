"""metadata.managedFields and server-side apply, on objects without a schema.

https://kubernetes.io/docs/reference/using-api/server-side-apply/. Differences: lists are atomic, and which maps own a
"." of their own is known by name (labels, data, ...) instead of from a schema.
"""

from collections.abc import Mapping
from typing import Any

from unblink.lab.apiserver import statuses

Path = tuple[str, ...]
Object = dict[str, Any]
Entry = dict[str, Any]

_MAPS = frozenset({"labels", "annotations", "data", "binaryData", "nodeSelector"})
_NOT_OWNED = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "managedFields"}
)
_SELF = "."


def leaves(thing: Mapping[str, Any]) -> dict[Path, Any]:
    """Every field that can be owned, with its value; a map's own presence is the path ending in "."."""
    found: dict[Path, Any] = {}
    for key, value in thing.items():
        if key == "metadata":
            _collect({name: part for name, part in value.items() if name not in _NOT_OWNED}, (key,), found)
        elif key not in ("kind", "apiVersion"):
            _collect(value, (key,), found)
    return found


def _collect(value: Any, path: Path, found: dict[Path, Any]) -> None:
    if not isinstance(value, dict) or (not value and path != ("metadata",)):
        found[path] = value
        return
    if path[-1] in _MAPS:
        found[(*path, _SELF)] = True
    for key, part in value.items():
        _collect(part, (*path, key), found)


def to_fields_v1(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for part in path:
            node = node.setdefault(part if part == _SELF else f"f:{part}", {})
    return tree


def from_fields_v1(tree: Mapping[str, Any]) -> set[Path]:
    paths: set[Path] = set()

    def walk(node: Mapping[str, Any], path: Path) -> None:
        for key, below in node.items():
            here = (*path, key.removeprefix("f:"))
            if below:
                walk(below, here)
            else:
                paths.add(here)

    walk(tree, ())
    return paths


def after_update(old: Object | None, new: Object, manager: str, time: str, subresource: str = "") -> list[Entry]:
    """managedFields of ``new`` once ``manager`` has written it over ``old`` (None: created it)."""
    before, after = leaves(old or {}), leaves(new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    removed = set(before) - set(after)
    if old is not None and not changed and not removed:
        return list(old["metadata"].get("managedFields") or [])
    mine = _entry(manager, "Update", new["apiVersion"], time, subresource)
    owned = set(changed)
    others: list[Entry] = []
    for entry in (old or new)["metadata"].get("managedFields") or []:
        paths = from_fields_v1(entry["fieldsV1"]) - removed
        if _same(entry, mine):
            owned |= paths
        else:
            others += _with_paths(entry, paths - changed)
    return others + _with_paths(mine, owned)


def apply(live: Object | None, wanted: Object, manager: str, time: str, *, force: bool) -> Object:
    """The object after ``manager`` applied ``wanted`` over ``live``.

    :raises statuses.ApiError: 409, fields of other managers would change and ``force`` is off.
    """
    wanted_leaves, live_leaves = leaves(wanted), leaves(live or {})
    mine = _entry(manager, "Apply", wanted["apiVersion"], time, "")
    others: list[Entry] = []
    conflicts: list[tuple[str, str]] = []
    dropped: set[Path] = set()
    held_by_others: set[Path] = set()
    taken = {path for path, value in wanted_leaves.items() if path in live_leaves and live_leaves[path] != value}
    for entry in (live or {"metadata": {}})["metadata"].get("managedFields") or []:
        paths = from_fields_v1(entry["fieldsV1"])
        if _same(entry, mine):
            dropped = paths - set(wanted_leaves)
            continue
        who = f'"{entry["manager"]}" using {entry["apiVersion"]}'
        conflicts += [(who, "." + ".".join(path)) for path in sorted(paths & taken)]
        held_by_others |= paths
        others += _with_paths(entry, paths - taken)
    if conflicts and not force:
        raise statuses.apply_conflict(conflicts)
    kept = dict(live or {})
    for path in sorted(dropped - held_by_others, reverse=True):
        _remove(kept, path)
    result = _merged(kept, wanted)
    entries = others + _with_paths(mine, set(wanted_leaves))
    result["metadata"] = {**result["metadata"], "managedFields": entries}
    return result


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Object:
    result = dict(below)
    for key, value in above.items():
        have = result.get(key)
        result[key] = _merged(have, value) if isinstance(have, dict) and isinstance(value, dict) else value
    return result


def _remove(thing: Object, path: Path) -> None:
    """Take one owned field out of ``thing`` and with it the containers that this empties. Copies what it changes."""
    key, *rest = path
    if key == _SELF or key not in thing:
        return
    below = thing[key]
    if rest and isinstance(below, dict):
        below = thing[key] = dict(below)
        _remove(below, tuple(rest))
        if below:
            return
    elif rest:
        return
    del thing[key]


def _entry(manager: str, operation: str, api_version: str, time: str, subresource: str) -> Entry:
    entry = {"manager": manager, "operation": operation, "apiVersion": api_version, "time": time}
    return entry | ({"subresource": subresource} if subresource else {})


def _same(one: Entry, other: Entry) -> bool:
    names = ("manager", "operation", "apiVersion", "subresource")
    return all(one.get(name) == other.get(name) for name in names)


def _with_paths(entry: Entry, paths: set[Path]) -> list[Entry]:
    if not paths:
        return []
    head = {name: entry[name] for name in ("manager", "operation", "apiVersion", "time")}
    tail = {"subresource": entry["subresource"]} if "subresource" in entry else {}
    return [{**head, "fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(paths), **tail}]
