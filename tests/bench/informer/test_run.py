"""What a client has seen is checked; a client that fails is told by name."""

import os
import sys

import pytest

from bench.informer import pods
from bench.informer.run import Client, Wrong, check, memory, resident_bytes, speed

SEEN: dict[str, object] = {
    "events": 3,
    "calls": 3,
    "last": str(pods.changed_version(2, 2)),
    "checksum": pods.checksum(2, 3),
}


def test_a_client_that_saw_all_is_right() -> None:
    check(Client("it", ()), SEEN, 2, 3)


@pytest.mark.parametrize(
    ("field", "value"), [("events", 2), ("calls", 2), ("last", "1"), ("checksum", pods.checksum(2, 2))]
)
def test_whatever_is_missing_is_told(field: str, value: object) -> None:
    with pytest.raises(Wrong, match=f"^it: {field} is {value}, expected "):
        check(Client("it", ()), SEEN | {field: value}, 2, 3)


def test_a_client_that_coalesces_may_call_less_often() -> None:
    check(Client("it", (), coalesces=True), SEEN | {"calls": 2}, 2, 3)


def test_a_client_without_cache_is_not_asked_for_it() -> None:
    check(Client("it", (), caches=False), SEEN | {"checksum": 0}, 2, 3)


def test_a_client_that_ends_is_told_with_what_it_said() -> None:
    ends = Client("it", (sys.executable, "-c", "raise SystemExit('no such mode')"))
    with pytest.raises(Wrong, match="it ended with 1: no such mode"):
        speed(ends, 1, 1, None)


def test_a_client_that_says_something_else_is_told() -> None:
    talks = Client("it", (sys.executable, "-c", "print('hello')"))
    with pytest.raises(Wrong, match="it said 'hello', expected 'synced'"):
        memory(talks, 1, None, collects=False)


def test_resident_bytes_are_of_the_process() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
