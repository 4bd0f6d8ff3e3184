"""The forms in which events of a watch are written: a table, names, JSON lines, YAML documents."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import yaml

from unblink.cli.columns import columns_of
from unblink.client.discovery import Resource
from unblink.client.objects import Object
from unblink.client.watching import Event, EventType

Write = Callable[[Sequence[Event]], str]
"""The text for events that came together, each line with its end."""

GAP = 3


class _Kind(msgspec.Struct):
    kind: str = ""


class Table:
    """Columns as wide as what was written so far needs, under one heading, as ``kubectl get -w`` does it.

    A line of a deletion ends in ``(deleted)``, which kubectl leaves out.
    """

    def __init__(
        self, resource: Resource, *, with_namespace: bool, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        headings, self._cells = columns_of(resource.group, resource.kind)
        self._with_namespace = with_namespace
        self._now = now
        self._heading: tuple[str, ...] | None = (*(("NAMESPACE",) if with_namespace else ()), "NAME", *headings)
        self._widths = [len(heading) for heading in self._heading]

    def __call__(self, events: Sequence[Event]) -> str:
        rows = [self._row(event.object) for event in events]
        marks = [" (deleted)" if event.type is EventType.DELETED else "" for event in events]
        if self._heading is not None and rows:
            rows, marks = [self._heading, *rows], ["", *marks]
            self._heading = None
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        return "".join(f"{self._line(row)}{mark}\n" for row, mark in zip(rows, marks, strict=True))

    def _row(self, thing: Object) -> tuple[str, ...]:
        metadata = thing.metadata
        place = (metadata.namespace,) if self._with_namespace else ()
        return (*place, metadata.name, *self._cells(thing.to_dict(), self._now()))

    def _line(self, row: tuple[str, ...]) -> str:
        padded = [cell.ljust(width + GAP) for cell, width in zip(row, self._widths, strict=True)]
        return "".join(padded).rstrip()


def names(resource: Resource) -> Write:
    """``pod/web-0`` or ``deployment.apps/web``, as ``kubectl get -o name``."""
    kind = f"{resource.singular or resource.kind.lower()}{'.' + resource.group if resource.group else ''}"
    return lambda events: "".join(f"{kind}/{event.object.metadata.name}\n" for event in events)


def json_lines(resource: Resource) -> Write:
    """One ``{"type": ..., "object": ...}`` a line, the object as the server sent it, with its kind and apiVersion."""
    return lambda events: "".join(
        f'{{"type":"{event.type}","object":{_raw(event.object, resource).decode()}}}\n' for event in events
    )


def yaml_documents(resource: Resource) -> Write:
    """The objects as YAML documents."""
    return lambda events: "".join(
        "---\n" + yaml.safe_dump(msgspec.json.decode(_raw(event.object, resource)), sort_keys=False) for event in events
    )


def _raw(thing: Object, resource: Resource) -> bytes:
    raw = thing.raw.strip()
    if b"\n" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    if msgspec.json.decode(raw, type=_Kind).kind:
        return raw
    # The items of a list come without.
    head = msgspec.json.encode({"kind": resource.kind, "apiVersion": resource.api_version})
    return head[:-1] + b"," + raw.lstrip(b"{ ") if len(raw) > 2 else head
