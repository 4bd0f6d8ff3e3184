"""Kubernetes objects that stay JSON until somebody looks inside: mappings over their raw bytes."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, TypeVar

import msgspec

from unblink.stream.objects import Metadata

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    object: dict[str, Any]


class _RawEnvelope(msgspec.Struct):
    object: msgspec.Raw


class _Labels(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Labels


class _LabelledEnvelope(msgspec.Struct):
    object: _Labelled


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_raw_envelope = msgspec.json.Decoder(_RawEnvelope).decode
_decode_labels = msgspec.json.Decoder(_Labelled).decode
_decode_labels_envelope = msgspec.json.Decoder(_LabelledEnvelope).decode


class Object(msgspec.Struct, gc=False, eq=False):
    """One object, a mapping. ``metadata`` is decoded; all else stays bytes until it is asked for, then it is kept.

    Do not change what you get from it: everybody who asks gets the same.
    """

    metadata: Metadata
    _raw: bytes
    _enveloped: bool = False
    """Whether the bytes are the watch frame ``{"type": ..., "object": ...}`` that brought the object."""
    _content: dict[str, Any] | None = None

    @property
    def raw(self) -> bytes:
        """The object's JSON as the server sent it; a list's items have no kind and apiVersion."""
        return bytes(_decode_raw_envelope(self._raw).object) if self._enveloped else self._raw

    @property
    def labels(self) -> Mapping[str, str]:
        """``metadata.labels``, without decoding the rest."""
        if self._enveloped:
            return _decode_labels_envelope(self._raw).object.metadata.labels or {}
        return _decode_labels(self._raw).metadata.labels or {}

    def to_dict(self) -> dict[str, Any]:
        """The whole object; the same one each time."""
        if self._content is None:
            self._content = _decode_envelope(self._raw).object if self._enveloped else _decode(self._raw)
        return self._content

    def as_type(self, kind: type[T]) -> T:
        """The object as a ``msgspec.Struct``, dataclass or other type that msgspec decodes.

        :raises msgspec.ValidationError: if it does not fit.
        """
        return msgspec.json.decode(self.raw, type=kind)

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.to_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        return self.to_dict().get(key, default)

    def keys(self) -> KeysView[str]:
        """The top-level fields."""
        return self.to_dict().keys()

    def values(self) -> ValuesView[Any]:
        """Their values."""
        return self.to_dict().values()

    def items(self) -> ItemsView[str, Any]:
        """Both."""
        return self.to_dict().items()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping):
            return self.to_dict() == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mapping has none, and ``object`` is declared to have one

    def __repr__(self) -> str:
        metadata = self.metadata
        name = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
        return f"<Object {name} at {metadata.resource_version}>"


Mapping.register(Object)
