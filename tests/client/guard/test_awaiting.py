import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from unblink.client.guard.awaiting import follow
from unblink.client.guard.failures import new_guard
from unblink.stream.frames import Frame
from unblink.stream.guarding import AskWatch, Kind, Trouble, timers

HANG = object()


def line(rv: str) -> bytes:
    made = {"metadata": {"name": "a", "uid": "a", "resourceVersion": rv}}
    return json.dumps({"type": "ADDED", "object": made}).encode() + b"\n"


class Script:
    """A client whose watches are lists: bytes, None for the clean end, HANG, or an exception."""

    def __init__(self, *watches: list[Any]) -> None:
        self.watches = list(watches)
        self.said: list[str] = []

    async def watch(self, command: AskWatch) -> "Stream":
        self.said.append(f"watch {command.resource_version}")
        if not self.watches:
            raise PermissionError
        if self.watches[0] == [HANG]:
            self.watches.pop(0)
            await asyncio.Event().wait()
        return Stream(self, self.watches.pop(0))

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        self.said.append("probe" if limit == 1 else "list")
        return b'{"metadata": {"resourceVersion": "100"}, "items": []}'

    def event(self, frame: Frame) -> str:
        return frame.metadata.resource_version

    def trouble(self, error: Exception) -> Trouble:
        if isinstance(error, KeyError):
            raise error
        return Trouble(Kind.FATAL if isinstance(error, PermissionError) else Kind.FAILED, error)

    def exception(self, trouble: Trouble) -> BaseException | None:
        return trouble.error

    async def close(self) -> None:
        self.said.append("close")


class Stream:
    def __init__(self, client: Script, reads: list[Any]) -> None:
        self.client = client
        self.reads = reads

    async def read(self) -> bytes | None:
        step = self.reads.pop(0)
        if step is HANG:
            await asyncio.Event().wait()
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[no-any-return]  # the script's

    async def close(self) -> None:
        self.client.said.append("drop")


async def collect(client: Script, stop_after: int | None = None) -> list[str]:
    stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[str] = []
    async with aclosing(follow(client, new_guard(timers(2), None), 500, stopping)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == stop_after:
                asyncio.get_running_loop().call_soon(stopping.set_result, None)
    return seen


def test_each_ending_is_healed_from_the_last_version() -> None:
    client = Script([line("101"), OSError()], [line("102"), HANG], [HANG], [b"nonsense\n"], [line("103"), HANG])
    assert asyncio.run(asyncio.wait_for(collect(client, stop_after=3), 10)) == ["101", "102", "103"]
    asked = [said for said in client.said if said.startswith("watch")]
    assert asked[:3] == ["watch 100", "watch 101", "watch 102"]
    assert set(asked[3:]) == {"watch 102"}
    assert client.said[-1] == "close"


def test_stopping_ends_a_watch_that_waits() -> None:
    client = Script([line("101"), HANG])
    assert asyncio.run(asyncio.wait_for(collect(client, stop_after=1), 5)) == ["101"]
    assert client.said[-2:] == ["drop", "close"]


def test_an_error_of_the_users_own_code_is_not_swallowed() -> None:
    with pytest.raises(KeyError):
        asyncio.run(collect(Script([KeyError("mine")])))


def test_an_ending_without_an_exception_ends_the_loop() -> None:
    client = Script()
    client.exception = lambda trouble: None  # type: ignore[method-assign]  # as lightkube's on_error_stop
    assert asyncio.run(collect(client)) == []
