import asyncio
import threading

import pytest
from tests.client.conftest import PODS
from tests.embedded import Cluster, pod

import unblink

LIMIT_S = 20.0


def test_for_gives_what_is_there_and_then_what_happens(running: Cluster) -> None:
    before = threading.active_count()
    seen: list[tuple[str, str]] = []
    watch = unblink.watch("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig)
    for event in watch:
        seen.append((event.type.value, event.object.metadata.name))
        if len(seen) == 2:
            assert watch.is_live()
            assert watch.staleness < LIMIT_S
            assert watch.health().synced
            running.ask("PATCH", f"{PODS}/web-0", {"metadata": {"labels": {"app": "new"}}})
            running.ask("DELETE", f"{PODS}/db-0")
        if len(seen) == 4:
            assert event.object["metadata"]["name"] == "db-0"
            break
    assert sorted(seen[:2]) == [("ADDED", "db-0"), ("ADDED", "web-0")]
    assert seen[2:] == [("MODIFIED", "web-0"), ("DELETED", "db-0")]
    del watch
    assert threading.active_count() == before


def test_async_for_gives_the_same(running: Cluster) -> None:
    async def main() -> list[str]:
        names: list[str] = []
        async with asyncio.timeout(LIMIT_S):
            async for event in unblink.watch("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig):
                names.append(event.object.metadata.name)
                if len(names) == 2:
                    await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1"))
                if len(names) == 3:
                    break
        return names

    assert asyncio.run(main())[2] == "web-1"


def test_an_object_made_anew_under_its_name_is_deleted_and_added(running: Cluster) -> None:
    seen: list[tuple[str, str]] = []
    for event in unblink.watch(
        "v1", "pods", namespace="lab", field_selector="metadata.name=web-0", kubeconfig=running.kubeconfig
    ):
        seen.append((event.type.value, event.object.metadata.uid))
        if len(seen) == 1:
            running.ask("DELETE", f"{PODS}/web-0")
            running.ask("POST", PODS, pod("web-0"))
        if len(seen) == 3:
            break
    assert [kind for kind, _ in seen] == ["ADDED", "DELETED", "ADDED"]
    assert seen[0][1] == seen[1][1] != seen[2][1]


def test_what_cannot_be_watched_is_raised_where_the_loop_is(running: Cluster) -> None:
    with pytest.raises(unblink.WatchRefused, match="404"):
        next(iter(unblink.watch("v1", "nonsense", kubeconfig=running.kubeconfig)))
    with pytest.raises(ValueError, match="max_staleness"):
        unblink.watch("v1", "pods", max_staleness=1)
