"""How a watcher asks, and what it does after each ending: data, so that a policy can be read and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from unblink.stream.endings import EndedBy


class Recovery(Enum):
    """What follows when an open watch ended."""

    REWATCH = "a new watch from the last resourceVersion, at once"
    PAUSE = "a pause, then a new watch from the last resourceVersion"
    RELIST = "a pause, then a list"


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Pauses of ``base_ms`` doubling up to ``limit_ms``, each stretched by a random part of up to ``jitter`` of itself.

    A pause asked for more than ``reset_after_ms`` after the one before starts at ``base_ms`` again.
    """

    base_ms: int
    limit_ms: int
    jitter: float
    reset_after_ms: int


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """One watcher's habits.

    ``page_limit`` holds for consistent and initial lists. The end of a watch younger than ``very_short_watch_ms`` that
    brought nothing counts as a failure: ``after_very_short`` whatever ``recovery`` says. ``liveness`` of None is a
    watcher without any deadline of its own.
    """

    name: str
    watch_list: bool
    page_limit: int
    timeout_min_s: int
    timeout_max_s: int
    very_short_watch_ms: int
    backoff: BackoffPolicy
    recovery: Mapping[EndedBy, Recovery]
    after_very_short: Recovery = Recovery.RELIST
    liveness: "Liveness | None" = None


@dataclass(frozen=True, slots=True)
class Liveness:
    """What keeps a watch within its bound, all in ms. No one of these waits for a byte of the server.

    A watch without proof of life for ``silence_ms`` is probed: a consistent list of one object, answered within
    ``probe_ms``, says which resourceVersion there is; the watch has ``grace_ms`` to reach it. Otherwise it is stale,
    and replacements are opened from the last resourceVersion, one each ``hedge_ms``, up to ``replacements_at_once``,
    until one of them proves itself. Where none does for ``verify_ms``, a consistent list settles it. Initial events of
    a WatchList may pause for ``sync_ms``.

    Where bookmarks turned out to need it, the probe goes out after ``prompt_ms`` already, for it makes the watch cache
    of a resource that nobody writes move, so that there is something for the bookmark to say.

    A watch's timeoutSeconds is between ``timeout_min_s`` and ``timeout_max_s``, a replacement's is
    ``replacement_timeout_s``, and every watch's is ``short_timeout_s`` once the server turned out not to send bookmarks
    often enough all the same: kube-apiserver sends one about 2 s before that deadline.
    """

    max_staleness_ms: int
    silence_ms: int
    prompt_ms: int
    probe_ms: int
    grace_ms: int
    hedge_ms: int
    replacements_at_once: int
    replacement_timeout_s: int
    short_timeout_s: int
    verify_ms: int
    head_ms: int
    page_ms: int
    sync_ms: int
    body_margin_ms: int


MIN_MAX_STALENESS_S = 10.0
"""Below it no two bookmarks come in time: each comes 2 s before a watch's end, to the second."""

REPLACEMENT_TIMEOUT_S = 3
"""The shortest watch that gets a bookmark before its end: one second after its start."""

BOOKMARK_PERIOD_S = 60
"""kube-apiserver's own (k8s.io/apiserver, storage/cacher, defaultBookmarkFrequency)."""

LONG_WATCHES_FROM_S = 155.0
"""Two bookmark periods and what finding a replacement takes: the least bound that needs no short watches."""


CLIENT_GO = WatchPolicy(
    name="client-go",
    watch_list=True,
    page_limit=500,
    timeout_min_s=300,
    timeout_max_s=600,
    very_short_watch_ms=1000,
    backoff=BackoffPolicy(base_ms=800, limit_ms=30_000, jitter=1.0, reset_after_ms=120_000),
    recovery={
        EndedBy.SERVER_CLOSED: Recovery.REWATCH,
        EndedBy.STREAM_RESET: Recovery.RELIST,
        EndedBy.CONNECTION_LOST: Recovery.REWATCH,
        EndedBy.DEADLINE: Recovery.RELIST,
    },
)
"""The reflector of client-go 1.36 (tools/cache/reflector.go): no deadline of its own on a silent watch.

Measured with an informer: after RST_STREAM(INTERNAL_ERROR) it pauses and lists; after FIN or RST of its own connection
it watches again at once, as after a clean end (apimachinery takes "unexpected EOF" and "connection reset by peer" so).
"""


def bounded(max_staleness_s: float) -> WatchPolicy:
    """The policy of a watcher that is never blind for longer than ``max_staleness_s`` while an apiserver is there.

    The bound is divided. The first bookmark after an apiserver lost its store may still be newer than what is held, so
    one gap between two bookmarks is lost; then comes the silence, in which a bookmark must have had its chance; what is
    left pays for the probe, its grace and the replacements. From ``LONG_WATCHES_FROM_S`` on kube-apiserver's own
    bookmarks come often enough and watches last 5 to 10 minutes as client-go's do; below, a watch lasts for 30 % of the
    bound.

    :raises ValueError: if the bound is below ``MIN_MAX_STALENESS_S`` or not a number of seconds.
    """
    if not MIN_MAX_STALENESS_S <= max_staleness_s < float("inf"):
        raise ValueError(f"max_staleness: expected at least {MIN_MAX_STALENESS_S:g} s, found {max_staleness_s:g}")
    bound_ms = int(max_staleness_s * 1000)
    long_watches = max_staleness_s >= LONG_WATCHES_FROM_S
    short_s = min(int(max_staleness_s * 0.3), BOOKMARK_PERIOD_S)
    return WatchPolicy(
        name="bounded",
        watch_list=True,
        page_limit=500,
        timeout_min_s=300 if long_watches else short_s,
        timeout_max_s=600 if long_watches else short_s,
        very_short_watch_ms=1000,
        backoff=BackoffPolicy(base_ms=800, limit_ms=max(800, bound_ms // 10), jitter=1.0, reset_after_ms=120_000),
        recovery={
            EndedBy.SERVER_CLOSED: Recovery.REWATCH,
            EndedBy.STREAM_RESET: Recovery.REWATCH,
            EndedBy.CONNECTION_LOST: Recovery.REWATCH,
            EndedBy.DEADLINE: Recovery.REWATCH,
        },
        after_very_short=Recovery.PAUSE,
        liveness=Liveness(
            max_staleness_ms=bound_ms,
            silence_ms=bound_ms * (42 if long_watches else 45) // 100,
            prompt_ms=bound_ms * 22 // 100,
            probe_ms=bound_ms * 5 // 100,
            grace_ms=bound_ms * 25 // 1000,
            hedge_ms=bound_ms * 25 // 1000,
            replacements_at_once=4 if long_watches else 6,
            replacement_timeout_s=REPLACEMENT_TIMEOUT_S,
            short_timeout_s=short_s,
            verify_ms=bound_ms,
            head_ms=max(bound_ms // 4, 2000),
            page_ms=max(bound_ms // 4, 4000),
            sync_ms=10_000,
            body_margin_ms=max(bound_ms // 20, 1000),
        ),
    )


class Backoff:
    """The pauses of one watcher, on an injected clock (ms) and an injected random number in [0, 1)."""

    def __init__(self, policy: BackoffPolicy, now_ms: Callable[[], int], random: Callable[[], float]) -> None:
        self._policy = policy
        self._now_ms = now_ms
        self._random = random
        self._next_ms = policy.base_ms
        self._asked_ms: int | None = None

    def pause_ms(self) -> int:
        """The next pause, in ms."""
        now_ms = self._now_ms()
        if self._asked_ms is not None and now_ms - self._asked_ms > self._policy.reset_after_ms:
            self._next_ms = self._policy.base_ms
        self._asked_ms = now_ms
        pause_ms = self._next_ms
        self._next_ms = min(2 * pause_ms, self._policy.limit_ms)
        return int(pause_ms * (1 + self._policy.jitter * self._random()))
