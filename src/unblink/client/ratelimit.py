"""How long a key that failed waits, by client-go's default rate limiter.

Source: client-go 1.36, util/workqueue/default_rate_limiters.go, ``DefaultTypedControllerRateLimiter``: the longer of an
exponential pause of the key's own and a place in a bucket that all keys share.
"""

from collections.abc import Callable

BASE_S = 0.005
LIMIT_S = 1000.0
BUCKET_PER_S = 10.0
BUCKET_SIZE = 100


class RetryLimiter:
    """Pauses on an injected clock (seconds, monotonic)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._tokens = float(BUCKET_SIZE)
        self._filled_at_s = clock()

    def pause_s(self, key: str) -> float:
        """Count a failure of the key; how long it waits now: 5 ms, 10 ms, ... up to 1000 s, at least the bucket's wait."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # Beyond 2^63 a float is right as well, but a million failures would not fit into one.
        own_s = min(BASE_S * 2 ** min(failures, 63), LIMIT_S)
        return max(own_s, self._bucket_s())

    def forget(self, key: str) -> None:
        """The key was handled: its next failure is its first."""
        self._failures.pop(key, None)

    def _bucket_s(self) -> float:
        now_s = self._clock()
        self._tokens = min(BUCKET_SIZE, self._tokens + (now_s - self._filled_at_s) * BUCKET_PER_S)
        self._filled_at_s = now_s
        self._tokens -= 1
        return max(0.0, -self._tokens / BUCKET_PER_S)
