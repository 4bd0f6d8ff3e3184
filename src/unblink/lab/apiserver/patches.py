"""Patch types: JSON merge patch (RFC 7396), JSON patch (RFC 6902), strategic merge patch.

Strategic merge: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from typing import Any


class PatchError(ValueError):
    """The patch does not fit the object."""


# Lists that merge by a key, as the Go types' patchMergeKey tags say; lists that are not named here are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "conditions": "type",
    "ownerReferences": "uid",
}
PRIMITIVE_SETS = frozenset({"finalizers"})


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2. Neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: dict[str, Any], operations: Any) -> Any:
    """RFC 6902. :raises PatchError: an operation does not fit."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    import jsonpatch  # noqa: PLC0415  # few requests use it, and start-up must be light

    try:
        return jsonpatch.apply_patch(target, operations)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
        raise PatchError(str(error)) from error


def strategic_merge(target: Any, patch: Any) -> Any:
    """Like ``merge``, but lists of ``MERGE_KEYS`` and ``PRIMITIVE_SETS`` merge, and directives are obeyed.

    :raises PatchError: an element of a merging list has no merge key.
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for key in set(result) - set(patch.get("$retainKeys", result)):
        del result[key]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and key in MERGE_KEYS:
            order = patch.get(f"$setElementOrder/{key}")
            result[key] = _merge_list(result.get(key) or [], value, MERGE_KEYS[key], order)
        elif isinstance(value, list) and key in PRIMITIVE_SETS:
            result[key] = list(dict.fromkeys([*(result.get(key) or []), *value]))
        else:
            result[key] = strategic_merge(result.get(key), value)
    for key, values in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [value for value in result.get(name, []) if value not in values]
    return result


def _merge_list(target: list[Any], patch: list[Any], by: str, order: list[Any] | None) -> list[Any]:
    if {"$patch": "replace"} in patch:
        return [element for element in patch if element != {"$patch": "replace"}]
    merged = {element.get(by): element for element in target}
    for element in patch:
        if not isinstance(element, dict) or by not in element:
            raise PatchError(f"map: {element} does not contain declared merge key: {by}")
        if element.get("$patch") == "delete":
            merged.pop(element[by], None)
        else:
            merged[element[by]] = strategic_merge(merged.get(element[by]), element)
    if not order:
        return list(merged.values())
    rank = {element.get(by): place for place, element in enumerate(order)}
    return sorted(merged.values(), key=lambda element: rank.get(element.get(by), len(rank)))
