"""Carries out a guard's commands for clients on asyncio: a read that waits goes on while something else is asked.

Every deadline is the event loop's own, whatever time-outs the client has.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Protocol, TypeVar

from unblink.client.guard.failures import NOT_UNDERSTOOD, Listing, now_ms
from unblink.stream.frames import Frame, Lines
from unblink.stream.guarding import (
    AskList,
    AskProbe,
    AskWatch,
    Command,
    GiveUp,
    Guard,
    Kind,
    Pause,
    Read,
    Trouble,
)

T = TypeVar("T")


class Stream(Protocol):
    """The body of an open watch."""

    async def read(self) -> bytes | None:
        """What has arrived, None at the clean end."""

    async def close(self) -> None:
        """Drop the response and its connection."""


class Client(Protocol):
    """One resource, watched with a client's own functions."""

    async def watch(self, command: AskWatch) -> Stream:
        """Open the watch; the client's own exceptions where that fails. May be cancelled."""

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        """One page of a consistent list; the client's own exceptions where that fails. May be cancelled."""

    def event(self, frame: Frame) -> Any:
        """The event as the client's own watch would give it, None for one that it would not give."""

    def trouble(self, error: Exception) -> Trouble:
        """What a failure means.

        :raises Exception: the error itself, if it is none of the network or the server.
        """

    def exception(self, trouble: Trouble) -> BaseException | None:
        """What the client's own watch would raise; None if it would just end."""

    async def close(self) -> None:
        """Close what was opened for the guard alone."""


async def follow(
    client: Client,
    guard: Guard,
    page_limit: int,
    stopping: asyncio.Future[Any],
    lifetime_s: float | None = None,
) -> AsyncGenerator[Any]:
    """The events of the guarded watch, for ``lifetime_s`` or until ``stopping`` is done."""
    over_ms = None if lifetime_s is None else now_ms() + int(lifetime_s * 1000)
    run = _Run(client, guard, page_limit, stopping)
    try:
        command = guard.start()
        while not stopping.done() and (over_ms is None or now_ms() < over_ms):
            command = await run.carry_out(command, None if over_ms is None else over_ms - now_ms())
            for frame in guard.take():
                event = client.event(frame)
                if event is not None:
                    yield event
                if stopping.done():
                    return
    except Stopped:
        return
    finally:
        await run.close()
        await client.close()


class Stopped(Exception):
    """The user has had enough, or the client's own watch would end here without an exception."""


class _Run:
    def __init__(self, client: Client, guard: Guard, page_limit: int, stopping: asyncio.Future[Any]) -> None:
        self._client = client
        self._guard = guard
        self._page_limit = page_limit
        self._stopping = stopping
        self._stream: Stream | None = None
        self._reading: asyncio.Task[bytes | None] | None = None
        self._lines = Lines()

    async def close(self) -> None:
        if self._reading is not None:
            await _cancel(self._reading)
            self._reading = None
        if self._stream is not None:
            await self._stream.close()
            self._stream = None

    async def carry_out(self, command: Command, left_ms: int | None) -> Command:
        guard = self._guard
        timers = guard.timers
        match command:
            case Read():
                return await self._read(left_ms)
            case Pause(ms):
                await self.close()
                wait_ms = ms if left_ms is None else min(ms, max(left_ms, 0))
                await asyncio.wait((self._stopping,), timeout=wait_ms / 1000)
                return guard.resumed()
            case AskWatch():
                opened = await self._within(timers.connect_ms + timers.head_ms, self._client.watch(command))
                if isinstance(opened, Trouble):
                    return guard.failed(opened)
                await self.close()
                self._stream, self._lines = opened, Lines()
                return guard.opened()
            case AskProbe():
                listing = Listing()
                answer = await self._within(timers.probe_ms, self._client.page(1, "", fresh=True))
                try:
                    trouble = answer if isinstance(answer, Trouble) else None
                    if not isinstance(answer, Trouble):
                        listing.take(answer)
                except ValueError:
                    trouble = NOT_UNDERSTOOD
                return guard.failed(trouble) if trouble else guard.probed(listing.resource_version)
            case AskList():
                return await self._list()
            case GiveUp(trouble):
                raised = self._client.exception(trouble)
                raise Stopped if raised is None else raised

    async def _read(self, left_ms: int | None) -> Command:
        guard = self._guard
        if self._stream is None:
            raise AssertionError("a read without a watch")
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._stream.read())
        wait_ms = guard.patience_ms() if left_ms is None else min(guard.patience_ms(), max(left_ms, 1))
        await asyncio.wait((self._reading, self._stopping), timeout=wait_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        if self._stopping.done():
            raise Stopped
        if not self._reading.done():
            return guard.idle()
        reading, self._reading = self._reading, None
        try:
            data = reading.result()
        except Exception as error:
            await self.close()
            return guard.failed(self._client.trouble(error))
        if data is None:
            await self.close()
            return guard.ended()
        return guard.received(self._lines.feed(data), broken=self._lines.error is not None)

    async def _list(self) -> Command:
        listing = Listing()
        while True:
            asked = self._client.page(self._page_limit, listing.continue_token, fresh=False)
            answer = await self._within(self._guard.timers.page_ms, asked)
            if isinstance(answer, Trouble):
                return self._guard.failed(answer)
            try:
                if listing.take(answer):
                    return self._guard.listed(listing.resource_version, listing.items)
            except ValueError:
                return self._guard.failed(NOT_UNDERSTOOD)

    async def _within(self, limit_ms: int, asked: Awaitable[T]) -> T | Trouble:
        """The answer; the trouble where there is none in time.

        :raises Stopped: if the user stops meanwhile.
        """
        task = asyncio.ensure_future(asked)
        try:
            await asyncio.wait((task, self._stopping), timeout=limit_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.done():
                raise Stopped
            if not task.done():
                return Trouble(Kind.LATE, TimeoutError(f"no answer within {limit_ms} ms"))
            try:
                return task.result()
            except Exception as error:
                return self._client.trouble(error)
        finally:
            await _cancel(task)


async def _cancel(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # seen: what was cancelled is not reported as an error that nobody took
