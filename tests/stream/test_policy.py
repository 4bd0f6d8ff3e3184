from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.endings import EndedBy
from unblink.stream.policy import CLIENT_GO, Backoff, BackoffPolicy, Recovery


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
