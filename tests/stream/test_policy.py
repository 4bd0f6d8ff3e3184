import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.endings import EndedBy
from unblink.stream.policy import CLIENT_GO, MIN_MAX_STALENESS_S, Backoff, BackoffPolicy, Recovery, bounded


def test_client_go_pauses_double_to_their_limit_and_start_again_after_two_quiet_minutes() -> None:
    now_ms = 0
    backoff = Backoff(CLIENT_GO.backoff, lambda: now_ms, lambda: 0.0)
    assert [backoff.pause_ms() for _ in range(8)] == [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
    now_ms += 120_000
    assert backoff.pause_ms() == 30_000
    now_ms += 120_001
    assert backoff.pause_ms() == 800


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 20))
def test_jitter_only_stretches(random: float, asked: int) -> None:
    policy = BackoffPolicy(base_ms=100, limit_ms=1000, jitter=1.0, reset_after_ms=10_000)
    backoff = Backoff(policy, lambda: 0, lambda: random)
    for number in range(asked):
        plain_ms = min(100 * 2**number, 1000)
        assert plain_ms <= backoff.pause_ms() <= 2 * plain_ms


def test_client_go_relists_after_a_reset_and_not_after_the_end_of_its_own_connection() -> None:
    rewatched = {by for by, recovery in CLIENT_GO.recovery.items() if recovery is Recovery.REWATCH}
    assert rewatched == {EndedBy.SERVER_CLOSED, EndedBy.CONNECTION_LOST}


def test_client_go_has_no_deadline_of_its_own() -> None:
    assert CLIENT_GO.liveness is None
    assert CLIENT_GO.after_very_short is Recovery.RELIST


@pytest.mark.parametrize("bound_s", [9.99, 0, -1, float("nan"), float("inf")])
def test_a_bound_that_no_bookmark_can_keep_is_refused(bound_s: float) -> None:
    with pytest.raises(ValueError, match="max_staleness: expected at least 10 s, found"):
        bounded(bound_s)


BOOKMARK_OF_A_REPLACEMENT_MS = 1000
"""kube-apiserver sends it two seconds before the watch's end, which comes after three."""


@given(st.floats(MIN_MAX_STALENESS_S, 3600))
def test_the_timers_add_up_to_less_than_the_bound(bound_s: float) -> None:
    live = bounded(bound_s).liveness
    assert live is not None
    assert live.max_staleness_ms == int(bound_s * 1000)
    hedges_ms = (live.replacements_at_once - 1) * live.hedge_ms
    doubt_ms = live.silence_ms + live.probe_ms + live.grace_ms
    assert doubt_ms + hedges_ms + BOOKMARK_OF_A_REPLACEMENT_MS < live.max_staleness_ms
    assert min(live.probe_ms, live.grace_ms, live.hedge_ms) >= 200


@given(st.floats(MIN_MAX_STALENESS_S, 3600))
def test_a_living_watch_gets_a_bookmark_before_its_silence_is_too_long(bound_s: float) -> None:
    """Either each minute, or two seconds before the end of a short watch, and of the next one."""
    policy = bounded(bound_s)
    live = policy.liveness
    assert live is not None
    if policy.timeout_min_s >= 300:
        assert live.silence_ms > 64_000
    else:
        assert policy.timeout_max_s * 1000 < live.silence_ms
        assert policy.timeout_max_s == live.short_timeout_s >= live.replacement_timeout_s


@given(st.floats(MIN_MAX_STALENESS_S, 3600))
def test_no_ending_but_an_expired_version_is_a_reason_to_list(bound_s: float) -> None:
    policy = bounded(bound_s)
    assert set(policy.recovery.values()) == {Recovery.REWATCH}
    assert policy.after_very_short is Recovery.PAUSE
    assert policy.backoff.base_ms <= policy.backoff.limit_ms
