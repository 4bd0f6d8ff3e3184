"""An informer and its handlers, over a real collection."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from tests.client.conftest import PODS
from tests.embedded import Cluster, pod

import unblink
from unblink.client import metrics

LIMIT_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_handlers_are_told_of_all_that_is_there_and_all_that_happens(running: Cluster) -> None:
    told: list[tuple[str, str]] = []
    threads: set[str] = set()

    async def main() -> None:
        pods = unblink.Informer("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig)

        @pods.on_add
        def added(new: unblink.Object) -> None:
            threads.add(threading.current_thread().name)
            told.append(("add", new.metadata.name))

        @pods.on_update
        async def updated(old: unblink.Object, new: unblink.Object) -> None:
            assert old.metadata.uid == new.metadata.uid
            told.append(("update", new["metadata"]["labels"]["app"]))

        @pods.on_delete
        def deleted(old: unblink.Object) -> None:
            told.append(("delete", old.metadata.name))

        async with pods:
            await until(lambda: len(told) == 2)
            await asyncio.to_thread(running.ask, "PATCH", f"{PODS}/web-0", {"metadata": {"labels": {"app": "new"}}})
            await asyncio.to_thread(running.ask, "DELETE", f"{PODS}/db-0")
            await until(lambda: len(told) == 4)
            late: list[str] = []
            pods.on_add(lambda new: late.append(new.metadata.name))
            await until(lambda: late == ["web-0"])
            assert pods.queue.depth == 0

    asyncio.run(main())
    assert sorted(told[:2]) == [("add", "db-0"), ("add", "web-0")]
    assert sorted(told[2:]) == [("delete", "db-0"), ("update", "new")]
    assert threading.main_thread().name not in threads


def test_a_handler_that_blocks_delays_neither_the_view_nor_its_proof_of_life(running: Cluster) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        pods = unblink.Informer("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig, max_staleness=8)

        @pods.on_add
        def block(_new: unblink.Object) -> None:
            stuck.set()
            go_on.wait(LIMIT_S)

        async with pods:
            await until(stuck.is_set)
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1"))
            await until(lambda: pods.get("lab/web-1") is not None)
            assert pods.is_live()
            assert pods.queue.depth == 3
            go_on.set()
            await until(lambda: pods.queue.depth == 0)

    asyncio.run(main())


def test_a_handler_that_fails_is_called_again(running: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def main() -> None:
        async with unblink.Informer("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig) as pods:

            @pods.on_add
            async def fail_once(new: unblink.Object) -> None:
                calls.append(new.metadata.name)
                if calls.count(new.metadata.name) == 1 and new.metadata.name == "web-0":
                    raise RuntimeError("not yet")

            await until(lambda: sorted(calls) == ["db-0", "web-0", "web-0"])
            assert pods.queue.retries == 1

    asyncio.run(main())
    assert "lab/web-0: on_add handler" in caplog.text


def test_indexes_and_selectors(running: Cluster) -> None:
    async def main() -> None:
        pods = unblink.Informer("v1", "pods", kubeconfig=running.kubeconfig, label_selector="app=web")
        pods.add_index("app", lambda one: one.labels.get("app"))
        async with pods:
            assert [one.metadata.name for one in pods.index("app", "web")] == ["web-0"]
            assert pods.index("app", "db") == []
            assert len(pods) == 1

    asyncio.run(main())


def test_it_is_among_the_metrics_while_it_runs(running: Cluster) -> None:
    async def main() -> None:
        async with unblink.Informer("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig):
            families = {family.name: family for family in metrics.collector().collect()}
            (objects,) = families["unblink_informer_objects"].samples
            assert objects.value == 2
            assert objects.labels == {"api_version": "v1", "resource": "pods", "namespace": "lab"}
        assert not any(family.samples for family in metrics.collector().collect())

    asyncio.run(main())


def test_many_in_one_process_share_connections_and_are_all_told(running: Cluster) -> None:
    async def main() -> None:
        informers = [unblink.Informer("v1", "pods", namespace="lab", kubeconfig=running.kubeconfig) for _ in range(150)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(one.__aenter__() for one in informers))
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1"))
            await until(lambda: all(one.get("lab/web-1") is not None for one in informers))
            assert unblink.health(*informers).live
            await asyncio.gather(*(one.__aexit__(None, None, None) for one in informers))

    asyncio.run(main())
