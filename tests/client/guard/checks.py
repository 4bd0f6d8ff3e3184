"""What every guard has to hold, whatever the client: each check breaks the cluster in one way and reads the events."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.client.guard.cluster import Cluster

MAX_STALENESS_S = 4.5
SLACK_S = 1.0  # for a machine that does other things meanwhile; the bound's arithmetic is tested on virtual time


@dataclass(frozen=True)
class Got:
    type: str
    name: str
    rv: int
    at: float


@dataclass
class Follower:
    """A user's loop in a thread of its own. ``work`` runs it and calls ``take`` for each event; ``stop`` ends it."""

    work: Callable[["Follower"], None]
    got: list[Got] = field(default_factory=list)
    error: BaseException | None = None
    stop: Callable[[], object] = lambda: None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.work(self)
        except BaseException as error:  # told by the test
            self.error = error

    def take(self, kind: str, metadata: Any) -> None:
        """``metadata`` is a mapping with the names of the API."""
        self.got.append(Got(kind, metadata["name"], int(metadata["resourceVersion"]), time.monotonic()))

    def end(self) -> None:
        self.stop()
        self.thread.join(5)
        assert not self.thread.is_alive(), "the loop does not end when it is stopped"

    def has(self, rv: int) -> bool:
        return any(got.rv == rv for got in self.got)

    def at(self, rv: int) -> float:
        return next(got.at for got in self.got if got.rv == rv)


Check = Callable[[Cluster, Follower], None]


def _open(cluster: Cluster, follower: Follower) -> None:
    """Two objects, and a watch that is open on them."""
    cluster.write("a")
    cluster.write("b")
    follower.start()
    cluster.until(
        lambda: (bool(cluster.watches) and len(follower.got) == 2) or follower.error is not None, "the first watch"
    )
    assert follower.error is None, follower.error
    assert [(got.type, got.name) for got in follower.got] == [("ADDED", "a"), ("ADDED", "b")]


def _in_time(cluster: Cluster, follower: Follower, rv: int, written: float) -> None:
    cluster.until(lambda: follower.has(rv) or follower.error is not None, f"event {rv}")
    assert follower.error is None, follower.error
    assert follower.at(rv) - written <= MAX_STALENESS_S + SLACK_S


def _nothing_lost_or_twice(cluster: Cluster, follower: Follower) -> None:
    told = [(rv, kind) for rv, kind, _ in cluster.log]
    cluster.until(lambda: len(follower.got) >= len(told), "all events")
    assert sorted((got.rv, got.type) for got in follower.got) == told
    assert [got.rv for got in follower.got] == sorted(got.rv for got in follower.got)


def check_hung_watch(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.break_open_watches("hang")
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    _nothing_lost_or_twice(cluster, follower)


def check_hung_watch_and_silent_server(cluster: Cluster, follower: Follower) -> None:
    """As behind a gateway that sends every second request to the dead apiserver."""
    _open(cluster, follower)
    cluster.next_watches.extend(["no-head"])
    cluster.list_mode = "hang"
    cluster.break_open_watches("hang")
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    _nothing_lost_or_twice(cluster, follower)


def check_frozen_watch(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.break_open_watches("frozen")
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    _nothing_lost_or_twice(cluster, follower)


def check_frozen_replacement(cluster: Cluster, follower: Follower) -> None:
    """The first watch after the fault lands on the same apiserver, which is cut off from its store."""
    _open(cluster, follower)
    cluster.next_watches.append("frozen")
    cluster.break_open_watches("frozen")
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    _nothing_lost_or_twice(cluster, follower)


def check_clean_close_spin(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.mode = "close"
    cluster.break_open_watches("close")
    begun, before = time.monotonic(), cluster.count("watch")
    cluster.until(lambda: time.monotonic() - begun > MAX_STALENESS_S, "the spin")
    assert cluster.count("watch") - before <= 15
    rv = cluster.write("a")
    cluster.mode = "serve"
    _in_time(cluster, follower, rv, time.monotonic())
    _nothing_lost_or_twice(cluster, follower)


def check_broken_streams(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    for mode in ("reset", "half", "error-500", "close"):
        cluster.break_open_watches(mode)
        _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    cluster.next_watches.append("503")
    cluster.break_open_watches("reset")
    _in_time(cluster, follower, cluster.write("b"), time.monotonic())
    assert cluster.count("list") == 1
    _nothing_lost_or_twice(cluster, follower)


def _check_gone(cluster: Cluster, follower: Follower) -> None:
    vanished = cluster.log[0][0]
    cluster.delete("a", silently=True)
    rv = cluster.write("b")
    _in_time(cluster, follower, rv, time.monotonic())
    later = cluster.write("c")
    _in_time(cluster, follower, later, time.monotonic())
    events = [(got.type, got.name, got.rv) for got in follower.got[2:]]
    assert events == [("DELETED", "a", vanished), ("MODIFIED", "b", rv), ("ADDED", "c", later)]
    assert cluster.count("list") == 2


def check_gone_event(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.break_open_watches("error-410")
    cluster.until(lambda: not cluster.watches, "the end of the watch")
    _check_gone(cluster, follower)


def check_gone_answer(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.next_watches.append("410")
    cluster.break_open_watches("reset")
    cluster.until(lambda: cluster.count("watch") == 2, "the second watch")
    _check_gone(cluster, follower)


def check_busy(cluster: Cluster, follower: Follower) -> None:
    _open(cluster, follower)
    cluster.next_watches.append("429")
    cluster.break_open_watches("close")
    cluster.until(lambda: cluster.count("watch") == 2, "the refused watch")
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())
    _, refused, after, *_ = (asked for asked in cluster.asked if asked.kind == "watch")
    assert after.at - refused.at >= 1.0
    _nothing_lost_or_twice(cluster, follower)


def check_quiet(cluster: Cluster, follower: Follower) -> None:
    """Nothing is written: the view is proven by probes, the user sees nothing, and nothing is listed again."""
    _open(cluster, follower)
    cluster.until(lambda: cluster.count("probe") >= 2, "two probes")
    assert len(follower.got) == 2
    assert cluster.count("list") == 1
    _in_time(cluster, follower, cluster.write("a"), time.monotonic())


def check_never_proven(cluster: Cluster, follower: Follower) -> None:
    """Every watch is frozen: a list is the last resort, and it brings the change."""
    _open(cluster, follower)
    cluster.mode = "frozen"
    cluster.break_open_watches("frozen")
    rv = cluster.write("a")
    cluster.until(lambda: follower.has(rv), "the relist")
    assert cluster.count("list") == 2
    assert follower.error is None


ALL: list[Check] = [
    check_hung_watch,
    check_hung_watch_and_silent_server,
    check_frozen_watch,
    check_frozen_replacement,
    check_clean_close_spin,
    check_broken_streams,
    check_gone_event,
    check_gone_answer,
    check_busy,
    check_quiet,
    check_never_proven,
]
