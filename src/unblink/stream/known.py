"""What a watcher has shown its user: the last state of each object, so that a relist can be told as events."""

from collections.abc import Iterable

import msgspec

from unblink.stream.frames import Frame, FrameType
from unblink.stream.objects import Item


class Known:
    """Frames of JSON, the last of each object that was not deleted."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Frame] = {}

    def __len__(self) -> int:
        return len(self._last)

    def note(self, frame: Frame) -> None:
        """Remember one event; a bookmark says nothing of objects."""
        key = (frame.metadata.namespace, frame.metadata.name)
        if frame.type is FrameType.DELETED:
            self._last.pop(key, None)
        elif frame.type in (FrameType.ADDED, FrameType.MODIFIED):
            self._last[key] = frame

    def relist(self, items: Iterable[Item]) -> list[Frame]:
        """The events that lead from what is known to ``items``, the whole set; they are known from now on.

        What vanished comes as DELETED in its last known state, as client-go's DeletedFinalStateUnknown does. An object
        of the same name and another uid is deleted and added.
        """
        before, self._last = self._last, {}
        events = []
        for item in items:
            key = (item.metadata.namespace, item.metadata.name)
            old = before.pop(key, None)
            if old is not None and old.metadata.uid != item.metadata.uid:
                events.append(_deleted(old))
                old = None
            if old is not None and old.metadata.resource_version == item.metadata.resource_version:
                self._last[key] = old
                continue
            kind = FrameType.ADDED if old is None else FrameType.MODIFIED
            self._last[key] = frame = _frame(kind, item)
            events.append(frame)
        return [*map(_deleted, before.values()), *events]


def _frame(kind: FrameType, item: Item) -> Frame:
    return Frame(kind, item.metadata, _envelope(kind, item.raw), 0)


def _deleted(last: Frame) -> Frame:
    return Frame(FrameType.DELETED, last.metadata, _envelope(FrameType.DELETED, last.object_json()), 0)


def _envelope(kind: FrameType, raw: bytes) -> bytes:
    return b'{"type":"%s","object":%s}' % (kind.encode(), raw)


class _List(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""


class _Item(msgspec.Struct):
    kind: str = ""


_decode_list = msgspec.json.Decoder(_List).decode
_decode_item = msgspec.json.Decoder(_Item).decode


def with_kind(body: bytes, items: Iterable[Item]) -> tuple[Item, ...]:
    """The items of one page's ``body``, each saying its kind as the objects of a watch do: items of a list leave it
    to the list (k8s.io/apimachinery, ``meta/v1 TypeMeta``)."""
    listed = _decode_list(body)
    said = b'{"kind":%s,"apiVersion":%s,' % (
        msgspec.json.encode(listed.kind.removesuffix("List")),
        msgspec.json.encode(listed.api_version),
    )
    if not listed.kind:
        return tuple(items)
    return tuple(
        item if _decode_item(item.raw).kind else Item(item.metadata, said + item.raw.lstrip()[1:]) for item in items
    )
