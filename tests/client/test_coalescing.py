from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unblink.client.coalescing import Call, Coalescer, Handler, Handlers, Kind, Turn


@dataclass(frozen=True)
class Metadata:
    uid: str


@dataclass(frozen=True)
class Thing:
    """One version of an object; a uid is "first", "second", ... life of its key."""

    metadata: Metadata
    version: int

    def __repr__(self) -> str:
        return f"{self.metadata.uid}{self.version}"


def thing(text: str) -> Thing:
    """``a1``: version 1 of the object with the uid a."""
    return Thing(Metadata(text[0]), int(text[1:]))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def told(calls: tuple[Call, ...]) -> list[str]:
    return [" ".join([call.kind, *map(str, call.arguments)]) for call in calls]


def handler(*_: Any) -> None: ...


def another(*_: Any) -> None: ...


ONE = Handlers([handler], [handler], [handler])
TWO = Handlers([handler, another], [handler, another], [handler, another])


@dataclass
class Desk:
    """A coalescer and one key, with puts as text: ``-`` is None."""

    handlers: Handlers = field(default_factory=lambda: ONE)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.keys = Coalescer(self.handlers, self.clock)

    def put(self, text: str) -> None:
        old, new = (None if word == "-" else thing(word) for word in text.split())
        self.keys.put("k", old, new)

    def take(self) -> Turn:
        turn = self.keys.take()
        assert turn is not None
        return turn

    def turn(self, *failed: int) -> list[str]:
        """Handle the next key, some of whose calls fail; what was called."""
        turn = self.take()
        self.keys.done(turn, [turn.calls[number] for number in failed])
        return told(turn.calls)

    def later(self) -> None:
        self.clock.now_s = min(self.keys.waiting.values())


COALESCED: list[tuple[list[str], list[str]]] = [
    (["- a1"], ["add a1"]),
    (["a1 a2"], ["update a1 a2"]),
    (["a1 -"], ["delete a1"]),
    (["- a1", "a1 a2", "a2 a3"], ["add a3"]),
    (["a1 a2", "a2 a3"], ["update a1 a3"]),
    (["a1 a2", "a2 -"], ["delete a1"]),
    (["- a1", "a1 -"], []),
    (["- a1", "a1 -", "- b1"], ["add b1"]),
    (["a1 -", "- b1"], ["delete a1", "add b1"]),
    (["a1 b1"], ["delete a1", "add b1"]),
    (["a1 b1", "b1 c1"], ["delete a1", "add c1"]),
    (["a1 b1", "b1 -"], ["delete a1"]),
    (["a1 -", "- a2"], ["update a1 a2"]),
]


@pytest.mark.parametrize(("puts", "calls"), COALESCED, ids=lambda value: ", ".join(value) or "nothing")
def test_what_was_not_handled_yet_becomes_one_change(puts: list[str], calls: list[str]) -> None:
    desk = Desk()
    for text in puts:
        desk.put(text)
    made: list[str] = []
    while (turn := desk.keys.take()) is not None:
        made += told(turn.calls)
        desk.keys.done(turn)
    assert made == calls
    assert desk.keys.depth == 0


FAILED: list[tuple[str, list[str], list[str]]] = [
    ("- a1", [], ["add a1"]),
    ("- a1", ["a1 a2"], ["add a2"]),
    ("- a1", ["a1 -"], ["delete a1"]),  # it was called once, so it may have something to undo
    ("- a1", ["a1 -", "- b1"], ["delete a1", "add b1"]),
    ("a1 a2", [], ["update a1 a2"]),
    ("a1 a2", ["a2 a3", "a3 a4"], ["update a1 a4"]),
    ("a1 a2", ["a2 -"], ["delete a2"]),
    ("a1 a2", ["a2 b1"], ["delete a2", "add b1"]),
    ("a1 -", [], ["delete a1"]),
    ("a1 -", ["- b1"], ["delete a1", "add b1"]),
    ("a1 -", ["- b1", "b1 -"], ["delete a1"]),
    ("a1 b1", [], ["delete a1", "add b1"]),
    ("a1 b1", ["b1 b2"], ["delete a1", "add b2"]),
]


@pytest.mark.parametrize(("first", "meanwhile", "calls"), FAILED)
def test_what_comes_while_a_failed_key_waits_joins_its_retry(
    first: str, meanwhile: list[str], calls: list[str]
) -> None:
    desk = Desk()
    desk.put(first)
    desk.turn(0)
    for text in meanwhile:
        desk.put(text)
    assert desk.keys.take() is None
    desk.later()
    made: list[str] = []
    while (turn := desk.keys.take()) is not None:
        made += told(turn.calls)
        desk.keys.done(turn)
    assert made == calls
    assert desk.keys.depth == 0


def test_only_the_handler_that_failed_is_called_again() -> None:
    desk = Desk(TWO)
    desk.put("a1 a2")
    assert desk.turn(1) == ["update a1 a2", "update a1 a2"]
    desk.later()
    again = desk.take()
    assert [call.handler for call in again.calls] == [another]


def test_the_others_are_told_only_of_what_they_have_not_seen() -> None:
    desk = Desk(TWO)
    desk.put("a1 a2")
    desk.turn(1)
    desk.put("a2 a3")
    desk.later()
    again = desk.take()
    assert told(again.calls) == ["update a1 a3", "update a2 a3"]
    assert [call.handler for call in again.calls] == [another, handler]


def test_an_addition_that_one_of_two_saw_is_followed_by_updates() -> None:
    desk = Desk(TWO)
    desk.put("- a1")
    desk.turn(0)
    desk.put("a1 a2")
    desk.later()
    assert desk.turn(0) == ["add a2", "update a1 a2", "update a1 a2"]
    desk.later()
    assert desk.turn() == ["add a2"]


def test_an_addition_that_nobody_saw_stays_one() -> None:
    desk = Desk(TWO)
    desk.put("- a1")
    desk.turn(0, 1)
    desk.later()
    desk.turn(0, 1)
    desk.put("a1 a2")
    desk.later()
    assert desk.turn() == ["add a2", "add a2"]
    assert desk.keys.depth == 0


def test_a_failed_deletion_is_done_before_the_object_comes_again() -> None:
    desk = Desk(TWO)
    desk.put("a1 -")
    desk.turn(0)
    desk.put("- b1")
    desk.later()
    assert desk.turn(0) == ["delete a1"]
    assert desk.keys.take() is None
    desk.later()
    assert desk.turn() == ["delete a1"]
    assert desk.turn() == ["add b1", "add b1"]


def test_a_running_key_is_not_given_out_and_others_are() -> None:
    desk = Desk()
    desk.put("- a1")
    first = desk.take()
    desk.put("a1 a2")
    desk.keys.put("other", None, thing("x1"))
    second = desk.take()
    assert second.key == "other"
    assert desk.keys.take() is None
    assert desk.keys.keys() == ["k", "other"]
    desk.keys.done(first)
    assert desk.turn() == ["update a1 a2"]
    desk.keys.done(second)
    assert desk.keys.depth == 0


def test_pauses_grow_and_a_success_forgets_them() -> None:
    desk = Desk()
    desk.put("- a1")
    pauses = []
    for _ in range(3):
        turn = desk.take()
        pauses.append(desk.keys.done(turn, turn.calls))
        assert desk.keys.next_due_s() == pytest.approx(pauses[-1])
        desk.later()
    desk.keys.done(desk.take())
    desk.put("a1 a2")
    turn = desk.take()
    pauses.append(desk.keys.done(turn, turn.calls))
    assert pauses == [0.005, 0.01, 0.02, 0.005]


def test_a_late_handler_is_told_of_what_is_there_and_nobody_else_is() -> None:
    desk = Desk()
    assert desk.keys.owe(another, "k", thing("a1"))
    turn = desk.take()
    assert [(call.handler, call.kind, call.new) for call in turn.calls] == [(another, "add", thing("a1"))]
    desk.keys.done(turn, turn.calls)
    desk.put("a1 a2")
    desk.later()
    assert desk.turn() == ["add a2", "update a1 a2"]


@pytest.mark.parametrize("failed", [True, False])
def test_a_late_handler_waits_for_the_key_that_is_handled_now(failed: bool) -> None:
    desk = Desk()
    desk.put("a1 a2")
    running = desk.take()
    assert not desk.keys.owe(another, "k", thing("a2"))
    assert desk.keys.take() is None
    desk.keys.done(running, running.calls if failed else ())
    if failed:
        desk.later()
    assert desk.turn() == ["update a1 a2", "add a2"][0 if failed else 1 :]


def test_a_key_that_is_ready_twice_is_not_given_out_twice() -> None:
    desk = Desk()
    desk.put("a1 a2")
    assert desk.keys.owe(another, "k", thing("a2"))
    turn = desk.take()
    assert told(turn.calls) == ["add a2", "update a1 a2"]
    desk.put("a2 a3")
    assert desk.keys.take() is None
    desk.keys.done(turn)
    assert desk.turn() == ["update a2 a3"]


def test_a_late_handler_that_failed_alone_does_not_hide_updates_from_the_others() -> None:
    desk = Desk()
    desk.keys.owe(another, "k", thing("a1"))
    desk.turn(0)
    desk.put("a1 a2")
    desk.later()
    assert desk.turn() == ["add a2", "update a1 a2"]


def test_a_late_handler_is_told_once_of_what_is_still_to_be_told() -> None:
    desk = Desk(Handlers([handler, another]))
    desk.put("- a1")
    assert not desk.keys.owe(another, "k", thing("a1"))
    assert desk.turn() == ["add a1", "add a1"]
    assert desk.keys.depth == 0


# Any interleaving

KEYS = ("k", "l")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["change", "remove", "recreate"]), st.sampled_from(KEYS)),
    st.tuples(st.just("take")),
    st.tuples(st.sampled_from(["finish", "handle"]), st.integers(0, 15)),  # which calls fail
    st.tuples(st.just("wait"), st.sampled_from([0.001, 2000.0])),
)


@dataclass
class Listener:
    """One user's three handlers: what it was told with success, and the newest version it was called with at all."""

    held: dict[str, Thing] = field(default_factory=dict)
    tried: dict[str, Thing] = field(default_factory=dict)

    def handlers(self) -> tuple[Handler, Handler, Handler]:
        return self.on_add, self.on_update, self.on_delete

    # The handlers are named by the calls alone: the test decides when a call ends, and how.
    def on_add(self, new: Thing) -> None: ...
    def on_update(self, old: Thing, new: Thing) -> None: ...
    def on_delete(self, old: Thing) -> None: ...

    def called(self, key: str, kind: Kind, old: Any, new: Any, *, alone: bool) -> None:
        """Check one call against what this listener knows.

        Of several listeners one may fail to take an object that the others have: it is told of updates all the same,
        for it is not known which handlers belong together.
        """
        held, tried = self.held.get(key), self.tried.get(key)
        if kind == "update":
            assert old.metadata == new.metadata
        if alone:
            assert {"add": held is None, "update": old == held, "delete": old in (held, tried)}[kind]
        if new is not None:
            self.tried[key] = new

    def succeeded(self, key: str, new: Any) -> None:
        self.tried.pop(key, None)
        if new is None:
            self.held.pop(key, None)
        else:
            self.held[key] = new


class World:
    """Objects that change, a coalescer, and handlers that take their time and may fail."""

    def __init__(self, listeners: int) -> None:
        self.listeners = [Listener() for _ in range(listeners)]
        handlers = Handlers()
        for listener in self.listeners:
            handlers.on_add.append(listener.on_add)
            handlers.on_update.append(listener.on_update)
            handlers.on_delete.append(listener.on_delete)
        self.clock = Clock()
        self.keys = Coalescer(handlers, self.clock)
        self.there: dict[str, Thing] = {}
        self.versions = 0
        self.running: dict[str, Turn] = {}

    def step(self, step: tuple[Any, ...]) -> None:
        self.versions += 1
        match step:
            case ("take",):
                self.take()
            case "wait", seconds:
                self.clock.now_s += seconds
            case ("finish" | "handle") as how, failed:
                if how == "handle":
                    self.take()
                for key in list(self.running)[:1]:
                    calls = self.running[key].calls
                    self.finish(key, [call for at, call in enumerate(calls) if failed >> at & 1])
            case "remove", key:
                if key in self.there:
                    self._put(key, None)
            case what, key:
                old = self.there.get(key)
                uid = old.metadata.uid if old and what == "change" else f"u{self.versions}-"
                self._put(key, Thing(Metadata(uid), self.versions))

    def _put(self, key: str, new: Thing | None) -> None:
        self.keys.put(key, self.there.get(key), new)
        if new is None:
            del self.there[key]
        else:
            self.there[key] = new

    def take(self) -> bool:
        turn = self.keys.take()
        if turn is None:
            return False
        assert turn.key not in self.running
        assert turn.calls
        self.running[turn.key] = turn
        for call in turn.calls:
            listener = call.handler.__self__  # type: ignore[attr-defined]  # it is a bound method
            listener.called(turn.key, call.kind, call.old, call.new, alone=len(self.listeners) == 1)
        return True

    def finish(self, key: str, failed: list[Call]) -> None:
        turn = self.running.pop(key)
        for call in turn.calls:
            if call not in failed:
                call.handler.__self__.succeeded(key, call.new)  # type: ignore[attr-defined]  # it is a bound method
        self.keys.done(turn, failed)

    def settle(self) -> None:
        """Let every handler succeed from now on."""
        while self.running or self.keys.depth:
            while self.take():
                pass
            for key in list(self.running):
                self.finish(key, [])
            self.clock.now_s = max([self.clock.now_s, *self.keys.waiting.values()])


@settings(max_examples=1000)
@given(st.sampled_from([1, 1, 2, 3]), st.lists(STEPS, min_size=8, max_size=30))
def test_handlers_see_a_chain_that_ends_in_the_last_state(listeners: int, steps: list[tuple[Any, ...]]) -> None:
    world = World(listeners)
    for step in steps:
        world.step(step)
        assert world.keys.depth >= len(world.running)
    world.settle()
    for listener in world.listeners:
        assert listener.held == world.there
