import json
from collections.abc import Callable
from typing import Any

import pytest

from unblink.client.guard.blocking import Silent, follow
from unblink.client.guard.failures import new_guard
from unblink.stream.frames import Frame
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble, timers


def line(rv: str, kind: str = "ADDED") -> bytes:
    made = {"metadata": {"name": "a", "uid": "a", "resourceVersion": rv}}
    return json.dumps({"type": kind, "object": made}).encode() + b"\n"


class Script:
    """A client whose watches are lists: bytes, None for the clean end, or an exception."""

    fixed_ms: int | None = None

    def __init__(self, *watches: list[Any]) -> None:
        self.watches = list(watches)
        self.reads: list[Any] = []
        self.said: list[str] = []

    def stopped(self) -> bool:
        return False

    def watch(self, command: AskWatch, timers: Timers, wait_s: float) -> "Script":
        self.said.append(f"watch {command.resource_version}")
        if not self.watches:
            raise PermissionError
        self.reads = self.watches.pop(0)
        return self

    def read(self, wait_s: float) -> bytes | None:
        step = self.reads.pop(0)
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[no-any-return]  # the script's

    def page(self, limit: int, continue_token: str, wait_s: float, *, fresh: bool) -> bytes:
        self.said.append("probe" if limit == 1 else "list")
        return b'{"metadata": {"resourceVersion": "100"}, "items": []}'

    def event(self, frame: Frame) -> str | None:
        return frame.metadata.resource_version if frame.type != "BOOKMARK" else None

    def trouble(self, error: Exception) -> Trouble:
        if isinstance(error, KeyError):
            raise error
        return Trouble(Kind.FATAL if isinstance(error, PermissionError) else Kind.FAILED, error)

    def exception(self, trouble: Trouble) -> BaseException | None:
        return trouble.error

    def sleep(self, wait_s: float) -> None:
        self.said.append("pause")

    def close(self) -> None:
        self.said.append("close")


def run(client: Script, since: str | None = None) -> list[Any]:
    return list(follow(client, new_guard(timers(10), since), 500))


def test_events_come_however_the_bytes_are_split() -> None:
    whole = line("101") + line("102", "BOOKMARK") + line("103")
    client = Script([whole[:10], whole[10:-5], whole[-5:], None])
    seen: list[Any] = []
    with pytest.raises(PermissionError):
        for event in follow(client, new_guard(timers(10), None), 500):
            seen.append(event)  # noqa: PERF402  # kept although the loop raises
    assert seen == ["101", "103"]
    assert client.said[:2] == ["list", "watch 100"]


def test_each_ending_is_healed_from_the_last_version() -> None:
    client = Script([line("101"), OSError()], [line("102"), Silent()], [b"nonsense\n"], [line("103"), None])
    seen: list[Any] = []
    with pytest.raises(PermissionError):
        for event in follow(client, new_guard(timers(10), None), 500):
            seen.append(event)  # noqa: PERF402  # kept although the loop raises
    assert seen == ["101", "102", "103"]
    asked = [said for said in client.said if said.startswith("watch")]
    assert asked == ["watch 100", "watch 101", "watch 102", "watch 102", "watch 103"]
    assert client.said[-1] == "close"


def test_an_error_of_the_users_own_code_is_not_swallowed() -> None:
    with pytest.raises(KeyError):
        run(Script([KeyError("mine")]))


def test_an_ending_without_an_exception_ends_the_loop() -> None:
    client = Script()
    client.exception = lambda trouble: None  # type: ignore[method-assign]  # as lightkube's on_error_stop
    assert run(client) == []


def test_leaving_the_loop_closes_all() -> None:
    client = Script([line("101"), line("102")])
    events = follow(client, new_guard(timers(10), None), 500)
    assert next(events) == "101"
    close: Callable[[], None] = events.close  # type: ignore[attr-defined]  # it is a generator
    close()
    assert client.said[-2:] == ["close", "close"]
