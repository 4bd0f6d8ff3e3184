"""The objects that a watcher holds, by key, with indexes over them; and what each list or event changes."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator

from unblink.client.objects import Object
from unblink.stream.frames import Frame, FrameType
from unblink.stream.objects import Item, Metadata

log = logging.getLogger("unblink")

IndexFunction = Callable[[Object], str | Iterable[str] | None]
"""The values under which an object is found; None is under none."""

Put = Callable[[str, Object | None, Object | None], None]
"""Told of each change: the key, what was held (None: nothing), what is held now (None: deleted)."""


def key_of(metadata: Metadata) -> str:
    """``namespace/name``, or the name alone where there is no namespace."""
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name


class Cache:
    """Objects by key. It is changed by the watcher alone, and read by everybody, in one event loop."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self._functions: dict[str, IndexFunction] = {}
        self._indexes: dict[str, dict[str, set[str]]] = {}
        self._values: dict[str, dict[str, tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self.objects)

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Index what is held now and later.

        :raises ValueError: if there is an index of this name.
        """
        if name in self._functions:
            raise ValueError(f"there is an index {name!r} already; choose another name")
        self._functions[name], self._indexes[name], self._values[name] = function, {}, {}
        for key, thing in self.objects.items():
            self._index(name, key, thing)

    def index(self, name: str, value: str) -> list[Object]:
        """The objects under a value of an index.

        :raises KeyError: if there is no index of this name; it names those that there are.
        """
        if name not in self._indexes:
            known = ", ".join(sorted(self._indexes)) or "none"
            raise KeyError(f"no index {name!r}; there are: {known}; add_index makes one")
        return [self.objects[key] for key in sorted(self._indexes[name].get(value, ()))]

    def replace(self, items: Collection[Item], put: Put) -> None:
        """Hold the items of a list and nothing else; what is gone is deleted in its last known state."""
        listed = {key_of(item.metadata): item for item in items}
        for key in [key for key in self.objects if key not in listed]:
            self._remove(key, self.objects[key], put)
        for key, item in listed.items():
            old = self.objects.get(key)
            if old is None or old.metadata.resource_version != item.metadata.resource_version:
                self._hold(key, old, Object(item.metadata, item.raw, item.enveloped), put)

    def apply(self, frames: Iterable[Frame], put: Put) -> None:
        """Take events; bookmarks change nothing."""
        objects = self.objects
        for frame in frames:
            kind = frame.type
            if kind is FrameType.BOOKMARK:
                continue
            metadata = frame.metadata
            key = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
            thing = Object(metadata, frame.raw, True)
            if kind is FrameType.DELETED:
                if key in objects:
                    self._remove(key, thing, put)
            elif self._functions:
                self._hold(key, objects.get(key), thing, put)
            else:
                old = objects.get(key)
                objects[key] = thing
                put(key, old, thing)

    def _hold(self, key: str, old: Object | None, new: Object, put: Put) -> None:
        self.objects[key] = new
        for name in self._functions:
            self._unindex(name, key)
            self._index(name, key, new)
        put(key, old, new)

    def _remove(self, key: str, last: Object, put: Put) -> None:
        del self.objects[key]
        for name in self._functions:
            self._unindex(name, key)
        put(key, last, None)

    def _index(self, name: str, key: str, thing: Object) -> None:
        try:
            found = self._functions[name](thing)
        except Exception:  # it is the user's, and must not end the watch
            log.exception("index %s: its function failed for %s; the object is not indexed", name, key)
            return
        values = () if found is None else (found,) if isinstance(found, str) else tuple(found)
        if values:
            self._values[name][key] = values
        for value in values:
            self._indexes[name].setdefault(value, set()).add(key)

    def _unindex(self, name: str, key: str) -> None:
        index = self._indexes[name]
        for value in self._values[name].pop(key, ()):
            keys = index[value]
            keys.discard(key)
            if not keys:
                del index[value]

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects.values())
