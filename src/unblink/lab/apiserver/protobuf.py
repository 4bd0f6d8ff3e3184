"""Kubernetes' protobuf encoding of the types that are small enough to describe here by hand.

Envelope: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl. Field numbers: the
generated.proto files of k8s.io/api and k8s.io/apimachinery 1.36. As gogo-protobuf does for fields that are no pointers,
an absent string is written as an empty one.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from unblink.lab.apiserver.cache import encode as json_encode

MAGIC = b"k8s\0"

_VARINT, _FIXED64, _CHUNK, _FIXED32 = 0, 1, 2, 5


class ProtobufError(ValueError):
    """Bytes that are not a message of the expected type."""


@dataclass(frozen=True)
class Codec:
    """One kind of field: its wire type, JSON value to what follows the tag, and back."""

    wire: int
    encode: Callable[[Any], bytes]
    decode: Callable[[Any], Any]


@dataclass(frozen=True)
class Field:
    """``absent``: what is written for a missing value (None: nothing), and left out when it is read."""

    number: int
    name: str
    codec: Codec
    absent: Any = None
    repeated: bool = False
    pairs: bool = False  # repeated key and value: an object in JSON


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _chunk(number: int, body: bytes) -> bytes:
    return varint(number << 3 | _CHUNK) + varint(len(body)) + body


def _write(fields: tuple[Field, ...], value: Mapping[str, Any]) -> bytes:
    out = bytearray()
    for field in fields:
        have = value.get(field.name, field.absent)
        if have is None:
            continue
        for element in sorted(have.items()) if field.pairs else have if field.repeated else (have,):
            body = field.codec.encode(element)
            chunk = field.codec.wire == _CHUNK
            out += _chunk(field.number, body) if chunk else varint(field.number << 3 | field.codec.wire) + body
    return bytes(out)


def _read(fields: tuple[Field, ...], body: bytes) -> dict[str, Any]:
    by_number = {field.number: field for field in fields}
    found: dict[str, Any] = {}
    for number, wire, raw in _pieces(body):
        field = by_number.get(number)
        if field is None:
            continue
        if wire != field.codec.wire:
            raise ProtobufError(f"field {field.name} has wire type {wire}")
        value = field.codec.decode(raw)
        if field.pairs:
            found.setdefault(field.name, {}).update([value])
        elif field.repeated:
            found.setdefault(field.name, []).append(value)
        elif value != field.absent:
            found[field.name] = value
    return found


def _pieces(body: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _read_varint(body, at)
            yield tag >> 3, wire, value
            continue
        if wire == _CHUNK:
            size, at = _read_varint(body, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {wire} at byte {at}")
        if at + size > len(body):
            raise ProtobufError(f"truncated at byte {at}")
        yield tag >> 3, wire, body[at : at + size]
        at += size


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(body) and shift < 64:
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
        if body[at - 1] < 0x80:
            return value, at
    raise ProtobufError(f"bad varint at byte {at}")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _write_time(value: str) -> bytes:
    if not value:
        return b""
    moment = datetime.fromisoformat(value)
    return _write(_TIME, {"seconds": int(moment.timestamp()), "nanos": moment.microsecond * 1000})


def _read_time(body: bytes, *, micro: bool) -> str:
    parts = _read(_TIME, body)
    if not parts:
        return ""
    try:
        moment = datetime.fromtimestamp(parts.get("seconds", 0), UTC).replace(microsecond=parts.get("nanos", 0) // 1000)
    except (ValueError, OverflowError) as error:
        raise ProtobufError(str(error)) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _read_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(str(error)) from error


def _read_fields_v1(body: bytes) -> Any:
    try:
        return msgspec.json.decode(_read(_RAW, body).get("Raw", b"{}"))
    except msgspec.DecodeError as error:
        raise ProtobufError(str(error)) from error


TEXT = Codec(_CHUNK, str.encode, _read_text)
INT = Codec(_VARINT, varint, _signed)
BOOL = Codec(_VARINT, lambda value: varint(int(value)), bool)
BASE64 = Codec(_CHUNK, b64decode, lambda body: b64encode(body).decode())
TIME = Codec(_CHUNK, _write_time, lambda body: _read_time(body, micro=False))
MICRO_TIME = Codec(_CHUNK, _write_time, lambda body: _read_time(body, micro=True))
FIELDS_V1 = Codec(_CHUNK, lambda value: _chunk(1, json_encode(value)), _read_fields_v1)

_TIME = (Field(1, "seconds", INT, absent=0), Field(2, "nanos", INT, absent=0))
_RAW = (Field(1, "Raw", Codec(_CHUNK, bytes, bytes)),)


def _message(fields: tuple[Field, ...]) -> Codec:
    return Codec(_CHUNK, lambda value: _write(fields, value), lambda body: _read(fields, body))


def _pair(value: Codec) -> Codec:
    fields = (Field(1, "key", TEXT), Field(2, "value", value))

    def read(body: bytes) -> tuple[str, Any]:
        found = _read(fields, body)
        return found.get("key", ""), found.get("value", "")

    return Codec(_CHUNK, lambda pair: _write(fields, {"key": pair[0], "value": pair[1]}), read)


def _string(number: int, name: str) -> Field:
    return Field(number, name, TEXT, absent="")


def _strings(number: int, name: str) -> Field:
    return Field(number, name, TEXT, repeated=True)


def _int(number: int, name: str, *, absent: int | None = 0) -> Field:
    return Field(number, name, INT, absent=absent)


def _bool(number: int, name: str) -> Field:
    return Field(number, name, BOOL)


def _texts_by_key(number: int, name: str) -> Field:
    return Field(number, name, _pair(TEXT), repeated=True, pairs=True)


def _bytes_by_key(number: int, name: str) -> Field:
    return Field(number, name, _pair(BASE64), repeated=True, pairs=True)


_MANAGED_FIELDS = (
    _string(1, "manager"),
    _string(2, "operation"),
    _string(3, "apiVersion"),
    Field(4, "time", TIME),
    _string(6, "fieldsType"),
    Field(7, "fieldsV1", FIELDS_V1),
    _string(8, "subresource"),
)
_OWNER = (
    _string(1, "kind"),
    _string(3, "name"),
    _string(4, "uid"),
    _string(5, "apiVersion"),
    _bool(6, "controller"),
    _bool(7, "blockOwnerDeletion"),
)
_METADATA = (
    _string(1, "name"),
    _string(2, "generateName"),
    _string(3, "namespace"),
    _string(4, "selfLink"),
    _string(5, "uid"),
    _string(6, "resourceVersion"),
    _int(7, "generation"),
    Field(8, "creationTimestamp", TIME, absent=""),
    Field(9, "deletionTimestamp", TIME),
    _int(10, "deletionGracePeriodSeconds", absent=None),
    _texts_by_key(11, "labels"),
    _texts_by_key(12, "annotations"),
    Field(13, "ownerReferences", _message(_OWNER), repeated=True),
    _strings(14, "finalizers"),
    Field(17, "managedFields", _message(_MANAGED_FIELDS), repeated=True),
)
_LIST_METADATA = (
    _string(1, "selfLink"),
    _string(2, "resourceVersion"),
    _string(3, "continue"),
    _int(4, "remainingItemCount", absent=None),
)
_CAUSE = (_string(1, "reason"), _string(2, "message"), _string(3, "field"))
_DETAILS = (
    _string(1, "name"),
    _string(2, "group"),
    _string(3, "kind"),
    Field(4, "causes", _message(_CAUSE), repeated=True),
    _int(5, "retryAfterSeconds"),
    _string(6, "uid"),
)

_OBJECT_META = Field(1, "metadata", _message(_METADATA), absent={})
_TYPES: dict[tuple[str, str], tuple[Field, ...]] = {
    ("v1", "ConfigMap"): (
        _OBJECT_META,
        _texts_by_key(2, "data"),
        _bytes_by_key(3, "binaryData"),
        _bool(4, "immutable"),
    ),
    ("v1", "Secret"): (_OBJECT_META, _bytes_by_key(2, "data"), _string(3, "type"), _bool(5, "immutable")),
    ("v1", "Namespace"): (
        _OBJECT_META,
        Field(2, "spec", _message((_strings(1, "finalizers"),)), absent={}),
        Field(3, "status", _message((_string(1, "phase"),)), absent={}),
    ),
    ("coordination.k8s.io/v1", "Lease"): (
        _OBJECT_META,
        Field(
            2,
            "spec",
            _message(
                (
                    Field(1, "holderIdentity", TEXT),
                    _int(2, "leaseDurationSeconds", absent=None),
                    Field(3, "acquireTime", MICRO_TIME),
                    Field(4, "renewTime", MICRO_TIME),
                    _int(5, "leaseTransitions", absent=None),
                )
            ),
            absent={},
        ),
    ),
    ("v1", "Status"): (
        Field(1, "metadata", _message(_LIST_METADATA), absent={}),
        _string(2, "status"),
        _string(3, "message"),
        _string(4, "reason"),
        Field(5, "details", _message(_DETAILS)),
        _int(6, "code"),
    ),
}
_LISTS = {
    (api_version, f"{kind}List"): (
        Field(1, "metadata", _message(_LIST_METADATA), absent={}),
        Field(2, "items", _message(fields), repeated=True, absent=()),
    )
    for (api_version, kind), fields in _TYPES.items()
}


_PRECONDITIONS = (Field(1, "uid", TEXT), Field(2, "resourceVersion", TEXT))
_READ_ONLY = {
    "DeleteOptions": (
        _int(1, "gracePeriodSeconds", absent=None),
        Field(2, "preconditions", _message(_PRECONDITIONS)),
        _bool(3, "orphanDependents"),
        Field(4, "propagationPolicy", TEXT),
        _strings(5, "dryRun"),
    )
}
_TYPE_META = (_string(1, "apiVersion"), _string(2, "kind"))
_UNKNOWN = (
    Field(1, "typeMeta", _message(_TYPE_META), absent={}),
    Field(2, "raw", Codec(_CHUNK, bytes, bytes), absent=b""),
    _string(3, "contentEncoding"),
    _string(4, "contentType"),
)
_WATCH_EVENT = (_string(1, "type"), Field(2, "object", _message((Field(1, "raw", Codec(_CHUNK, bytes, bytes)),))))


def encodes(api_version: str, kind: str) -> bool:
    return (api_version, kind) in _TYPES


def encode(thing: Mapping[str, Any]) -> bytes:
    """An object, list or Status with its envelope. :raises KeyError: a type that ``encodes`` does not know."""
    kind = (thing["apiVersion"], thing["kind"])
    raw = _write(_TYPES.get(kind) or _LISTS[kind], thing)
    return MAGIC + _write(_UNKNOWN, {"typeMeta": {"apiVersion": kind[0], "kind": kind[1]}, "raw": raw})


def decode(body: bytes) -> dict[str, Any] | None:
    """The object in an envelope, None where its type is none of those here.

    :raises ProtobufError: not an envelope, or what is in it is not of the type that it names.
    """
    if not body.startswith(MAGIC):
        raise ProtobufError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    unknown = _read(_UNKNOWN, body[len(MAGIC) :])
    kind = unknown.get("typeMeta", {})
    fields = _TYPES.get((kind.get("apiVersion"), kind.get("kind"))) or _READ_ONLY.get(kind.get("kind"))
    if fields is None:
        return None
    head = {"kind": kind["kind"], "apiVersion": kind.get("apiVersion", "v1")}
    return head | _read(fields, unknown.get("raw", b""))


def watch_frame(event_type: str, thing: Mapping[str, Any]) -> bytes:
    """A length-prefixed meta.k8s.io WatchEvent."""
    event = _write(_WATCH_EVENT, {"type": event_type, "object": {"raw": encode(thing)}})
    return len(event).to_bytes(4, "big") + event
