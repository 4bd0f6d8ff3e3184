import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from tests.client.guard import checks
from tests.client.guard.checks import MAX_STALENESS_S, Check, Follower
from tests.client.guard.cluster import Cluster, serving

from unblink.client.guard import guard

lightkube: Any = import_module("lightkube")
types: Any = import_module("lightkube.types")
ConfigMap: Any = import_module("lightkube.resources.core_v1").ConfigMap


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as cluster:
        yield cluster


def config(cluster: Cluster) -> Any:
    models = import_module("lightkube.config.models")
    where = models.Cluster(server=cluster.url)
    return lightkube.KubeConfig.from_one(cluster=where, user=models.User(token="secret"), namespace="default")


def metadata(made: Any) -> dict[str, str]:
    return {"name": made.metadata.name, "resourceVersion": made.metadata.resourceVersion}


def follow(cluster: Cluster) -> Follower:
    """lightkube has no way to stop a watch that waits; the loop leaves at the next event after ``stop``."""
    leaving = threading.Event()

    def work(follower: Follower) -> None:
        with guard(lightkube.Client(config(cluster)), max_staleness=MAX_STALENESS_S) as client:
            for op, made in client.watch(ConfigMap, namespace="default"):
                if leaving.is_set():
                    return
                follower.take(op, metadata(made))

    def stop() -> None:
        leaving.set()
        cluster.mode = cluster.list_mode = "serve"
        cluster.write("z")

    return Follower(work, stop=stop)


def follow_async(cluster: Cluster) -> Follower:
    async def loop(follower: Follower) -> None:
        async with guard(lightkube.AsyncClient(config(cluster)), max_staleness=MAX_STALENESS_S) as client:
            async for op, made in client.watch(ConfigMap, namespace="default"):
                follower.take(op, metadata(made))

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


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_a_watch_on_asyncio_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = follow_async(cluster)
    check(cluster, follower)
    follower.end()
    assert follower.error is None


def test_events_are_those_of_the_client(cluster: Cluster) -> None:
    cluster.write("a")
    with lightkube.Client(config(cluster)) as client:
        theirs = next(iter(client.watch(ConfigMap, namespace="default")))
        ours = next(iter(guard(client).watch(ConfigMap, namespace="default")))
        assert (type(ours), type(ours[1])) == (type(theirs), type(theirs[1]))
        assert (ours[0], ours[1].to_dict()) == (theirs[0], theirs[1].to_dict())


def test_selectors_are_the_clients(cluster: Cluster) -> None:
    cluster.write("a")
    with lightkube.Client(config(cluster)) as client:
        watch = guard(client).watch(ConfigMap, labels={"app": "web"}, fields={"metadata.name": "a"})
        next(watch)
        watch.close()
    assert "labelSelector=app%3Dweb" in cluster.paths[0]
    assert "fieldSelector=metadata.name%3Da" in cluster.paths[0]


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_retrying_cannot_heal_is_the_clients_own_exception(code: int, cluster: Cluster) -> None:
    cluster.list_mode = str(code)
    with lightkube.Client(config(cluster)) as client, pytest.raises(lightkube.ApiError) as caught:
        next(guard(client).watch(ConfigMap))
    assert caught.value.status.code == code
    assert len(cluster.asked) == 1


def test_an_error_event_that_retrying_cannot_heal_is_an_api_error(cluster: Cluster) -> None:
    cluster.mode = "error-403"
    with lightkube.Client(config(cluster)) as client, pytest.raises(lightkube.ApiError, match="made to answer 403"):
        next(guard(client).watch(ConfigMap))


def test_on_error_is_asked_about_what_retrying_cannot_heal(cluster: Cluster) -> None:
    cluster.next_lists.append("403")
    cluster.write("a")
    asked: list[tuple[int, int]] = []

    def retry(error: Any, count: int) -> Any:
        asked.append((error.status.code, count))
        return types.OnErrorResult(types.OnErrorAction.RETRY)

    with lightkube.Client(config(cluster)) as client:
        assert next(guard(client).watch(ConfigMap, on_error=retry))[0] == "ADDED"
        assert asked == [(403, 1)]
        cluster.list_mode = "403"
        assert list(guard(client).watch(ConfigMap, on_error=types.on_error_stop)) == []


def test_an_expired_version_of_the_users_own_is_the_users(cluster: Cluster) -> None:
    cluster.write("a")
    cluster.mode = "error-410"
    with lightkube.Client(config(cluster)) as client, pytest.raises(lightkube.ApiError) as caught:
        next(guard(client).watch(ConfigMap, resource_version="100"))
    assert caught.value.status.code == 410


@pytest.mark.parametrize("start", [follow, follow_async])
def test_a_replacement_is_on_a_connection_of_its_own(start: Any, cluster: Cluster) -> None:
    follower = start(cluster)
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


def test_a_frozen_watch_is_probed_although_its_wait_cannot_be_changed(cluster: Cluster) -> None:
    """httpcore fixes the time-out of all reads when the body begins; what proves nothing must not renew it."""
    follower = follow(cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.break_open_watches("frozen")
    cluster.until(lambda: bool(follower.got), "the first event")
    frozen = time.monotonic()
    cluster.until(lambda: cluster.count("probe") > 0, "the probe")
    assert time.monotonic() - frozen < MAX_STALENESS_S
    follower.end()


def test_the_rest_of_the_client_is_its_own(cluster: Cluster) -> None:
    cluster.write("a")
    with guard(lightkube.Client(config(cluster))) as client:
        assert [made.metadata.name for made in client.list(ConfigMap)] == ["a"]
        assert client.namespace == "default"


def test_unguarded_a_hung_watch_stays(cluster: Cluster) -> None:
    got: list[str] = []

    def loop() -> None:
        with contextlib.suppress(Exception):  # what the end of the cluster does to it
            for op, _ in lightkube.Client(config(cluster)).watch(ConfigMap):
                got.append(op)

    cluster.write("a")
    threading.Thread(target=loop, daemon=True).start()
    cluster.until(lambda: got == ["ADDED"], "the first event")
    cluster.break_open_watches("hang")
    cluster.write("a")
    begun = time.monotonic()
    cluster.until(lambda: time.monotonic() - begun > MAX_STALENESS_S, "the bound")
    assert got == ["ADDED"]
    assert len(cluster.asked) == 1
