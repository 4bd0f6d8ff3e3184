"""Which key is handled next and what its handlers are told: the work queue's rules, without threads, tasks or waiting.

A key is pending (has a change that nobody was told), running (handled now) or waiting (a handler failed; it is called
again later). What is put while a key runs or waits joins the change that is pending. So a key is never handled by two
at once, its handlers see changes in order, and the last state is always handled.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from unblink.client.ratelimit import RetryLimiter

Kind = Literal["add", "update", "delete"]
Handler = Callable[..., Any]
"""``on_add(new)``, ``on_update(old, new)`` or ``on_delete(old)``, sync or async; what it returns is not looked at."""


class _Metadata(Protocol):
    @property
    def uid(self) -> str: ...


class Thing(Protocol):
    """What the queue looks at of an object."""

    @property
    def metadata(self) -> _Metadata: ...


class Change(msgspec.Struct, gc=False):
    """One change of a key: ``new`` of None is deleted, ``old`` of None is added, both None came and went unseen."""

    key: str
    old: Thing | None
    new: Thing | None


@dataclass(frozen=True, slots=True)
class Handlers:
    """Who is told of what, in this order. Further ones may be appended at any time."""

    on_add: list[Handler] = field(default_factory=list)
    on_update: list[Handler] = field(default_factory=list)
    on_delete: list[Handler] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.on_add or self.on_update or self.on_delete)


class Call(msgspec.Struct, frozen=True):
    """One handler's call."""

    handler: Handler
    kind: Kind
    old: Thing | None
    new: Thing | None

    @property
    def arguments(self) -> tuple[Thing | None, ...]:
        if self.kind == "update":
            return self.old, self.new
        return (self.new,) if self.kind == "add" else (self.old,)


@dataclass(frozen=True, slots=True)
class Owed:
    """Calls that failed, to be made again. ``unseen``: they are additions, and no handler has seen the object yet."""

    calls: tuple[Call, ...]
    unseen: bool = False


NOTHING_OWED = Owed(())


class Turn(msgspec.Struct, frozen=True):
    """What is to be done for a key now.

    ``rest`` is a change that must wait for it. ``unseen``: before these calls no handler has seen the object.
    """

    key: str
    calls: tuple[Call, ...]
    rest: Change | None = None
    unseen: bool = False


def plan(key: str, owed: Owed, change: Change | None, handlers: Handlers) -> Turn:
    """The calls that bring the key's handlers up to date, in order.

    A failed call is made again with the newest state: an addition with ``change.new``, an update from its own ``old``
    to ``change.new``; its handler is not told of the change a second time. Where the object is gone there is nothing to
    make again: the deletion is told. A deletion that failed comes before all else.
    """
    if owed.calls and any(call.kind == "delete" for call in owed.calls):
        return Turn(key, owed.calls, change)
    if change is None or (change.old is None and change.new is None):
        return Turn(key, owed.calls, None, owed.unseen)
    old, new = change.old, change.new
    if old is None:
        return Turn(key, tuple([Call(handler, "add", None, new) for handler in handlers.on_add]), None, True)
    if new is None:
        return Turn(key, tuple(Call(handler, "delete", old, None) for handler in handlers.on_delete))
    if old.metadata.uid != new.metadata.uid:
        deletions = tuple(Call(handler, "delete", old, None) for handler in handlers.on_delete)
        return Turn(key, deletions, Change(key, None, new))
    if not owed.calls:
        return Turn(key, tuple([Call(handler, "update", old, new) for handler in handlers.on_update]))
    again = tuple(Call(call.handler, call.kind, call.old, new) for call in owed.calls)
    if owed.unseen:
        return Turn(key, again, None, True)
    served = {call.handler for call in again if call.kind == "update"}
    others = tuple(Call(handler, "update", old, new) for handler in handlers.on_update if handler not in served)
    return Turn(key, again + others)


class Coalescer:
    """The keys and their states, on an injected clock (seconds). Not for several threads at once."""

    def __init__(self, handlers: Handlers, clock: Callable[[], float]) -> None:
        self.handlers = handlers
        self.pending: dict[str, Change] = {}
        self.ready: deque[str] = deque()
        self.running: dict[str, float] = {}
        """Since when, by key."""
        self.waiting: dict[str, float] = {}
        """Until when, by key."""
        self._owed: dict[str, Owed] = {}
        self._due: list[tuple[float, str]] = []
        self._clock = clock
        self._limiter = RetryLimiter(clock)

    @property
    def depth(self) -> int:
        """How many keys have something left to tell, those that are handled now included."""
        return len(self.pending) + sum(key not in self.pending for key in self._owed.keys() | self.running.keys())

    def keys(self) -> list[str]:
        """The keys with something left to tell, those that are handled now included."""
        return sorted(self.pending.keys() | self._owed.keys() | self.running.keys())

    def put(self, key: str, old: Thing | None, new: Thing | None) -> bool:
        """Take a change; True if the key can be handled now and could not before."""
        change = self.pending.get(key)
        if change is not None:
            change.new = new
            return False
        self.pending[key] = Change(key, old, new)
        if key in self.running or key in self.waiting:
            return False
        self.ready.append(key)
        return True

    def owe(self, handler: Handler, key: str, new: Thing) -> bool:
        """A handler that came late is told of an object that is there; True if the key can be handled now."""
        change = self.pending.get(key)
        if change is not None and change.old is None:
            return False
        self._owe(key, (Call(handler, "add", None, new),), unseen=False)
        if key in self.running or key in self.waiting:
            return False
        self.ready.append(key)
        return True

    def take(self) -> Turn | None:
        """The next key to be handled; it is running until ``done``. None: nothing can be handled now."""
        if self._due:
            self._wake_due()
        while self.ready:
            key = self.ready.popleft()
            if key in self.running or key in self.waiting:
                continue
            change = self.pending.pop(key, None)
            owed = self._owed.pop(key, NOTHING_OWED)
            turn = plan(key, owed, change, self.handlers)
            if not turn.calls and turn.rest is not None:
                turn = plan(key, NOTHING_OWED, turn.rest, self.handlers)
            if turn.calls:
                self.running[key] = self._clock()
                if turn.rest is not None:
                    self.pending[key] = turn.rest
                return turn
        return None

    def done(self, turn: Turn, failed: Sequence[Call] = ()) -> float | None:
        """The key was handled but for these calls; how long it waits now, in seconds, where there are any."""
        key = turn.key
        del self.running[key]
        if failed:
            calls = tuple(failed)
            self._owe(key, calls, unseen=turn.unseen and len(calls) == len(turn.calls))
            pause_s = self._limiter.pause_s(key)
            until_s = self.waiting[key] = self._clock() + pause_s
            heapq.heappush(self._due, (until_s, key))
            return pause_s
        self._limiter.forget(key)
        if key in self.pending or key in self._owed:
            self.ready.append(key)
        return None

    def next_due_s(self) -> float | None:
        """How long until the first waiting key can be handled, in seconds; None where none waits."""
        return max(0.0, self._due[0][0] - self._clock()) if self._due else None

    def _owe(self, key: str, calls: tuple[Call, ...], *, unseen: bool) -> None:
        before = self._owed.get(key)
        self._owed[key] = Owed(calls, unseen) if before is None else Owed(calls + before.calls)

    def _wake_due(self) -> None:
        now_s = self._clock()
        while self._due and self._due[0][0] <= now_s:
            key = heapq.heappop(self._due)[1]
            del self.waiting[key]
            self.ready.append(key)
