import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
from tests.client.guard import checks
from tests.client.guard.checks import MAX_STALENESS_S, Check, Follower
from tests.client.guard.cluster import Cluster, serving

from unblink.client.guard import guard

kr8s: Any = import_module("kr8s")
kr8s_asyncio: Any = import_module("kr8s.asyncio")
objects: Any = import_module("kr8s.asyncio.objects")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as cluster:
        yield cluster


@asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Any]:
    """kr8s leaves its session open for good."""
    api = await kr8s_asyncio.api(url=cluster.url, kubeconfig="/nowhere", namespace="default")
    try:
        yield api
    finally:
        await api._session.aclose()


def follow(cluster: Cluster, kind: Any = "configmaps") -> Follower:
    async def loop(follower: Follower) -> None:
        watch = guard(kr8s_asyncio, max_staleness=MAX_STALENESS_S).watch
        async with connected(cluster) as api, aclosing(watch(kind, namespace="default", api=api)) as events:
            async for event, made in events:
                follower.take(event, made.metadata)

    return cancellable(loop)


def cancellable(loop: Any) -> Follower:
    async def cancelled(follower: Follower) -> None:
        task = asyncio.create_task(loop(follower))
        running = asyncio.get_running_loop()
        follower.stop = lambda: running.call_soon_threadsafe(task.cancel)
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    return Follower(lambda follower: asyncio.run(cancelled(follower)))


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_a_watch_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = follow(cluster)
    check(cluster, follower)
    follower.end()
    assert follower.error is None
    assert cluster.paths.count("/api/") == 1, "discovery is asked once"


def test_a_class_is_a_kind_too(cluster: Cluster) -> None:
    follower = follow(cluster, objects.ConfigMap)
    checks.check_hung_watch(cluster, follower)
    follower.end()
    assert follower.error is None


def blocking(cluster: Cluster) -> Follower:
    """kr8s has no way to stop a blocking watch that waits; the loop leaves at the next event after ``stop``."""
    leaving = threading.Event()

    def work(follower: Follower) -> None:
        its_api = kr8s.api(url=cluster.url, kubeconfig="/nowhere", namespace="default")
        for event, made in guard(kr8s, max_staleness=MAX_STALENESS_S).watch("configmaps", api=its_api):
            if leaving.is_set():
                break
            follower.take(event, made.metadata)
        import_module("kr8s._async_utils").Portal().call(its_api._session.aclose)

    def stop() -> None:
        leaving.set()
        cluster.write("z")

    return Follower(work, stop=stop)


@pytest.mark.parametrize("check", [checks.check_hung_watch, checks.check_gone_event], ids=lambda check: check.__name__)
def test_a_blocking_watch_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = blocking(cluster)
    check(cluster, follower)
    follower.end()
    assert follower.error is None
    cluster.until(lambda: not cluster.watches, "the end of the watch")


def test_an_api_is_guarded_too(cluster: Cluster) -> None:
    async def loop(follower: Follower) -> None:
        async with connected(cluster) as api:
            guarded = guard(api, max_staleness=MAX_STALENESS_S)
            assert guarded.namespace == "default"
            async with aclosing(guarded.watch("configmaps")) as events:
                async for event, made in events:
                    follower.take(event, made.metadata)

    follower = cancellable(loop)
    checks.check_hung_watch(cluster, follower)
    follower.end()
    assert follower.error is None


def test_an_object_is_guarded_from_its_own_version_on(cluster: Cluster) -> None:
    async def loop(follower: Follower) -> None:
        async with connected(cluster) as api:
            [made] = [one async for one in api.get("configmaps")]
            async with aclosing(guard(made, max_staleness=MAX_STALENESS_S).watch()) as events:
                async for event, same in events:
                    assert same is made
                    follower.take(event, made.metadata)

    cluster.write("a")
    follower = cancellable(loop)
    follower.start()
    cluster.until(lambda: bool(cluster.watches) or follower.error is not None, "the watch")
    assert not follower.got
    cluster.break_open_watches("hang")
    written, rv = time.monotonic(), cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    assert follower.at(rv) - written <= MAX_STALENESS_S + checks.SLACK_S
    follower.end()
    assert follower.error is None
    assert "fieldSelector=metadata.name%3Da" in cluster.paths[-1]


def first(watch: Any, cluster: Cluster) -> Any:
    async def take() -> Any:
        async with connected(cluster) as api, aclosing(watch("configmaps", namespace="default", api=api)) as events:
            event, made = await anext(events)
            return event, made.raw, type(made), made.api is api

    return asyncio.run(take())


def test_events_are_those_of_the_client(cluster: Cluster) -> None:
    cluster.write("a")
    assert first(guard(kr8s_asyncio).watch, cluster) == first(kr8s_asyncio.watch, cluster)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_retrying_cannot_heal_is_the_clients_own_exception(code: int, cluster: Cluster) -> None:
    cluster.list_mode = str(code)
    with pytest.raises(kr8s.ServerError, match=f"made to answer {code}") as caught:
        first(guard(kr8s_asyncio).watch, cluster)
    assert caught.value.response.status_code == code
    assert len(cluster.asked) == (1 if code == 404 else 4)  # kr8s itself logs in again three times


def test_an_error_event_that_retrying_cannot_heal_is_a_server_error(cluster: Cluster) -> None:
    cluster.mode = "error-403"
    with pytest.raises(kr8s.ServerError, match="made to answer 403") as caught:
        first(guard(kr8s_asyncio).watch, cluster)
    assert caught.value.status["code"] == 403


def test_a_replacement_is_on_a_connection_of_its_own(cluster: Cluster) -> None:
    follower = follow(cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.list_mode = "hang"  # the probe has no answer
    cluster.break_open_watches("hang")
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    replacement = next(asked for asked in reversed(cluster.asked) if asked.kind == "watch" and asked.rv == str(rv - 1))
    assert replacement.port not in {asked.port for asked in cluster.asked if asked.at < replacement.at}
    follower.end()


def test_the_rest_of_the_module_is_its_own() -> None:
    assert guard(kr8s).get is kr8s.get
    assert guard(kr8s_asyncio).get is kr8s_asyncio.get


def test_unguarded_an_expired_version_is_asked_for_again_at_once(cluster: Cluster) -> None:
    async def loop(follower: Follower) -> None:
        async with connected(cluster) as api:
            async for event, made in kr8s_asyncio.watch("configmaps", namespace="default", api=api):
                follower.take(event, made.metadata)

    follower = cancellable(loop)
    cluster.mode = "error-410"
    follower.start()
    cluster.until(lambda: cluster.count("watch") > 50, "the spin")
    follower.end()
