import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from tests.client.guard import checks
from tests.client.guard.checks import MAX_STALENESS_S, Check, Follower
from tests.client.guard.cluster import Cluster, serving

from unblink.client.guard import guard

kubernetes: Any = import_module("kubernetes")
informers: Any = import_module("kubernetes.informer")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as cluster:
        yield cluster


def api(cluster: Cluster) -> Any:
    return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(kubernetes.client.Configuration(host=cluster.url)))


def metadata(event: Any) -> Any:
    return event["raw_object"]["metadata"]


def follow(cluster: Cluster, **kwargs: Any) -> Follower:
    watch = guard(kubernetes.watch.Watch(), max_staleness=MAX_STALENESS_S)

    def work(follower: Follower) -> None:
        for event in watch.stream(api(cluster).list_namespaced_config_map, "default", **kwargs):
            follower.take(event["type"], metadata(event))

    return Follower(work, stop=watch.stop)


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_a_watch_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = follow(cluster)
    check(cluster, follower)
    follower.end()
    assert follower.error is None


def test_events_are_those_of_the_client(cluster: Cluster) -> None:
    cluster.write("a")
    theirs = next(iter(kubernetes.watch.Watch().stream(api(cluster).list_namespaced_config_map, "default")))
    ours = next(iter(guard(kubernetes.watch.Watch()).stream(api(cluster).list_namespaced_config_map, "default")))
    assert ours == theirs
    assert isinstance(ours["object"], kubernetes.client.V1ConfigMap)


def test_events_are_not_decoded_if_the_user_says_so(cluster: Cluster) -> None:
    cluster.write("a")
    stream = guard(kubernetes.watch.Watch()).stream
    event = next(iter(stream(api(cluster).list_namespaced_config_map, "default", deserialize=False)))
    assert set(event) == {"type", "object"}
    assert event["object"]["metadata"]["name"] == "a"


@pytest.mark.parametrize(("code", "name"), [("401", "Unauthorized"), ("403", "Forbidden"), ("404", "NotFound")])
def test_what_retrying_cannot_heal_is_the_clients_own_exception(code: str, name: str, cluster: Cluster) -> None:
    cluster.list_mode = code
    with pytest.raises(getattr(kubernetes.client.exceptions, f"{name}Exception")) as caught:
        next(iter(guard(kubernetes.watch.Watch()).stream(api(cluster).list_namespaced_config_map, "default")))
    assert caught.value.status == int(code)
    assert len(cluster.asked) == 1


def test_an_error_event_that_retrying_cannot_heal_is_an_api_exception(cluster: Cluster) -> None:
    cluster.mode = "error-403"
    with pytest.raises(kubernetes.client.ApiException, match="made to answer 403") as caught:
        next(iter(guard(kubernetes.watch.Watch()).stream(api(cluster).list_namespaced_config_map, "default")))
    assert caught.value.status == 403


def test_an_expired_version_of_the_users_own_is_the_users(cluster: Cluster) -> None:
    cluster.write("a")
    cluster.mode = "error-410"
    stream = guard(kubernetes.watch.Watch()).stream
    with pytest.raises(kubernetes.client.ApiException) as caught:
        next(iter(stream(api(cluster).list_namespaced_config_map, "default", resource_version="100")))
    assert caught.value.status == 410
    assert [asked.kind for asked in cluster.asked] == ["watch"]


def test_a_version_of_the_users_own_is_where_the_events_begin(cluster: Cluster) -> None:
    first, second = cluster.write("a"), cluster.write("b")
    follower = follow(cluster, resource_version=str(first))
    follower.start()
    cluster.until(lambda: follower.has(second), "the second event")
    follower.end()
    assert [got.rv for got in follower.got] == [second]
    assert cluster.count("list") == 0


def test_bookmarks_are_given_to_who_asked_for_them(cluster: Cluster) -> None:
    watch = guard(kubernetes.watch.Watch(), max_staleness=MAX_STALENESS_S)
    kinds: list[str] = []

    def work(_: Follower) -> None:
        events = watch.stream(api(cluster).list_namespaced_config_map, "default", allow_watch_bookmarks=True)
        for event in events:
            kinds.append(event["type"])  # noqa: PERF401  # the test looks at it meanwhile

    follower = Follower(work, stop=watch.stop)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.move()
    cluster.until(lambda: len(kinds) == 2, "a bookmark")
    follower.end()
    assert kinds == ["ADDED", "BOOKMARK"]


def test_timeout_seconds_bounds_the_whole_stream(cluster: Cluster) -> None:
    cluster.write("a")
    begun = time.monotonic()
    stream = guard(kubernetes.watch.Watch(), max_staleness=MAX_STALENESS_S).stream
    assert len(list(stream(api(cluster).list_namespaced_config_map, "default", timeout_seconds=2))) == 1
    assert 1.9 < time.monotonic() - begun < 3
    assert cluster.count("watch") > 1


def test_stop_ends_a_stream_that_waits(cluster: Cluster) -> None:
    watch = guard(kubernetes.watch.Watch(), max_staleness=180)
    events = watch.stream(api(cluster).list_namespaced_config_map, "default")
    thread = threading.Thread(target=lambda: list(events))
    thread.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    watch.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_a_slow_loop_is_no_silence(cluster: Cluster) -> None:
    """While the user works the guard cannot read; what arrived meanwhile is read before anything is called silent."""
    cluster.write("a")
    cluster.write("b")
    stream = guard(kubernetes.watch.Watch(), max_staleness=MAX_STALENESS_S).stream
    events = stream(api(cluster).list_namespaced_config_map, "default", resource_version="100")
    next(events)
    rv, begun = cluster.write("c"), time.monotonic()
    cluster.until(lambda: time.monotonic() - begun > MAX_STALENESS_S, "the user's work")
    assert [int(metadata(next(events))["resourceVersion"]) for _ in range(2)] == [rv - 1, rv]
    assert cluster.count("probe") == 0


def test_a_replacement_is_on_a_connection_of_its_own(cluster: Cluster) -> None:
    follower = follow(cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.break_open_watches("hang")
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    follower.end()
    watches = [asked.port for asked in cluster.asked if asked.kind == "watch"]
    assert watches[-1] not in {asked.port for asked in cluster.asked if asked.kind != "watch"} | set(watches[:-1])


def test_logs_are_left_to_the_client() -> None:
    class Api:
        def read_log(self) -> Any:
            """:param follow: Follow the log."""

    class Inner:
        def get_watch_argument_name(self, _func: Callable[..., Any]) -> str:
            return "follow"

        def stream(self, _func: Callable[..., Any]) -> Iterator[str]:
            return iter(["a line"])

    from unblink.client.guard.official import GuardedWatch
    from unblink.stream.guarding import timers

    assert list(GuardedWatch(Inner(), timers(10)).stream(Api().read_log)) == ["a line"]


def test_unguarded_it_hangs_and_spins(cluster: Cluster) -> None:
    """The contrast: a clean close is asked again at once, and a hung watch is never left."""
    watch = kubernetes.watch.Watch()
    follower = Follower(
        lambda follower: _take_all(follower, watch.stream(api(cluster).list_namespaced_config_map, "default")),
        stop=watch.stop,
    )
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(follower.got), "the first event")
    cluster.mode = "close"
    cluster.break_open_watches("close")
    cluster.until(lambda: cluster.count("watch") > 50, "the spin")
    cluster.mode = "hang"
    cluster.until(lambda: bool(cluster.watches) and cluster.watches[-1].mode == "hang", "the hung watch")
    asked, rv, begun = len(cluster.asked), cluster.write("a"), time.monotonic()
    cluster.until(lambda: time.monotonic() - begun > MAX_STALENESS_S, "the bound")
    assert not follower.has(rv)
    assert len(cluster.asked) == asked
    cluster.closing = True
    follower.stop()


def _take_all(follower: Follower, events: Iterator[Any]) -> None:
    for event in events:
        follower.take(event["type"], metadata(event))


def informed(cluster: Cluster) -> Follower:
    informer = guard(
        informers.SharedInformer(api(cluster).list_namespaced_config_map, "default"), max_staleness=MAX_STALENESS_S
    )

    def work(follower: Follower) -> None:
        for kind in (informers.ADDED, informers.MODIFIED, informers.DELETED):
            informer.add_event_handler(kind, lambda made, kind=kind: follower.take(kind, _names(made)))
        informer.start()

    return Follower(work, stop=informer.stop)


def _names(made: Any) -> dict[str, str]:
    return {"name": made.metadata.name, "resourceVersion": made.metadata.resource_version}


INFORMED = [check for check in checks.ALL if check is not checks.check_never_proven]


@pytest.mark.parametrize("check", INFORMED, ids=lambda check: check.__name__)
def test_an_informer_is_kept_within_its_bound(check: Check, cluster: Cluster) -> None:
    follower = informed(cluster)
    check(cluster, follower)
    follower.end()


def test_an_informer_that_is_refused_does_not_spin(cluster: Cluster) -> None:
    follower = informed(cluster)
    cluster.write("a")
    follower.start()
    cluster.until(lambda: bool(cluster.watches), "the watch")
    cluster.mode = "403"
    cluster.break_open_watches("close")
    begun = time.monotonic()
    cluster.until(lambda: time.monotonic() - begun > 1, "the refusals")
    assert cluster.count("watch") < 12
    cluster.mode = "serve"
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the event")
    follower.end()
