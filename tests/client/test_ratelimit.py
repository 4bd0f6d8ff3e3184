from unblink.client.ratelimit import RetryLimiter


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_keys_pauses_double_up_to_the_limit_and_start_again_after_a_success() -> None:
    clock = Clock()
    limiter = RetryLimiter(clock)
    pauses = []
    for _ in range(20):
        clock.now_s += 1
        pauses.append(limiter.pause_s("a"))
    assert pauses == [min(0.005 * 2**n, 1000) for n in range(20)]
    assert limiter.pause_s("b") == 0.005
    limiter.forget("a")
    assert limiter.pause_s("a") == 0.005


def test_all_keys_share_a_bucket_of_100_that_fills_by_10_a_second() -> None:
    clock = Clock()
    limiter = RetryLimiter(clock)
    assert {limiter.pause_s(f"key {n}") for n in range(100)} == {0.005}
    assert limiter.pause_s("101st") == 0.1
    assert limiter.pause_s("102nd") == 0.2
    clock.now_s += 0.4  # pays for these two and one more, and leaves one
    assert limiter.pause_s("103rd") == 0.005
    assert limiter.pause_s("104th") == 0.005
    assert limiter.pause_s("105th") == 0.1
    clock.now_s += 3600
    assert {limiter.pause_s(f"later {n}") for n in range(100)} == {0.005}
    assert limiter.pause_s("later 101st") == 0.1


def test_a_key_that_never_succeeds_has_the_longest_pause_and_no_overflow() -> None:
    clock = Clock()
    limiter = RetryLimiter(clock)
    for _ in range(5000):
        clock.now_s += 1000
        pause_s = limiter.pause_s("a")
    assert pause_s == 1000
