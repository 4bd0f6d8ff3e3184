"""Kubernetes' protobuf encoding of the types that are small enough to describe here by hand.

Envelope: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl. Field numbers: the
generated.proto files of k8s.io/api and k8s.io/apimachinery 1.36. As gogo-protobuf does for fields that are no pointers,
an absent string is written as an empty one.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from unblink.lab.apiserver.cache import encode as json_encode

_Value = Any
_Encode = Callable[[_Value], bytes]

MAGIC = b"k8s\0"


@dataclass(frozen=True)
class Field:
    """``absent``: what is written for a missing value, None where nothing is. ``repeated``: a list, or a map."""

    number: int
    name: str
    encode: _Encode
    absent: _Value = None
    repeated: bool = False
    varint: bool = False


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _chunk(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def _message(fields: tuple[Field, ...], value: Mapping[str, Any]) -> bytes:
    out = bytearray()
    for field in fields:
        have = value.get(field.name, field.absent)
        if have is None:
            continue
        elements = sorted(have.items()) if isinstance(have, dict) and field.repeated else have
        for element in elements if field.repeated else (have,):
            body = field.encode(element)
            out += varint(field.number << 3) + body if field.varint else _chunk(field.number, body)
    return bytes(out)


def _text(value: str) -> bytes:
    return value.encode()


def _time(value: str) -> bytes:
    if not value:
        return b""
    moment = datetime.fromisoformat(value)
    return b"\x08" + varint(int(moment.timestamp())) + b"\x10" + varint(moment.microsecond * 1000)


def _fields_v1(value: Mapping[str, Any]) -> bytes:
    return _chunk(1, json_encode(value))


def _text_pair(pair: tuple[str, str]) -> bytes:
    return _chunk(1, _text(pair[0])) + _chunk(2, _text(pair[1]))


def _bytes_pair(pair: tuple[str, str]) -> bytes:
    return _chunk(1, _text(pair[0])) + _chunk(2, b64decode(pair[1]))


def _nested(fields: tuple[Field, ...]) -> _Encode:
    return lambda value: _message(fields, value)


def _string(number: int, name: str) -> Field:
    return Field(number, name, _text, absent="")


def _optional_string(number: int, name: str) -> Field:
    return Field(number, name, _text)


def _strings(number: int, name: str) -> Field:
    return Field(number, name, _text, repeated=True)


def _int(number: int, name: str, *, absent: int | None = 0) -> Field:
    return Field(number, name, varint, absent=absent, varint=True)


def _bool(number: int, name: str) -> Field:
    return Field(number, name, lambda value: varint(int(value)), varint=True)


def _texts_by_key(number: int, name: str) -> Field:
    return Field(number, name, _text_pair, repeated=True)


def _bytes_by_key(number: int, name: str) -> Field:
    return Field(number, name, _bytes_pair, repeated=True)


_MANAGED_FIELDS = (
    _string(1, "manager"),
    _string(2, "operation"),
    _string(3, "apiVersion"),
    Field(4, "time", _time),
    _string(6, "fieldsType"),
    Field(7, "fieldsV1", _fields_v1),
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
    Field(8, "creationTimestamp", _time, absent=""),
    Field(9, "deletionTimestamp", _time),
    _int(10, "deletionGracePeriodSeconds", absent=None),
    _texts_by_key(11, "labels"),
    _texts_by_key(12, "annotations"),
    Field(13, "ownerReferences", _nested(_OWNER), repeated=True),
    _strings(14, "finalizers"),
    Field(17, "managedFields", _nested(_MANAGED_FIELDS), repeated=True),
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
    Field(4, "causes", _nested(_CAUSE), repeated=True),
    _int(5, "retryAfterSeconds"),
    _string(6, "uid"),
)

_OBJECT_META = Field(1, "metadata", _nested(_METADATA), absent={})
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
        Field(2, "spec", _nested((_strings(1, "finalizers"),)), absent={}),
        Field(3, "status", _nested((_string(1, "phase"),)), absent={}),
    ),
    ("coordination.k8s.io/v1", "Lease"): (
        _OBJECT_META,
        Field(
            2,
            "spec",
            _nested(
                (
                    _optional_string(1, "holderIdentity"),
                    _int(2, "leaseDurationSeconds", absent=None),
                    Field(3, "acquireTime", _time),
                    Field(4, "renewTime", _time),
                    _int(5, "leaseTransitions", absent=None),
                )
            ),
            absent={},
        ),
    ),
    ("v1", "Status"): (
        Field(1, "metadata", _nested(_LIST_METADATA), absent={}),
        _string(2, "status"),
        _string(3, "message"),
        _string(4, "reason"),
        Field(5, "details", _nested(_DETAILS)),
        _int(6, "code"),
    ),
}
_LISTS = {
    (api_version, f"{kind}List"): (
        Field(1, "metadata", _nested(_LIST_METADATA), absent={}),
        Field(2, "items", _nested(fields), repeated=True, absent=()),
    )
    for (api_version, kind), fields in _TYPES.items()
}


def encodes(api_version: str, kind: str) -> bool:
    return (api_version, kind) in _TYPES


def encode(thing: Mapping[str, Any]) -> bytes:
    """An object, list or Status with its envelope. :raises KeyError: a type that ``encodes`` does not know."""
    kind = (thing["apiVersion"], thing["kind"])
    body = _message(_TYPES.get(kind) or _LISTS[kind], thing)
    type_meta = _chunk(1, kind[0].encode()) + _chunk(2, kind[1].encode())
    return MAGIC + _chunk(1, type_meta) + _chunk(2, body) + _chunk(3, b"") + _chunk(4, b"")


def watch_frame(event_type: str, thing: Mapping[str, Any]) -> bytes:
    """A length-prefixed meta.k8s.io WatchEvent."""
    event = _chunk(1, event_type.encode()) + _chunk(2, _chunk(1, encode(thing)))
    return len(event).to_bytes(4, "big") + event
