import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.apiserver.backend import LAB, backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import watches
from unblink.lab.apiserver.cache import Change, Stored
from unblink.lab.apiserver.watches import next_bookmark, seen_through

WATCH = f"{LAB}/configmaps?watch=1&timeoutSeconds=30"
MERGE = {"content_type": "application/merge-patch+json"}


def test_an_object_that_enters_and_leaves_the_selection() -> None:
    async def scenario() -> None:
        async with backend() as api, api.watch(f"{WATCH}&labelSelector=on%3Dyes") as seen:
            await api.configmap("c")
            for labels in ({"on": "yes"}, {"on": "yes", "more": "x"}, {"on": "no"}, {"on": "yes"}):
                await api.ask("PATCH", f"{LAB}/configmaps/c", {"metadata": {"labels": labels}}, **MERGE)
            gone = await api.ask("DELETE", f"{LAB}/configmaps/c")
            assert gone.status == 200
            await seen.until(5)
            kinds = [kind for kind, _ in seen.events]
            assert kinds == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
            left = seen.events[2][1]["metadata"]
            assert left["labels"] == {"on": "yes", "more": "x"}
            versions = [int(thing["metadata"]["resourceVersion"]) for _, thing in seen.events]
            assert versions == sorted(set(versions))

    run(scenario())


def stored(key: str, revision: int, labels: dict[str, str]) -> Stored:
    return Stored.of(key, {"metadata": {"name": key, "labels": labels}}, revision)


@given(st.lists(st.sampled_from([None, {"on": "yes"}, {"on": "no"}]), max_size=8))
def test_a_watcher_of_a_selection_holds_what_a_list_of_it_would(states: list[dict[str, str] | None]) -> None:
    """Whatever becomes of an object, who applies the events holds it exactly while it is selected."""
    held: Stored | None = None
    before: Stored | None = None
    for revision, labels in enumerate(states, 1):
        after = None if labels is None else stored("/x", revision, labels)
        if before is None and after is None:
            continue
        event = seen_through(
            Change(revision, "/x", before, after), "/", lambda thing: thing["metadata"]["labels"]["on"] == "yes"
        )
        if event is not None:
            kind, thing = event
            assert (kind == "ADDED") is (held is None)
            assert thing.revision == revision
            held = None if kind == "DELETED" else thing
        selected = labels == {"on": "yes"}
        assert (held is not None) is selected
        before = after


def test_another_collection_is_not_seen() -> None:
    assert seen_through(Change(1, "/a/x", None, stored("/a/x", 1, {})), "/b/", None) is None


def test_changes_since_a_revision_come_once() -> None:
    async def scenario() -> None:
        async with backend() as api:
            start = (await api.configmap("a"))["metadata"]["resourceVersion"]
            await api.configmap("b")
            async with api.watch(f"{WATCH}&resourceVersion={start}") as seen:
                await api.configmap("c")
                await seen.until(2)
                assert seen.names == [("ADDED", "b"), ("ADDED", "c")]

    run(scenario())


def test_a_revision_before_the_cache_is_expired() -> None:
    async def scenario() -> None:
        async with backend() as api:
            api.storage.cache._oldest = 5
            answer = await api.ask("GET", f"{WATCH}&resourceVersion=4")
            assert answer.status == 200
            assert [kind for kind, _ in answer.events] == ["ERROR"]
            assert answer.events[0][1]["message"] == "too old resource version: 4 (5)"

    run(scenario())


def test_bookmarks_each_period_only_once_the_revision_has_moved() -> None:
    async def scenario() -> None:
        async with backend() as api:
            api.bookmark_every(50)
            start = (await api.configmap("a"))["metadata"]["resourceVersion"]
            async with api.watch(f"{WATCH}&allowWatchBookmarks=true&resourceVersion={start}") as seen:
                await asyncio.sleep(0.2)
                assert seen.status == 200
                assert seen.events == []
                moved = await api.ask("POST", f"{LAB}/secrets", {"metadata": {"name": "s"}})
                await seen.until(2)
                kinds = {(kind, thing["metadata"]["resourceVersion"]) for kind, thing in seen.events}
                assert kinds == {("BOOKMARK", moved.json["metadata"]["resourceVersion"])}
                assert seen.events[0][1]["kind"] == "ConfigMap"

    run(scenario())


def test_bookmarks_of_a_server_without_its_store_go_on_with_a_frozen_revision() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=100) as api:
            api.bookmark_every(50)
            async with api.watch(f"{WATCH}&allowWatchBookmarks=true") as seen:
                await api.configmap("a")
                await seen.until(2)
                api.relay.cut()
                held = len(seen.events)
                await seen.until(held + 5)
                later = seen.events[held + 1 :]
                assert {kind for kind, _ in later} == {"BOOKMARK"}
                assert len({thing["metadata"]["resourceVersion"] for _, thing in later}) == 1
                assert not seen.ended
                api.relay.mend()
                await asyncio.wait_for(api.storage.cache.reached(api.store.keys.revision, 5), 5)
                await api.configmap("b")
                async with asyncio.timeout(5):
                    while ("ADDED", "b") not in seen.names:
                        await asyncio.sleep(0.01)

    run(scenario())


def test_watch_list_says_when_it_is_complete() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("a")
            options = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            async with api.watch(WATCH + options) as seen:
                await seen.until(2)
                assert seen.names == [("ADDED", "a"), ("BOOKMARK", "")]
                metadata = seen.events[1][1]["metadata"]
                assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
                assert int(metadata["resourceVersion"]) == api.store.keys.revision

    run(scenario())


def test_watch_list_waits_until_the_cache_is_as_new_as_asked() -> None:
    async def scenario() -> None:
        async with backend() as api:
            first = int((await api.configmap("a"))["metadata"]["resourceVersion"])
            options = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            async with api.watch(f"{WATCH}{options}&resourceVersion={first + 1}") as seen:
                await seen.until(1)
                await api.configmap("b")
                await seen.until(3)
                assert seen.names == [("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", "")]

    run(scenario())


def test_a_table_watch_defines_its_columns_once() -> None:
    async def scenario() -> None:
        async with backend() as api:
            accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
            async with api.watch(f"{WATCH}&allowWatchBookmarks=true", accept=accept) as seen:
                await api.configmap("a")
                await api.configmap("b")
                await seen.until(2)
                definitions = [thing["columnDefinitions"] for _, thing in seen.events]
                assert definitions[0]
                assert definitions[1] is None

    run(scenario())


def test_a_watcher_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "SLOW_WATCHER_EVENTS", 2)

    async def scenario() -> None:
        async with backend() as api:
            watch = watches.Watch(api.storage.cache, api.app._resources.all[0], "/", None, lambda *_: b"", True)
            for revision in range(1, 5):
                watch.offer(Change(revision, "/x", None, stored("/x", revision, {})))
            assert watch.ended == "slow"

    run(scenario())


def test_an_object_that_cannot_be_encoded_ends_that_watch_alone() -> None:
    async def scenario() -> None:
        async with backend() as api:
            pods = f"{LAB}/pods?watch=1&timeoutSeconds=30"
            table = "application/json;as=Table;v=v1;g=meta.k8s.io"
            async with api.watch(pods, accept=table) as tables, api.watch(pods) as plain:
                await api.ask("POST", f"{LAB}/pods", {"metadata": {"name": "p"}, "spec": {"containers": 5}})
                await plain.until(1)
                async with asyncio.timeout(5):
                    while not tables.ended:
                        await asyncio.sleep(0.01)
                await api.configmap("c")

    run(scenario())


def test_a_server_without_its_store_takes_new_watches_and_says_nothing_in_them() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=100) as api:
            known = (await api.configmap("a"))["metadata"]["resourceVersion"]
            api.relay.cut()
            ahead = int(known) + 1_000
            async with (
                api.watch(f"{LAB}/configmaps?watch=true&resourceVersion={int(known) - 1}") as behind,
                api.watch(f"{LAB}/configmaps?watch=true&resourceVersion={ahead}") as silent,
                api.watch(
                    f"{LAB}/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
                    f"&resourceVersion={known}&allowWatchBookmarks=true"
                ) as initial,
            ):
                await behind.until(1)
                await initial.until(2)
                assert behind.names == [("ADDED", "a")]
                assert (silent.status, silent.events, silent.ended) == (200, [], False)
                assert [kind for kind, _ in initial.events] == ["ADDED", "BOOKMARK"]
            newest = await api.ask(
                "GET",
                f"{LAB}/configmaps?watch=true&sendInitialEvents=true"
                "&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
            )
            assert (newest.status, newest.json["message"]) == (500, "etcdserver: request timed out")

    run(scenario())


def test_a_cache_that_lost_its_place_ends_its_watches_cleanly() -> None:
    async def scenario() -> None:
        async with backend(history=5, timeout_ms=100) as api, api.watch(WATCH) as seen:
            await api.configmap("a")
            await seen.until(1)
            api.relay.cut()
            async with asyncio.timeout(5):
                while api.client.connected:
                    await asyncio.sleep(0.01)
            for number in range(10):  # writes that this apiserver does not see, and that are compacted away
                api.store.keys.put(f"/registry/configmaps/lab/n{number}", b'{"metadata":{"name":"n"}}')
            api.relay.reset()
            api.relay.mend()
            async with asyncio.timeout(5):
                while not seen.ended:
                    await asyncio.sleep(0.01)
            assert seen.names == [("ADDED", "a")]
            assert api.storage.cache.revision >= api.store.keys.revision - 1
            assert len(api.storage.cache.under("/registry/configmaps/lab/")) == 11

    run(scenario())


def test_starts_and_ends_are_logged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("a")
            await api.ask("GET", f"{LAB}/configmaps?watch=1&timeoutSeconds=1&resourceVersion=0", user_agent="me/1")
            async with api.watch(WATCH) as seen:
                await seen.until(1)

    run(scenario())
    lines: list[dict[str, Any]] = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    first, second = (line for line in lines if line["event"] == "watch-ended")
    assert (first["why"], first["events_sent"], first["user_agent"], first["user"]) == ("timeout", 1, "me/1", "tester")
    assert second["why"] == "cancelled"
    assert [line["rv"] for line in lines if line["event"] == "watch-started"] == ["0", ""]


@pytest.mark.parametrize(
    ("now", "deadline", "period", "due"),
    [(0, 300, 60, 60), (250, 300, 60, 298), (298, 300, 60, None), (0, 5, 60, 3), (0, 2, 60, None), (0, 9, 1, 1)],
)
def test_when_bookmarks_are_due(now: float, deadline: float, period: float, due: float | None) -> None:
    assert next_bookmark(now, deadline, period) == due
