"""Changes on their way to the handlers: taken at once from the watch, coalesced by key, handled at the handlers' pace.

The watch puts and goes on, so a slow or failing handler delays neither events nor proof of life. It is client-go's
informer with a work queue behind it (util/workqueue), but that the change itself is kept: a handler gets ``old`` as it
saw it last, and the newest ``new``.
"""

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import Any

from unblink.client.coalescing import Call, Change, Coalescer, Handler, Handlers, Kind, Thing, Turn

__all__ = ["Change", "Handler", "Handlers", "Kind", "WorkQueue"]

log = logging.getLogger("unblink")

LOOP_SLICE_S = 0.005
"""Async handlers that never wait give the loop back after this long."""
THREAD_SLICE_S = 0.0005
"""A thread with sync handlers lets the loop go first after this long."""
CANCEL_S = 1.0
"""How long async handlers may take to end when they are cancelled."""
NAMED_KEYS = 5
"""How many keys a log line names."""


def is_async(handler: Handler) -> bool:
    """Whether a call gives a coroutine; a callable object is asked by its ``__call__``."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


class WorkQueue:
    """Tells handlers of changes. It belongs to one event loop, which alone may call ``put``, ``add`` and ``close``.

    Async handlers run in the event loop. As soon as there is a sync handler, ``workers`` threads work the keys off,
    taking them from the queue without a detour through the loop: a handler that sleeps does not stop the loop. An async
    handler beside it is still called in the loop, and the thread waits for it.

    A handler that raises is logged, and called again after client-go's default pauses (``ratelimit.py``). Threads are
    daemons: a handler that never returns does not keep the process alive.
    """

    def __init__(
        self, handlers: Handlers | None = None, *, workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``workers`` is how many keys are handled at once; ``clock`` gives seconds and never goes back."""
        self._handlers = handlers or Handlers()
        self._wanted = bool(self._handlers)
        self._keys = Coalescer(self._handlers, clock)
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        # Each entry wakes one worker that has nothing to do; before the first change there are none to wake.
        self._sleepers: deque[Callable[[], object]] = deque([self._start])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threaded = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls_in_loop: set[Future[Any]] = set()
        self._emptied: asyncio.Event | None = None
        self._closed = False
        self.retries = 0
        """How often a key was put aside to be handled again."""
        self.failures = 0
        """How many calls of handlers raised."""

    @property
    def depth(self) -> int:
        """How many keys have something left to tell, those that are handled now included."""
        with self._lock:
            return self._keys.depth

    @property
    def longest_running_s(self) -> float:
        """How long the key that takes longest has been handled by now; 0 where none is handled."""
        with self._lock:
            return self._clock() - min(self._keys.running.values()) if self._keys.running else 0.0

    def put(self, key: str, old: Thing | None, new: Thing | None) -> None:
        """Take a change: ``old`` is what was known before, ``new`` what is now. It costs the same whatever waits.

        Different uids in ``old`` and ``new`` mean that the object was deleted and made again: both are told.
        """
        if self._wanted:
            with self._lock:
                if self._keys.put(key, old, new) and self._sleepers:
                    self._sleepers.popleft()()

    def add(self, kind: Kind, handler: Handler, there: Iterable[tuple[str, Thing]] = ()) -> None:
        """One more handler. An ``add`` handler is told of what is there already, each object as an addition."""
        kinds = {"add": self._handlers.on_add, "update": self._handlers.on_update, "delete": self._handlers.on_delete}
        with self._lock:
            kinds[kind].append(handler)
            self._wanted = True
            if self._loop is not None and not self._threaded and not is_async(handler):
                self._start_threads()
            if kind == "add":
                for key, thing in there:
                    if self._keys.owe(handler, key, thing) and self._sleepers:
                        self._sleepers.popleft()()

    async def close(self, drain_s: float) -> list[str]:
        """Give the handlers ``drain_s`` seconds for what is left, then end; what is put later is not taken.

        :returns: the keys whose last state was not handled; they are logged as well.
        """
        with self._lock:
            if self._closed:
                return []
            self._emptied = asyncio.Event()
            if not self._keys.depth:
                self._emptied.set()
        try:
            async with asyncio.timeout(drain_s):
                await self._emptied.wait()
        except TimeoutError:
            pass
        finally:
            left = await self._end()
        if left:
            named = ", ".join(left[:NAMED_KEYS]) + (", ..." if len(left) > NAMED_KEYS else "")
            log.warning("%d keys were not handled within the %g s given at the end: %s", len(left), drain_s, named)
        return left

    async def _end(self) -> list[str]:
        with self._lock:
            left = self._keys.keys()
            self._closed, self._wanted = True, False
            if self._loop is not None:
                self._wake_all()
        for task in self._tasks:
            task.cancel()
        for call in tuple(self._calls_in_loop):
            call.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=CANCEL_S)
        return left

    # Who works. What begins with the lock held says so.

    def _wake_all(self) -> None:
        """Holding the lock."""
        while self._sleepers:
            self._sleepers.popleft()()

    def _start(self) -> None:
        """Holding the lock."""
        self._loop = asyncio.get_running_loop()
        every = (*self._handlers.on_add, *self._handlers.on_update, *self._handlers.on_delete)
        if not all(is_async(handler) for handler in every):
            self._start_threads()
            return
        for _ in range(self._workers):
            task = self._loop.create_task(self._work_in_loop())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _start_threads(self) -> None:
        """Holding the lock. Tasks that worked so far end after the key they have."""
        self._threaded = True
        self._wake_all()
        for number in range(self._workers):
            threading.Thread(target=self._work_in_thread, name=f"unblink-handlers-{number}", daemon=True).start()

    def _next(self) -> Turn | None:
        """Holding the lock."""
        turn = self._keys.take()
        if turn is None and self._emptied is not None and self._loop is not None and not self._keys.depth:
            self._loop.call_soon_threadsafe(self._emptied.set)
        return turn

    def _done(self, turn: Turn, failed: list[Call]) -> None:
        """Holding the lock."""
        if self._keys.done(turn, failed) is None:
            return
        self.retries += 1
        self.failures += len(failed)
        if self._sleepers:  # this worker may be long with another key: somebody must wait for the retry
            self._sleepers.popleft()()

    def _work_in_thread(self) -> None:
        failed: list[Call] = []
        turn: Turn | None = None
        slice_began_s = time.monotonic()
        while True:
            with self._lock:
                if turn is not None:
                    self._done(turn, failed)
                while not self._closed and (turn := self._next()) is None:
                    self._sleep_in_thread()
                if self._closed or turn is None:
                    return
            if time.monotonic() - slice_began_s > THREAD_SLICE_S:
                time.sleep(0)  # lets go of the interpreter, which the loop would otherwise wait 5 ms for at each read
                slice_began_s = time.monotonic()
            failed = []
            for call in turn.calls:
                try:
                    result = call.handler(*call.arguments)
                    if result is not None and inspect.isawaitable(result):
                        self._wait_for(result)
                except BaseException:  # SystemExit too: without its thread the queue would be deaf
                    failed.append(call)
                    _report(turn.key, call)

    def _sleep_in_thread(self) -> None:
        """Holding the lock, which is free meanwhile."""
        alarm = threading.Lock()
        alarm.acquire()
        self._sleepers.append(alarm.release)
        due_s = self._keys.next_due_s()
        self._lock.release()
        try:
            alarm.acquire(timeout=-1 if due_s is None else due_s)
        finally:
            self._lock.acquire()
        if alarm.release in self._sleepers:
            self._sleepers.remove(alarm.release)

    def _wait_for(self, result: Awaitable[Any]) -> None:
        async def finish() -> None:
            await result

        with self._lock:
            if self._closed or self._loop is None:
                return
            call = asyncio.run_coroutine_threadsafe(finish(), self._loop)
            self._calls_in_loop.add(call)
        try:
            call.result()
        finally:
            self._calls_in_loop.discard(call)

    async def _work_in_loop(self) -> None:
        turn: Turn | None = None
        failed: list[Call] = []
        slice_began_s = self._clock()
        while True:
            sleeper: asyncio.Future[None] | None = None
            with self._lock:
                if turn is not None:
                    self._done(turn, failed)
                if self._threaded or self._closed:
                    return
                turn = self._next()
                due_s = self._keys.next_due_s()
                if turn is None:
                    sleeper = asyncio.get_running_loop().create_future()
                    wake = _waker(sleeper)
                    self._sleepers.append(wake)
            if sleeper is not None:
                await asyncio.wait([sleeper], timeout=due_s)
                with self._lock:
                    if wake in self._sleepers:
                        self._sleepers.remove(wake)
                slice_began_s = self._clock()
            elif self._clock() - slice_began_s > LOOP_SLICE_S:
                await asyncio.sleep(0)
                slice_began_s = self._clock()
            failed = [call for call in turn.calls if not await self._call(turn.key, call)] if turn is not None else []

    async def _call(self, key: str, call: Call) -> bool:
        try:
            result = call.handler(*call.arguments)
            if result is not None and inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _report(key, call)
            return False
        return True


def _waker(sleeper: asyncio.Future[None]) -> Callable[[], None]:
    def wake() -> None:
        if not sleeper.done():
            sleeper.set_result(None)

    return wake


def _report(key: str, call: Call) -> None:
    name = getattr(call.handler, "__qualname__", type(call.handler).__name__)
    log.exception("%s: on_%s handler %s failed; it is called again", key, call.kind, name)
