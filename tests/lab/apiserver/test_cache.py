import asyncio
import json

import pytest
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import cache as cache_module
from unblink.lab.apiserver.cache import Change, Stored, WatchCache, prefix_of
from unblink.lab.apiserver.resources import Resources
from unblink.lab.apiserver.statuses import ApiError
from unblink.lab.apiserver.storeproto import Event, KeyValue


def value(name: str) -> bytes:
    return json.dumps({"kind": "X", "metadata": {"name": name, "uid": "u", "labels": {}}}).encode()


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Change] = []
        self.revision = 0
        self.terminated = False

    def offer(self, change: Change) -> None:
        self.seen.append(change)

    def advance(self, revision: int) -> None:
        self.revision = revision

    def terminate(self) -> None:
        self.terminated = True


def filled() -> WatchCache:
    cache = WatchCache()
    cache.fill([KeyValue("/b", value("b"), 3, 3), KeyValue("/a", value("a"), 2, 4)], 7)
    return cache


def test_a_stored_object_holds_its_revision_where_kubernetes_shows_it() -> None:
    stored = Stored.read("/a", value("a"), 12)
    assert list(stored.data["metadata"]) == ["name", "uid", "resourceVersion", "labels"]
    assert json.loads(stored.json) == stored.data
    assert Stored.of("/a", stored.data, 13).data["metadata"]["resourceVersion"] == "13"
    assert stored.data["metadata"]["resourceVersion"] == "12"


def test_filled_and_followed() -> None:
    cache = filled()
    recorder = Recorder()
    cache.watchers.add(recorder)
    assert [stored.key for stored in cache.under("/")] == ["/a", "/b"]
    cache.take(Event(8, "/a", value("a2"), 2))
    cache.take(Event(8, "/a", value("doubled"), 2))
    cache.take(Event(9, "/b", None, 3))
    cache.take(Event(10, "/c", value("c"), 10))
    kinds = [(change.key, change.before is None, change.after is None) for change in recorder.seen]
    assert kinds == [("/a", False, False), ("/b", False, True), ("/c", True, False)]
    assert recorder.revision == cache.revision == 10
    assert cache.get("/b") is None
    assert [change.revision for change in cache.changes_after(8)] == [9, 10]


def test_nothing_before_the_fill_can_be_had() -> None:
    cache = filled()
    assert cache.changes_after(7) == []
    with pytest.raises(ApiError, match=r"too old resource version: 6 \(7\)"):
        cache.changes_after(6)


def test_changes_are_held_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHANGES_HELD", 2)
    cache = filled()
    for revision in range(8, 12):
        cache.take(Event(revision, "/a", value("a"), 2))
    assert [change.revision for change in cache.changes_after(9)] == [10, 11]
    with pytest.raises(ApiError, match="too old"):
        cache.changes_after(8)


def test_a_new_fill_ends_the_watches() -> None:
    cache = filled()
    recorder = Recorder()
    cache.watchers.add(recorder)
    cache.fill([], 20)
    assert recorder.terminated
    assert cache.under("/") == []


def test_waiting_for_a_revision() -> None:
    async def scenario() -> None:
        cache = filled()
        assert await cache.reached(7, 0)
        assert not await cache.reached(8, 0.01)
        waiting = asyncio.create_task(cache.reached(8, 5))
        await asyncio.sleep(0)
        cache.take(Event(8, "/x", value("x"), 8))
        assert await waiting

    run(scenario())


def test_prefixes() -> None:
    resources = Resources()
    pods, namespaces = resources.find("", "v1", "pods"), resources.find("", "v1", "namespaces")
    assert pods is not None
    assert namespaces is not None
    assert prefix_of(pods, "n") == "/registry/pods/n/"
    assert prefix_of(pods, "") == "/registry/pods/"
    assert prefix_of(namespaces, "") == "/registry/namespaces/"
