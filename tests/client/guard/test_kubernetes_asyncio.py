import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
from tests.client.guard import checks
from tests.client.guard.checks import MAX_STALENESS_S, Check, Follower
from tests.client.guard.cluster import Cluster, serving

from unblink.client.guard import guard

kubernetes_asyncio: Any = import_module("kubernetes_asyncio")
kubernetes_aio: Any = import_module("kubernetes.aio")
CLIENTS = [kubernetes_asyncio, kubernetes_aio]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as cluster:
        yield cluster


@pytest.fixture(params=CLIENTS, ids=lambda client: client.__name__)
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def api(client: Any, cluster: Cluster) -> AsyncIterator[Any]:
    async with client.client.ApiClient(client.client.Configuration(host=cluster.url)) as api_client:
        yield client.client.CoreV1Api(api_client).list_namespaced_config_map


def follow(client: Any, cluster: Cluster) -> Follower:
    async def loop(follower: Follower) -> None:
        watch = guard(client.watch.Watch(), max_staleness=MAX_STALENESS_S)
        running = asyncio.get_running_loop()
        follower.stop = lambda: running.call_soon_threadsafe(watch.stop)
        async with api(client, cluster) as function, watch:
            async for event in watch.stream(function, "default"):
                follower.take(event["type"], event["raw_object"]["metadata"])

    return Follower(lambda follower: asyncio.run(loop(follower)))


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_a_watch_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = follow(kubernetes_asyncio, cluster)
    check(cluster, follower)
    follower.end()
    assert follower.error is None


def test_the_official_clients_asyncio_part_is_guarded_too(cluster: Cluster) -> None:
    follower = follow(kubernetes_aio, cluster)
    checks.check_hung_watch(cluster, follower)
    follower.end()
    assert follower.error is None


def first(client: Any, cluster: Cluster, wrap: Callable[[Any], Any], **kwargs: Any) -> Any:
    async def take() -> Any:
        async with api(client, cluster) as function, wrap(client.watch.Watch()) as watch:
            return await anext(watch.stream(function, "default", **kwargs))

    return asyncio.run(take())


def test_events_are_those_of_the_client(client: Any, cluster: Cluster) -> None:
    cluster.write("a")
    ours, theirs = first(client, cluster, guard), first(client, cluster, lambda watch: watch)
    assert ours == theirs
    assert isinstance(ours["object"], client.client.V1ConfigMap)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_retrying_cannot_heal_is_the_clients_own_exception(code: int, client: Any, cluster: Cluster) -> None:
    cluster.list_mode = str(code)
    with pytest.raises(client.client.exceptions.ApiException) as caught:
        first(client, cluster, guard)
    assert caught.value.status == code
    assert f"made to answer {code}" in caught.value.body
    assert len(cluster.asked) == 1


def test_an_error_event_that_retrying_cannot_heal_is_an_api_exception(client: Any, cluster: Cluster) -> None:
    cluster.mode = "error-403"
    with pytest.raises(client.client.exceptions.ApiException, match="made to answer 403") as caught:
        first(client, cluster, guard)
    assert caught.value.status == 403


def test_an_expired_version_of_the_users_own_is_the_users(client: Any, cluster: Cluster) -> None:
    cluster.write("a")
    cluster.mode = "error-410"
    with pytest.raises(client.client.exceptions.ApiException) as caught:
        first(client, cluster, guard, resource_version="100")
    assert caught.value.status == 410


def test_timeout_seconds_bounds_the_whole_stream(client: Any, cluster: Cluster) -> None:
    cluster.write("a")

    async def take() -> list[Any]:
        async with api(client, cluster) as function:
            watch = guard(client.watch.Watch(), max_staleness=MAX_STALENESS_S)
            return [event async for event in watch.stream(function, "default", timeout_seconds=2)]

    assert len(asyncio.run(asyncio.wait_for(take(), 5))) == 1
    assert cluster.count("watch") > 1


def test_the_old_watch_stays_open_until_its_replacement_is(cluster: Cluster) -> None:
    follower = follow(kubernetes_asyncio, cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    old = cluster.watches[0].asked
    cluster.next_watches.append("no-head")
    cluster.break_open_watches("hang")
    cluster.write("a")
    cluster.until(lambda: any(watch.mode == "no-head" for watch in cluster.watches), "the first replacement")
    assert not old.ended
    cluster.until(lambda: old.ended, "the end of the old one")
    follower.end()


def test_a_replacement_is_on_a_connection_of_its_own(cluster: Cluster) -> None:
    follower = follow(kubernetes_asyncio, cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.break_open_watches("hang")
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    replaced = [asked.port for asked in cluster.asked if asked.kind == "watch"]
    assert replaced[-1] not in {asked.port for asked in cluster.asked if asked.kind != "watch"} | set(replaced[:-1])
    follower.end()


def test_leaving_the_loop_leaves_no_connection(cluster: Cluster) -> None:
    cluster.write("a")

    async def leave() -> None:
        async with api(kubernetes_asyncio, cluster) as function:
            async with guard(kubernetes_asyncio.watch.Watch()) as watch:
                async for _ in watch.stream(function, "default"):
                    break
            await asyncio.to_thread(cluster.until, lambda: not cluster.watches, "the end of the watch")

    asyncio.run(leave())


def test_cancelling_the_loop_ends_it(cluster: Cluster) -> None:
    async def cancel() -> None:
        async def loop() -> None:
            async with api(kubernetes_asyncio, cluster) as function, guard(kubernetes_asyncio.watch.Watch()) as watch:
                async for _ in watch.stream(function, "default"):
                    pass

        task = asyncio.create_task(loop())
        await asyncio.to_thread(cluster.until, lambda: bool(cluster.watches), "the watch")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(cluster.until, lambda: not cluster.watches, "the end of the watch")

    asyncio.run(cancel())
