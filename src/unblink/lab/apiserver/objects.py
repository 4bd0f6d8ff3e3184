"""Writes: create, update, the patches, delete. Objects are dicts; what is read from the storage is never changed."""

import random
import re
import uuid
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from unblink.lab.apiserver import managedfields, patches, protobuf, statuses
from unblink.lab.apiserver.cache import Stored, encode
from unblink.lab.apiserver.media import PROTOBUF
from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.storage import Changed, Storage

Object = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY = ("application/apply-patch+yaml", "application/apply-patch+json")
CONTENT_TYPES = ("application/json", "application/yaml", PROTOBUF, "")

PATCH_ATTEMPTS = 5  # a patch without a resourceVersion is tried again when another writer was quicker
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # k8s.io/apimachinery rand.String
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_METADATA_ORDER = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "labels",
    "annotations",
)


@dataclass(frozen=True)
class Writer:
    """Who writes: the field manager, and whether the request is a dry run."""

    manager: str
    dry_run: bool = False


def parse(body: bytes, content_type: str, kind: str) -> Object:
    """The object in a request's body. :raises statuses.ApiError: 400, 415."""
    if content_type not in (*CONTENT_TYPES, *APPLY):
        raise statuses.unsupported_media_type()
    try:
        thing = _decoded(body, content_type)
    except ValueError as error:
        why = "unexpected end of JSON input" if not body else str(error)
        text = body[:100].decode(errors="replace") or "<empty>"
        raise statuses.bad_request(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse"
            f" error: {why} ({text})"
        ) from error
    if not isinstance(thing, dict) or not isinstance(thing.setdefault("metadata", {}), dict):
        raise statuses.bad_request(f"the object provided is unrecognized (must be of type {kind})")
    return thing


def _decoded(body: bytes, content_type: str) -> Any:
    """:raises ValueError: it does not decode. :raises statuses.ApiError: 415, a type not known in protobuf."""
    if content_type == PROTOBUF:
        thing = protobuf.decode(body)
        if thing is None:
            raise statuses.unsupported_media_type()
        return thing
    return _yaml(body) if content_type.endswith("yaml") else msgspec.json.decode(body)


def _yaml(body: bytes) -> Any:
    if body.lstrip().startswith(b"{"):  # JSON is YAML, and what clients mostly send; no need for the slow parser
        return msgspec.json.decode(body)
    import yaml  # noqa: PLC0415  # start-up must be light, and only hand-written requests get here

    try:
        return yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


async def create(storage: Storage, resource: Resource, namespace: str, thing: Object, writer: Writer) -> Stored:
    """:raises statuses.ApiError: 400, 404 (no such namespace), 409, 422."""
    _check_type(resource, thing)
    metadata = dict(thing["metadata"])
    if metadata.get("resourceVersion"):
        raise statuses.failure(500, "resourceVersion should not be set on objects to be created")
    if resource.namespaced:
        if metadata.get("namespace", namespace) != namespace:
            raise statuses.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        metadata["namespace"] = namespace
        await check_namespace(storage, namespace)
    else:
        metadata.pop("namespace", None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"] + "".join(random.choices(_NAME_LETTERS, k=5))  # noqa: S311
    _check_name(resource, metadata.get("name", ""))
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = _now()
    metadata.pop("managedFields", None)
    if resource.counts_generations:
        metadata["generation"] = 1
    thing = _shaped(resource, {**thing, "metadata": metadata})
    if resource.plural == "pods":
        thing["status"] = {"phase": "Pending"}
    return await _create(storage, resource, thing, writer)


async def _create(storage: Storage, resource: Resource, thing: Object, writer: Writer) -> Stored:
    if "managedFields" not in thing["metadata"]:
        entries = managedfields.after_update(None, thing, writer.manager, _now())
        thing["metadata"] = _ordered({**thing["metadata"], "managedFields": entries})
    if writer.dry_run:
        return Stored("", 0, thing, encode(thing))
    return await storage.create(resource, thing)


async def update(
    storage: Storage, resource: Resource, namespace: str, name: str, subresource: str, thing: Object, writer: Writer
) -> Stored:
    """Replace an object. :raises statuses.ApiError: 400, 404, 409."""
    _check_type(resource, thing)
    metadata = thing["metadata"]
    if metadata.setdefault("name", name) != name:
        raise statuses.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
        )
    held = await storage.get(resource, namespace, name)
    _check_preconditions(resource, held, metadata)
    return await _swap(storage, resource, held, thing, subresource, writer)


async def patch(
    storage: Storage,
    resource: Resource,
    namespace: str,
    name: str,
    subresource: str,
    content_type: str,
    body: bytes,
    writer: Writer,
) -> Stored:
    """The patch types but apply. :raises statuses.ApiError: 400, 404, 409, 415."""
    if content_type not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH) or (
        content_type == STRATEGIC_PATCH and resource.custom
    ):
        raise statuses.unsupported_media_type()
    try:
        change = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise statuses.bad_request(f"error decoding patch: {error}") from error
    for _ in range(PATCH_ATTEMPTS):
        held = await storage.get(resource, namespace, name)
        thing = _patched(held.data, content_type, change)
        if not isinstance(thing, dict) or not isinstance(thing.get("metadata"), dict):
            raise statuses.bad_request("the patch does not leave an object")
        _check_preconditions(resource, held, thing["metadata"])
        try:
            return await _swap_once(storage, resource, held, thing, subresource, writer)
        except Changed:
            continue
    raise statuses.conflict(resource.group, resource.plural, name)


def _patched(held: Object, content_type: str, change: Any) -> Any:
    try:
        match content_type:
            case patches_type if patches_type == JSON_PATCH:
                return patches.json_patch(held, change)
            case patches_type if patches_type == MERGE_PATCH:
                return patches.merge(held, change)
        return patches.strategic_merge(held, change)
    except patches.PatchError as error:
        raise statuses.bad_request(str(error)) from error


async def apply(
    storage: Storage, resource: Resource, namespace: str, name: str, thing: Object, writer: Writer, *, force: bool
) -> tuple[Stored, bool]:
    """Server-side apply; True beside the object: it was created. :raises statuses.ApiError: 400, 404, 409, 422."""
    _check_type(resource, thing)
    thing["metadata"] = {**thing["metadata"], "name": name}
    if resource.namespaced:
        thing["metadata"]["namespace"] = namespace
    for _ in range(PATCH_ATTEMPTS):
        try:
            held: Stored | None = await storage.get(resource, namespace, name)
        except statuses.ApiError as error:
            if error.code != 404:
                raise
            held = None
        if held is None:
            created = managedfields.apply(None, thing, writer.manager, _now(), force=force)
            entries = created["metadata"].pop("managedFields")
            stored = await _apply_new(storage, resource, namespace, created, entries, writer)
            if stored:
                return stored, True
            continue
        merged = managedfields.apply(held.data, thing, writer.manager, _now(), force=force)
        _check_preconditions(resource, held, merged["metadata"])
        try:
            return await _swap_once(storage, resource, held, merged, "", writer, managed=True), False
        except Changed:
            continue
    raise statuses.conflict(resource.group, resource.plural, name)


async def _apply_new(
    storage: Storage, resource: Resource, namespace: str, thing: Object, entries: list[Any], writer: Writer
) -> Stored | None:
    """None: somebody else has created it meanwhile."""
    if resource.namespaced:
        await check_namespace(storage, namespace)
    _check_name(resource, thing["metadata"]["name"])
    metadata = {**thing["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
    if resource.counts_generations:
        metadata["generation"] = 1
    thing = _shaped(resource, {**thing, "metadata": metadata})
    thing["metadata"] = _ordered({**thing["metadata"], "managedFields": entries})
    try:
        return await _create(storage, resource, thing, writer)
    except statuses.ApiError as error:
        if error.code != 409:
            raise
        return None


async def delete(storage: Storage, resource: Resource, namespace: str, name: str, options: Object) -> Stored:
    """Remove an object; finalizers and grace periods are not waited for. A namespace goes with all that is in it.

    :raises statuses.ApiError: 404, 409 (a precondition of ``options`` does not hold).
    """
    held: Stored | None = await storage.get(resource, namespace, name)
    while held is not None:
        _check_delete_preconditions(resource, held, options.get("preconditions") or {})
        if options.get("dryRun"):
            return held
        if resource.plural == "namespaces" and not resource.group:
            await _empty_namespace(storage, name)
        try:
            return await storage.remove(held)
        except Changed as error:
            held = error.now
    raise statuses.not_found(resource.group, resource.plural, name)


async def _empty_namespace(storage: Storage, namespace: str) -> None:
    await storage.consistent()
    for held in storage.cache.under("/registry/"):
        if held.data["metadata"].get("namespace") == namespace:
            await remove_as_is(storage, held)


async def remove_as_is(storage: Storage, held: Stored) -> None:
    """Remove what ``held`` is by now; being gone already is well."""
    now: Stored | None = held
    while now is not None:
        try:
            await storage.remove(now)
        except Changed as error:
            now = error.now
        else:
            return


async def check_namespace(storage: Storage, namespace: str) -> None:
    """:raises statuses.ApiError: 404, there is no such namespace."""
    key = f"/registry/namespaces/{namespace}"
    if storage.cache.get(key) is None:
        await storage.consistent()
        if storage.cache.get(key) is None:
            raise statuses.not_found("", "namespaces", namespace)


async def _swap(
    storage: Storage, resource: Resource, held: Stored, thing: Object, subresource: str, writer: Writer
) -> Stored:
    """As ``_swap_once``; an update without a resourceVersion writes over whatever there is by then."""
    now: Stored | None = held
    while now is not None:
        try:
            return await _swap_once(storage, resource, now, thing, subresource, writer)
        except Changed as error:
            if thing["metadata"].get("resourceVersion"):
                raise statuses.conflict(resource.group, resource.plural, thing["metadata"]["name"]) from error
            now = error.now
    raise statuses.not_found(resource.group, resource.plural, thing["metadata"]["name"])


async def _swap_once(
    storage: Storage,
    resource: Resource,
    held: Stored,
    thing: Object,
    subresource: str,
    writer: Writer,
    *,
    managed: bool = False,
) -> Stored:
    """:raises Changed: ``held`` is not the newest state."""
    old = held.data
    if resource.has_status:
        source = {**old, "metadata": thing["metadata"]} if subresource == "status" else thing
        status = (thing if subresource == "status" else old).get("status")
        thing = {name: value for name, value in source.items() if name != "status"}
        if status is not None:
            thing["status"] = status
    metadata = dict(thing["metadata"])
    for name in ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"):
        if name in old["metadata"]:
            metadata[name] = old["metadata"][name]
    thing = _shaped(resource, {**thing, "metadata": metadata})
    metadata = thing["metadata"]
    if managed:
        entries = metadata.get("managedFields") or []
        unchanged = _without_times(thing) == _without_times(old)
    else:
        entries = managedfields.after_update(old, thing, writer.manager, _now(), subresource)
        unchanged = {**thing, "metadata": {**metadata, "managedFields": None}} == {
            **old,
            "metadata": {**old["metadata"], "managedFields": None},
        }
    if unchanged:
        return held
    if resource.counts_generations and _spec_of(thing) != _spec_of(old):
        metadata["generation"] = old["metadata"].get("generation", 1) + 1
    thing["metadata"] = _ordered({**metadata, "managedFields": entries})
    if writer.dry_run:
        return Stored.of(held.key, thing, held.revision)
    return await storage.replace(held, thing)


def _without_times(thing: Object) -> Object:
    entries = [{**entry, "time": None} for entry in thing["metadata"].get("managedFields") or []]
    return {**thing, "metadata": {**thing["metadata"], "managedFields": entries}}


def _spec_of(thing: Object) -> Object:
    return {name: value for name, value in thing.items() if name not in ("metadata", "status")}


def _shaped(resource: Resource, thing: Object) -> Object:
    """Type first, metadata in the usual order, and for built-in kinds what their Go types would make of it.

    :raises statuses.ApiError: 400, something that has to be text is not.
    """
    _check_texts(resource, thing)
    shaped: Object = {"kind": resource.kind, "apiVersion": resource.api_version}
    metadata = {name: value for name, value in thing["metadata"].items() if value not in (None, {}, [], "")}
    shaped["metadata"] = _ordered(metadata)
    for name, value in thing.items():
        if name not in shaped and (resource.custom or value not in (None, {})):
            shaped[name] = value
    if resource.group:
        return shaped
    match resource.plural:
        case "secrets":
            encoded = {k: b64encode(v.encode()).decode() for k, v in (shaped.pop("stringData", None) or {}).items()}
            if encoded:
                shaped["data"] = {**shaped.get("data", {}), **encoded}
            shaped.setdefault("type", "Opaque")
        case "namespaces":
            name = metadata["name"]
            metadata = {**metadata, "labels": {**metadata.get("labels", {}), "kubernetes.io/metadata.name": name}}
            shaped["metadata"] = _ordered(metadata)
            shaped.setdefault("spec", {"finalizers": ["kubernetes"]})
            shaped.setdefault("status", {"phase": "Active"})
    return shaped


def _ordered(metadata: Object) -> Object:
    ordered = {name: metadata[name] for name in _METADATA_ORDER if name in metadata}
    for name, value in metadata.items():
        if name != "managedFields":
            ordered.setdefault(name, value)
    if metadata.get("managedFields"):
        ordered["managedFields"] = metadata["managedFields"]
    return ordered


def _check_type(resource: Resource, thing: Object) -> None:
    kind, api_version = thing.get("kind", resource.kind), thing.get("apiVersion", resource.api_version)
    if kind != resource.kind:
        raise statuses.bad_request(
            f'{kind} in version "{api_version}" cannot be handled as a {resource.kind}: converting ({kind}) to'
            f" ({resource.kind}): unknown conversion"
        )
    if api_version != resource.api_version:
        raise statuses.bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version"
            f" ({resource.api_version})"
        )


_TEXTS = {"configmaps": ("data", "binaryData"), "secrets": ("data", "stringData")}


def _check_texts(resource: Resource, thing: Object) -> None:
    """Labels, annotations and data are maps of strings. :raises statuses.ApiError: 400, as Go's decoder says it."""
    maps = [(f"metadata.{name}", thing["metadata"].get(name)) for name in ("labels", "annotations")]
    maps += [(name, thing.get(name)) for name in (_TEXTS.get(resource.plural, ()) if not resource.group else ())]
    for path, value in maps:
        if value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values())):
            continue
        raise statuses.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot'
            f" unmarshal into Go struct field {resource.kind}.{path} of type string"
        )


def _check_name(resource: Resource, name: str) -> None:
    if not name:
        message = "Required value: name or generateName is required"
        raise statuses.invalid(resource.group, resource.kind, "", "metadata.name", message, "FieldValueRequired")
    if len(name) > 253 or not _NAME.fullmatch(name):
        message = (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric'
            " characters, '-' or '.', and must start and end with an alphanumeric character"
        )
        raise statuses.invalid(resource.group, resource.kind, name, "metadata.name", message, "FieldValueInvalid")


def _check_preconditions(resource: Resource, held: Stored, metadata: Object) -> None:
    """An update's uid and resourceVersion, where it has any, are those of ``held``."""
    name = held.data["metadata"]["name"]
    if metadata.get("uid") not in (None, "", held.data["metadata"]["uid"]):
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
        raise statuses.conflict(resource.group, resource.plural, name, why + held.data["metadata"]["uid"])
    if metadata.get("resourceVersion") not in (None, "", str(held.revision)):
        raise statuses.conflict(resource.group, resource.plural, name)


def _check_delete_preconditions(resource: Resource, held: Stored, wanted: Object) -> None:
    have = held.data["metadata"]
    for field, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(field) not in (None, have[field]):
            why = f"Precondition failed: {word} in precondition: {wanted[field]}, {word} in object meta: {have[field]}"
            raise statuses.conflict(resource.group, resource.plural, have["name"], why)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
