import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from importlib import import_module
from typing import Any

import pytest
from tests.client.guard import checks
from tests.client.guard.checks import MAX_STALENESS_S, Check, Follower
from tests.client.guard.cluster import Cluster, serving

from unblink.client.guard import guard

kopf: Any = import_module("kopf")
watching: Any = import_module("kopf._cogs.clients.watching")
auth: Any = import_module("kopf._cogs.clients.auth")
credentials: Any = import_module("kopf._cogs.structs.credentials")
references: Any = import_module("kopf._cogs.structs.references")

CONFIG_MAPS = references.Resource("", "v1", "configmaps", kind="ConfigMap", namespaced=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as cluster:
        yield cluster


def unguarded() -> Any:
    return kopf.OperatorSettings()


def guarded() -> Any:
    return guard(unguarded(), max_staleness=MAX_STALENESS_S)


def follow(cluster: Cluster, settings: Any) -> Follower:
    """A watcher of kopf, as its operator runs one for each resource."""

    async def loop(follower: Follower) -> None:
        vault = credentials.Vault({"it": credentials.ConnectionInfo(server=cluster.url)})
        auth.vault_var.set(vault)
        events = watching.infinite_watch(settings=settings, resource=CONFIG_MAPS, namespace="default")
        try:
            async with aclosing(events):
                async for event in events:
                    if event is not watching.Bookmark.LISTED and event["type"] != "BOOKMARK":
                        follower.take(event["type"] or "ADDED", event["object"]["metadata"])
        finally:
            await vault.close()

    async def cancelled(follower: Follower) -> None:
        task = asyncio.create_task(loop(follower))
        running = asyncio.get_running_loop()
        follower.stop = lambda: running.call_soon_threadsafe(task.cancel)
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    return Follower(lambda follower: asyncio.run(cancelled(follower)))


# After a 410 kopf's own list follows, which is no event; without a 410 the guard cannot relist for it.
NOT_KOPFS = (checks.check_gone_event, checks.check_gone_answer, checks.check_never_proven)
CHECKS = [check for check in checks.ALL if check not in NOT_KOPFS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_watch_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = follow(cluster, guarded())
    check(cluster, follower)
    follower.end()
    assert follower.error is None


@pytest.mark.parametrize("mode", ["error-410", "410"])
def test_an_expired_version_is_listed_once(mode: str, cluster: Cluster) -> None:
    cluster.write("a")
    follower = follow(cluster, guarded())
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.next_watches.append(mode)
    cluster.break_open_watches("reset")
    cluster.until(lambda: cluster.count("list") == 2 and bool(cluster.watches), "the watch after the list")
    rv = cluster.write("b")
    cluster.until(lambda: follower.has(rv), "the event")
    follower.end()
    assert follower.error is None
    assert cluster.count("list") == 2


def test_a_version_that_expires_again_and_again_is_no_spin(cluster: Cluster) -> None:
    cluster.mode = "error-410"
    follower = follow(cluster, guarded())
    follower.start()
    cluster.until(lambda: bool(cluster.asked), "the list")
    begun = time.monotonic()
    cluster.until(lambda: time.monotonic() - begun > MAX_STALENESS_S, "the relists")
    assert 1 < cluster.count("list") < 15
    follower.end()


def test_an_error_event_that_retrying_cannot_heal_is_a_watching_error(cluster: Cluster) -> None:
    cluster.mode = "error-400"
    follower = follow(cluster, guarded())
    follower.start()
    cluster.until(lambda: follower.error is not None, "the error")
    assert isinstance(follower.error, watching.WatchingError)


def test_a_forbidden_watch_is_retried_as_often_as_kopf_does(cluster: Cluster) -> None:
    settings = guarded()
    settings.networking.error_backoffs = (0.1, 0.1)
    cluster.mode = "403"
    follower = follow(cluster, settings)
    follower.start()
    cluster.until(lambda: follower.error is not None, "the error")
    assert getattr(follower.error, "status", None) == 403
    assert cluster.count("watch") == 3


def test_the_settings_hold_the_bound() -> None:
    settings = guard(unguarded(), max_staleness=45)
    assert settings.watching.server_timeout == 15
    assert settings.watching.inactivity_timeout == 19.5
    assert settings.watching.connect_timeout == 3


def test_the_guard_is_put_in_once() -> None:
    guarded()
    once = watching.watch_objs
    guarded()
    assert watching.watch_objs is once


def test_initial_streaming_stays_kopfs(cluster: Cluster) -> None:
    settings = guarded()
    settings.watching.initial_streaming = True
    cluster.write("a")
    follower = follow(cluster, settings)
    follower.start()
    cluster.until(lambda: bool(follower.got) and bool(cluster.watches), "the stream of all there is")
    assert "sendInitialEvents=true" in cluster.paths[0]
    cluster.break_open_watches("close")
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    follower.end()


def test_unguarded_an_error_event_ends_the_operator(cluster: Cluster) -> None:
    cluster.mode = "error-500"
    follower = follow(cluster, unguarded())
    follower.start()
    cluster.until(lambda: follower.error is not None, "the error")
    assert isinstance(follower.error, watching.WatchingError)


def test_unguarded_a_clean_close_is_asked_again_at_once(cluster: Cluster) -> None:
    cluster.mode = "close"
    follower = follow(cluster, unguarded())
    follower.start()
    cluster.until(lambda: cluster.count("watch") > 50, "the spin")
    follower.end()
