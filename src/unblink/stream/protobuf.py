"""What the session reads of protobuf: the watch event, its object's metadata, Status and list pages.

Shapes: k8s.io/apimachinery, ``meta/v1/generated.proto`` and ``runtime/generated.proto``; an encoded object is the four
bytes ``k8s\\0`` and a ``runtime.Unknown``. In every built-in type field 1 is the metadata. Wire format:
https://protobuf.dev/programming-guides/encoding/. Only these few fields are read; the rest stays bytes.
"""

from collections.abc import Iterator

from unblink.stream.objects import INITIAL_EVENTS_END, Item, Metadata, Page, Status, StatusCause, StatusDetails

MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class ProtobufError(ValueError):
    """Bytes that are not the message they should be. ``position`` counts from the message's own beginning."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"{reason} (byte {position})")
        self.position = position


Span = tuple[int, int]
"""Where a length-delimited field's content begins and ends in the buffer."""


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ProtobufError(at, "a varint without end")


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, Span]]:
    """(field number, value, span) of each field of a message; the value counts for varints, the span for bytes.

    :raises ProtobufError: if the bytes are not a message.
    """
    while at < end:
        begin = at
        # Nearly all tags and lengths are of one byte.
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, begin, end)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise ProtobufError(begin, "field number 0")
        value = 0
        if kind == _BYTES:
            length, at = _varint(data, at, end)
            begin, at = at, at + length
        elif kind == _VARINT:
            value, at = _varint(data, at, end)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        else:
            raise ProtobufError(begin, f"wire type {kind}")
        if at > end:
            raise ProtobufError(begin, f"field {number} reaches {at - end} bytes beyond its message")
        yield number, value, (begin, at)


def text(data: bytes, span: Span) -> str:
    """A string field. :raises ProtobufError: if it is not UTF-8."""
    try:
        return data[span[0] : span[1]].decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(span[0] + error.start, "not UTF-8") from None


def unknown(data: bytes, span: Span) -> Span:
    """Where the object's own message lies within ``k8s\\0`` and Unknown (field 2, raw)."""
    at, end = span
    if data[at : at + len(MAGIC)] != MAGIC:
        raise ProtobufError(at, "an object begins with k8s and a zero byte")
    for number, _, inner in fields(data, at + len(MAGIC), end):
        if number == 2:
            return inner
    raise ProtobufError(at, "an object without its message")


def watch_event(data: bytes) -> tuple[str, Span]:
    """Type of a ``WatchEvent`` and where its object's message lies (field 2 is a RawExtension, its field 1 the bytes).

    :raises ProtobufError: if it is none.
    """
    kind, raw = "", None
    for number, _, span in fields(data, 0, len(data)):
        if number == 1:
            kind = text(data, span)
        elif number == 2:
            for inner, _, content in fields(data, *span):
                if inner == 1:
                    raw = content
    if not kind or raw is None:
        raise ProtobufError(0, "a watch event has a type and an object")
    return kind, unknown(data, raw)


def metadata(data: bytes, span: Span) -> tuple[Metadata, bool]:
    """ObjectMeta (or a Table's ListMeta is none) of an object's message, and whether it ends the initial events."""
    name = namespace = uid = version = ""
    ends = False
    for number, _, whole in fields(data, *span):
        if number != 1:
            continue
        for field, _, content in fields(data, *whole):
            if field == 1:
                name = text(data, content)
            elif field == 3:
                namespace = text(data, content)
            elif field == 5:
                uid = text(data, content)
            elif field == 6:
                version = text(data, content)
            elif field == 12:
                ends = ends or _entry(data, content) == (INITIAL_EVENTS_END, "true")
        break
    return Metadata(name, namespace, uid, version), ends


def _entry(data: bytes, span: Span) -> tuple[str, str]:
    found = {number: text(data, content) for number, _, content in fields(data, *span) if number in (1, 2)}
    return found.get(1, ""), found.get(2, "")


def status(data: bytes, span: Span) -> Status:
    """``meta/v1 Status``."""
    code, message, reason, details = 0, "", "", None
    for number, value, content in fields(data, *span):
        if number == 3:
            message = text(data, content)
        elif number == 4:
            reason = text(data, content)
        elif number == 5:
            details = _details(data, content)
        elif number == 6:
            code = value
    return Status(code, reason, message, details)


def _details(data: bytes, span: Span) -> StatusDetails:
    causes, retry_after_seconds = [], 0
    for number, value, content in fields(data, *span):
        if number == 4:
            reasons = [text(data, inner) for field, _, inner in fields(data, *content) if field == 1]
            causes.append(StatusCause(reasons[0] if reasons else ""))
        elif number == 5:
            retry_after_seconds = value
    return StatusDetails(causes or None, retry_after_seconds)


def page(body: bytes) -> Page:
    """One page of a list: field 1 is its ListMeta, each field 2 an item.

    :raises ProtobufError: if it is none, or has no resourceVersion.
    """
    version = token = ""
    items: list[Item] = []
    for number, _, content in fields(body, *unknown(body, (0, len(body)))):
        if number == 1:
            for field, _, inner in fields(body, *content):
                if field == 2:
                    version = text(body, inner)
                elif field == 3:
                    token = text(body, inner)
        elif number == 2:
            items.append(Item(metadata(body, content)[0], body[content[0] : content[1]]))
    if not version:
        raise ProtobufError(0, "the list has no metadata.resourceVersion")
    return Page(version, token, tuple(items))
