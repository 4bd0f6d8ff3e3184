import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.client.cache import Cache, key_of
from unblink.client.objects import Object
from unblink.stream.frames import Frame, Lines
from unblink.stream.objects import Item, Metadata

Change = tuple[str, str | None, str | None]


def frame(kind: str, name: str, version: int, namespace: str = "lab", **labels: str) -> Frame:
    metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version), "labels": labels}
    (decoded,) = Lines().feed(json.dumps({"type": kind, "object": {"metadata": metadata}}).encode() + b"\n")
    return decoded


def item(name: str, version: int) -> Item:
    raw = json.dumps({"metadata": {"name": name, "namespace": "lab", "resourceVersion": str(version)}}).encode()
    return Item(Metadata(name, "lab", name, str(version)), raw)


class Told:
    """What a cache said, as (key, old version, new version)."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def __call__(self, key: str, old: Object | None, new: Object | None) -> None:
        before, after = (thing.metadata.resource_version if thing is not None else None for thing in (old, new))
        self.changes.append((key, before, after))


def test_a_key_is_that_of_client_go() -> None:
    assert key_of(Metadata("a", "n")) == "n/a"
    assert key_of(Metadata("a")) == "a"


def test_events_change_it_and_bookmarks_do_not() -> None:
    cache, told = Cache(), Told()
    frames = [frame("ADDED", "a", 1), frame("BOOKMARK", "", 2), frame("MODIFIED", "a", 3), frame("DELETED", "a", 4)]
    cache.apply(frames, told)
    assert told.changes == [("lab/a", None, "1"), ("lab/a", "1", "3"), ("lab/a", "4", None)]
    cache.apply([frame("DELETED", "a", 4)], told)
    assert len(told.changes) == 3
    assert len(cache) == 0


def test_a_list_deletes_what_vanished_and_tells_only_what_changed() -> None:
    cache, told = Cache(), Told()
    cache.apply([frame("ADDED", name, version) for version, name in enumerate("abc", 1)], told)
    told.changes.clear()
    cache.replace([item("a", 1), item("b", 9), item("d", 8)], told)
    assert sorted(told.changes) == [("lab/b", "2", "9"), ("lab/c", "3", None), ("lab/d", None, "8")]
    assert sorted(cache.objects) == ["lab/a", "lab/b", "lab/d"]


def test_indexes_follow_the_objects() -> None:
    cache, told = Cache(), Told()
    cache.apply([frame("ADDED", "a", 1, app="x")], told)
    cache.add_index("app", lambda thing: thing.labels.get("app"))
    cache.add_index("letters", lambda thing: list(thing.metadata.name))
    cache.apply([frame("ADDED", "ab", 2, app="x"), frame("MODIFIED", "a", 3, app="y")], told)
    assert [one.metadata.name for one in cache.index("app", "x")] == ["ab"]
    assert [one.metadata.name for one in cache.index("letters", "a")] == ["a", "ab"]
    cache.replace([item("a", 5)], told)
    assert cache.index("app", "y") == cache.index("app", "x") == []
    assert [one.metadata.resource_version for one in cache.index("letters", "a")] == ["5"]


def test_wrong_indexes_are_said() -> None:
    cache = Cache()
    cache.add_index("node", lambda thing: None)
    with pytest.raises(ValueError, match="there is an index 'node' already"):
        cache.add_index("node", lambda thing: None)
    with pytest.raises(KeyError, match="no index 'nodes'; there are: node"):
        cache.index("nodes", "x")


def test_an_index_function_that_fails_leaves_the_object_out_and_the_watch_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, told = Cache(), Told()
    cache.add_index("node", lambda thing: thing["spec"]["nodeName"])
    with caplog.at_level(logging.ERROR, "unblink"):
        cache.apply([frame("ADDED", "a", 1)], told)
    assert told.changes == [("lab/a", None, "1")]
    assert "index node: its function failed for lab/a" in caplog.text


steps = st.one_of(
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), st.sampled_from("abcd")),
    st.tuples(st.just("LIST"), st.lists(st.sampled_from("abcd"), unique=True)),
)


@given(st.lists(steps, max_size=30), st.booleans())
def test_what_was_told_adds_up_to_what_is_held(happened: list[tuple[str, str | list[str]]], indexed: bool) -> None:
    cache, held = Cache(), dict[str, str]()
    if indexed:
        cache.add_index("name", lambda thing: thing.metadata.name)

    def put(key: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            del held[key]
        else:
            assert (old is None) == (key not in held)
            held[key] = new.metadata.resource_version

    for version, (kind, names) in enumerate(happened, 1):
        if kind == "LIST":
            cache.replace([item(name, version) for name in names], put)
        else:
            assert isinstance(names, str)
            cache.apply([frame(kind, names, version)], put)
        assert {key: one.metadata.resource_version for key, one in cache.objects.items()} == held
    if indexed:
        for name in "abcd":
            assert [key_of(one.metadata) for one in cache.index("name", name)] == [
                key for key in sorted(held) if key.endswith(name)
            ]
