import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from unblink.client import workqueue
from unblink.client.workqueue import Handler, Handlers, WorkQueue, is_async

LIMIT_S = 10.0


@dataclass(frozen=True)
class Metadata:
    uid: str = "u"


@dataclass(frozen=True)
class Thing:
    version: int
    metadata: Metadata = Metadata()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


class Book:
    """Handlers that write down how they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()

    def on_add(self, new: Thing) -> None:
        self.note("add", new.version)

    def on_update(self, old: Thing, new: Thing) -> None:
        self.note("update", old.version, new.version)

    def on_delete(self, old: Thing) -> None:
        self.note("delete", old.version)

    async def on_add_async(self, new: Thing) -> None:
        await asyncio.sleep(0)
        self.note("add", new.version)

    def note(self, *call: Any) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(call)


def test_a_sync_handler_runs_beside_the_loop_and_an_async_one_in_it() -> None:
    async def run(handlers: Handlers) -> None:
        queue = WorkQueue(handlers)
        queue.put("k", None, Thing(1))
        assert await queue.close(LIMIT_S) == []

    book = Book()
    asyncio.run(run(Handlers([book.on_add])))
    assert book.calls == [("add", 1)]
    assert threading.get_ident() not in book.threads

    book = Book()
    asyncio.run(run(Handlers([book.on_add_async])))
    assert book.calls == [("add", 1)]
    assert book.threads == {threading.get_ident()}


def test_sync_and_async_handlers_of_one_key_are_called_in_order() -> None:
    async def run() -> list[str]:
        calls = []

        def first(new: Thing) -> None:
            calls.append("first")

        async def second(new: Thing) -> None:
            assert threading.current_thread() is threading.main_thread()
            await asyncio.sleep(0.001)
            calls.append("second")

        queue = WorkQueue(Handlers([first, second, lambda new: calls.append("third")]))
        queue.put("k", None, Thing(1))
        assert await queue.close(LIMIT_S) == []
        return calls

    assert asyncio.run(run()) == ["first", "second", "third"]


def test_a_handler_that_sleeps_does_not_stop_the_loop_and_what_comes_meanwhile_is_one_change() -> None:
    async def run() -> None:
        book, hold, begun = Book(), threading.Event(), threading.Event()

        def on_add(new: Thing) -> None:
            begun.set()
            assert hold.wait(LIMIT_S)
            book.on_add(new)

        queue = WorkQueue(Handlers([on_add], [book.on_update], [book.on_delete]))
        queue.put("k", None, Thing(0))
        await until(begun.is_set)
        for version in range(1000):
            queue.put("k", Thing(version), Thing(version + 1))
        assert queue.depth == 1
        assert book.calls == []
        hold.set()
        assert await queue.close(LIMIT_S) == []
        assert book.calls == [("add", 0), ("update", 0, 1000)]

    asyncio.run(run())


def test_workers_handle_several_keys_at_once_and_never_one_twice() -> None:
    async def run() -> None:
        together = threading.Barrier(3)
        now: dict[str, int] = dict.fromkeys("abc", 0)
        lock = threading.Lock()

        def on_add(new: Thing) -> None:
            together.wait(LIMIT_S)

        def on_update(old: Thing, new: Thing) -> None:
            key = "abc"[old.version % 3]
            with lock:
                now[key] += 1
                assert now[key] == 1
            time.sleep(0.0001)
            with lock:
                now[key] -= 1

        queue = WorkQueue(Handlers([on_add], [on_update]), workers=3)
        for number, key in enumerate("abc"):
            queue.put(key, None, Thing(number))
        await until(lambda: not queue.depth)
        for turn in range(500):
            for number, key in enumerate("abc"):
                queue.put(key, Thing(number + 3 * turn), Thing(number + 3 * turn + 3))
            await asyncio.sleep(0)
        assert await queue.close(LIMIT_S) == []
        assert queue.failures == 0

    asyncio.run(run())


def test_async_workers_handle_several_keys_at_once() -> None:
    async def run() -> None:
        together = asyncio.Barrier(3)

        async def on_add(new: Thing) -> None:
            await together.wait()

        queue = WorkQueue(Handlers([on_add]), workers=3)
        for key in "abc":
            queue.put(key, None, Thing(1))
        assert await queue.close(LIMIT_S) == []

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_raises_is_called_again_until_it_succeeds(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        book = Book()

        def fail_twice(new: Thing) -> None:
            book.on_add(new)
            if len(book.calls) < 3:
                raise ValueError("no luck")

        async def fail_twice_async(new: Thing) -> None:
            fail_twice(new)

        queue = WorkQueue(Handlers([fail_twice if kind == "sync" else fail_twice_async]))
        queue.put("default/web-0", None, Thing(1))
        assert await queue.close(LIMIT_S) == []
        assert book.calls == [("add", 1)] * 3
        assert (queue.failures, queue.retries) == (2, 2)

    with caplog.at_level(logging.ERROR, "unblink"):
        asyncio.run(run())
    assert len(caplog.records) == 2
    assert caplog.records[0].getMessage().startswith("default/web-0: on_add handler ")
    assert "fail_twice" in caplog.records[0].getMessage()
    assert caplog.records[0].exc_info
    assert "Thing" not in caplog.text.replace("new: Thing", "")


def test_a_failing_key_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        book = Book()

        def on_add(new: Thing) -> None:
            if new.version == 0:
                raise ValueError
            book.on_add(new)

        queue = WorkQueue(Handlers([on_add]))
        for number in range(5):
            queue.put(f"k{number}", None, Thing(number))
        await until(lambda: len(book.calls) == 4)
        await until(lambda: queue.failures >= 3)
        assert queue.depth == 1
        assert await queue.close(0) == ["k0"]

    asyncio.run(run())
    assert "1 keys were not handled within the 0 s given at the end: k0" in caplog.text


def test_what_kills_a_thread_elsewhere_is_a_failure_like_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        book = Book()

        def on_add(new: Thing) -> None:
            book.on_add(new)
            if len(book.calls) == 1:
                raise SystemExit

        queue = WorkQueue(Handlers([on_add]))
        queue.put("k", None, Thing(1))
        assert await queue.close(LIMIT_S) == []
        assert len(book.calls) == 2

    asyncio.run(run())


def test_an_async_handler_may_be_cancelled_from_within_and_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        calls = []

        async def on_add(new: Thing) -> None:
            calls.append(new)
            if len(calls) == 1:
                raise asyncio.CancelledError

        queue = WorkQueue(Handlers([on_add]))
        queue.put("k", None, Thing(1))
        assert await queue.close(LIMIT_S) == []
        assert len(calls) == 2

    asyncio.run(run())


def test_async_handlers_that_never_wait_leave_time_for_the_loop() -> None:
    async def run() -> None:
        clock_s = 0.0

        def clock() -> float:
            nonlocal clock_s
            clock_s += 0.001
            return clock_s

        calls = []

        async def on_add(new: Thing) -> None:
            calls.append(new)

        queue = WorkQueue(Handlers([on_add]), clock=clock)
        for number in range(1000):
            queue.put(f"k{number}", None, Thing(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(calls) < 100
        assert await queue.close(LIMIT_S) == []
        assert len(calls) == 1000

    asyncio.run(run())


def test_a_thread_that_computes_lets_go_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pauses: list[float] = []
        book = Book()
        monkeypatch.setattr(workqueue, "THREAD_SLICE_S", -1.0)
        monkeypatch.setattr(time, "sleep", pauses.append)
        queue = WorkQueue(Handlers([book.on_add]))
        for number in range(10):
            queue.put(f"k{number}", None, Thing(number))
        assert await queue.close(LIMIT_S) == []
        assert pauses == [0] * 10

    asyncio.run(run())


def test_a_handler_that_refuses_to_be_cancelled_does_not_stop_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        begun, hold = asyncio.Event(), asyncio.Event()

        async def on_add(new: Thing) -> None:
            begun.set()
            while not hold.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await hold.wait()

        monkeypatch.setattr(workqueue, "CANCEL_S", 0.001)
        queue = WorkQueue(Handlers([on_add]))
        queue.put("k", None, Thing(1))
        await begun.wait()
        assert await queue.close(0) == ["k"]
        hold.set()

    asyncio.run(run())


def test_after_the_end_nothing_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        begun, hold = threading.Event(), threading.Event()
        book = Book()

        def on_add(new: Thing) -> None:
            begun.set()
            hold.wait(LIMIT_S)

        queue = WorkQueue(Handlers([on_add], [book.on_update]))
        queue.put("k", None, Thing(1))
        await until(begun.is_set)
        assert await queue.close(0) == ["k"]
        assert await queue.close(LIMIT_S) == []
        queue.put("k", Thing(1), Thing(2))
        hold.set()
        assert book.calls == []

    asyncio.run(run())


def test_close_does_not_wait_longer_for_a_handler_that_never_returns(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        hold, begun = threading.Event(), threading.Event()
        now_s = 0.0

        def on_add(new: Thing) -> None:
            begun.set()
            hold.wait(LIMIT_S)

        queue = WorkQueue(Handlers([on_add]), clock=lambda: now_s)
        assert queue.longest_running_s == 0
        queue.put("stuck", None, Thing(1))
        queue.put("behind", None, Thing(2))
        await until(begun.is_set)
        now_s = 12.5
        assert queue.longest_running_s == 12.5
        assert await queue.close(0) == ["behind", "stuck"]
        hold.set()

    asyncio.run(run())
    assert "2 keys were not handled" in caplog.text


@pytest.mark.parametrize("beside", [True, False])
def test_close_cancels_an_async_handler(beside: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        begun, ended = asyncio.Event(), []

        async def on_add(new: Thing) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(new)

        def on_delete(old: Thing) -> None: ...

        queue = WorkQueue(Handlers([on_add], [], [on_delete] if beside else []))
        queue.put("k", None, Thing(1))
        await begun.wait()
        assert await queue.close(0) == ["k"]
        await until(lambda: bool(ended))

    asyncio.run(run())


def test_the_end_of_the_loop_ends_its_workers_without_a_close() -> None:
    async def run() -> None:
        book = Book()
        queue = WorkQueue(Handlers([book.on_add_async]))
        queue.put("k", None, Thing(1))
        await until(lambda: bool(book.calls))

    asyncio.run(run())


@pytest.mark.parametrize("first", ["sync", "async", None])
def test_a_handler_may_come_late_and_is_told_of_what_is_there(first: str | None) -> None:
    async def run() -> None:
        early, late = Book(), Book()
        handlers: dict[str | None, list[Handler]] = {"sync": [early.on_add], "async": [early.on_add_async], None: []}
        queue = WorkQueue(Handlers(handlers[first]))
        queue.put("a", None, Thing(1))
        await until(lambda: not queue.depth)
        queue.add("add", late.on_add, [("a", Thing(1)), ("b", Thing(2))])
        queue.add("update", late.on_update)
        queue.put("a", Thing(1), Thing(3))
        assert await queue.close(LIMIT_S) == []
        assert early.calls == ([("add", 1)] if first else [])
        assert late.calls in (
            [("add", 1), ("add", 2), ("update", 1, 3)],
            [("add", 3), ("update", 1, 3), ("add", 2)],
        )
        assert threading.get_ident() not in late.threads

    asyncio.run(run())


def test_nothing_is_kept_where_nobody_wants_to_know() -> None:
    async def run() -> None:
        queue = WorkQueue()
        queue.put("k", None, Thing(1))
        assert queue.depth == 0
        assert await queue.close(0) == []

    asyncio.run(run())


def test_what_came_and_went_leaves_nothing_to_wait_for() -> None:
    async def run() -> None:
        book = Book()
        queue = WorkQueue(Handlers([book.on_add]))
        queue.put("k", None, Thing(1))
        queue.put("k", Thing(1), None)
        assert await queue.close(LIMIT_S) == []

    asyncio.run(run())


def test_what_is_async() -> None:
    async def function() -> None: ...

    class Instance:
        async def __call__(self) -> None: ...

    book = Book()
    asynchronous: list[Handler] = [function, functools.partial(function), Instance(), book.on_add_async]
    synchronous: list[Handler] = [print, book.on_add, functools.partial(book.on_add)]
    assert all(is_async(handler) for handler in asynchronous)
    assert not any(is_async(handler) for handler in synchronous)
