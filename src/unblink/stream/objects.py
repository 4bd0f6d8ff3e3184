"""What the session reads of Kubernetes objects: metadata, Status and list pages. The rest stays bytes.

Shapes: https://kubernetes.io/docs/reference/using-api/api-concepts/ and the ``meta/v1`` types.
"""

import msgspec

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends a WatchList's initial events."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be; RecursionError is for JSON that is nested deeply."""


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The identity of one object and its version. ``resource_version`` is opaque."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One object: its metadata decoded, its JSON (or protobuf) as it came.

    ``enveloped`` is true where ``raw`` is the whole frame ``{"type": ..., "object": ...}`` that brought the object.
    """

    metadata: Metadata
    raw: bytes
    enveloped: bool = False


class StatusCause(msgspec.Struct, frozen=True):
    """One entry of ``Status.details.causes``."""

    reason: str = ""


class StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    """``Status.details``; ``retry_after_seconds`` of 0 is unset."""

    causes: list[StatusCause] | None = None
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """``meta/v1 Status``: why a request or a watch failed."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None

    @property
    def expired(self) -> bool:
        """The resourceVersion or continue token is too old; old servers say ``Gone``."""
        return self.code == 410 or self.reason in {"Expired", "Gone"}

    @property
    def too_large(self) -> bool:
        """The resourceVersion lies in this server's future (a list answers 504 with this cause)."""
        causes = self.details.causes if self.details else None
        return any(cause.reason == "ResourceVersionTooLarge" for cause in causes or ())

    @property
    def retry_after_s(self) -> float | None:
        """The pause that the server asks for in the body, an int32 there."""
        seconds = self.details.retry_after_seconds if self.details else 0
        return float(min(seconds, _MAX_INT32)) if seconds > 0 else None


class Page(msgspec.Struct, frozen=True):
    """One page of a list; ``continue_token`` is empty on the last one."""

    resource_version: str
    continue_token: str
    items: tuple[Item, ...]


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Object(msgspec.Struct):
    metadata: Metadata


_MAX_INT32 = 2**31 - 1

_decode_list = msgspec.json.Decoder(_List).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_status = msgspec.json.Decoder(Status).decode


def decode_page(body: bytes) -> Page:
    """Decode a list's body.

    :raises ValueError: if it is not a list with a resourceVersion.
    """
    try:
        listed = _decode_list(body)
        # A Raw is a view that would keep the whole page alive with any one of its objects.
        items = tuple(Item(_decode_object(raw).metadata, bytes(raw)) for raw in listed.items or ())
    except UNREADABLE as error:
        raise ValueError(str(error)) from None
    if not listed.metadata.resource_version:
        raise ValueError("the list has no metadata.resourceVersion")
    return Page(listed.metadata.resource_version, listed.metadata.continue_, items)


def decode_status(code: int, body: bytes) -> Status:
    """The Status in a refusal's body; where there is none, one of the HTTP status and the body's beginning."""
    try:
        status = _decode_status(body)
    except UNREADABLE:
        return Status(code=code, message=body[:200].decode("utf-8", "replace").strip())
    return status if status.code else Status(code=code, message=status.message, reason=status.reason)
