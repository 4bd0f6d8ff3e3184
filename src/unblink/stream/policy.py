"""How a watcher asks, and what it does after each ending: data, so that a policy can be read and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from unblink.stream.endings import EndedBy


class Recovery(Enum):
    """What follows when an open watch ended."""

    REWATCH = "a new watch from the last resourceVersion, at once"
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
    brought nothing counts as a failure: RELIST whatever ``recovery`` says.
    """

    name: str
    watch_list: bool
    page_limit: int
    timeout_min_s: int
    timeout_max_s: int
    very_short_watch_ms: int
    backoff: BackoffPolicy
    recovery: Mapping[EndedBy, Recovery]


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
