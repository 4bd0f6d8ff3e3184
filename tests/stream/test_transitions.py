import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stream.driver import CLEAN, DEADLINE, LOST, RESET, Driver, bookmark, error, frame, page, sync_end

from unblink.stream.endings import EndedBy
from unblink.stream.messages import (
    AskList,
    AskProbe,
    AskWatch,
    Chunk,
    Command,
    Input,
    ListAnswer,
    Listed,
    Start,
    Stop,
    StreamEnded,
    Tick,
    Unreachable,
    WatchAnswer,
    WatchStarted,
)
from unblink.stream.policy import CLIENT_GO, Recovery, WatchPolicy, bounded
from unblink.stream.session import Session, SessionError
from unblink.stream.transitions import TRANSITIONS, Effect, State, Symbol

LISTS_FIRST = replace(CLIENT_GO, watch_list=False)
BOUNDED = bounded(10)
BOUNDED_LISTS_FIRST = replace(BOUNDED, watch_list=False)

REFUSALS = {Symbol.EXPIRED, Symbol.BUSY, Symbol.REFUSED}
ENDINGS = {Symbol.BROKEN_REWATCH, Symbol.BROKEN_PAUSE, Symbol.BROKEN_RELIST}
ASKED = {*REFUSALS, *ENDINGS, Symbol.UNREACHABLE}
PROBED = {Symbol.LEVEL, Symbol.AHEAD, Symbol.PROBE_FAILED}
BEGIN = {Symbol.GO, Symbol.GO_SYNC}

POSSIBLE: dict[State, set[Symbol]] = {
    State.NEW: BEGIN,
    State.LISTING: {Symbol.PAGE_MORE, Symbol.PAGE_LAST, *ASKED},
    State.SYNC_REQUESTED: {Symbol.HEAD, *ASKED},
    State.SYNCING: {Symbol.INITIAL, Symbol.SYNC_END, *REFUSALS, *ENDINGS},
    State.WATCH_REQUESTED: {Symbol.HEAD, *ASKED, Symbol.ATTEMPT_FAILED, Symbol.HEDGE},
    State.WATCHING: {Symbol.PROGRESS, *REFUSALS, *ENDINGS, Symbol.SILENT},
    State.PROBING: {Symbol.NEWS, Symbol.PROGRESS, *REFUSALS, *ENDINGS, *PROBED, Symbol.OVERDUE},
    State.REPLACING: {
        Symbol.HEAD,
        Symbol.NEWS,
        Symbol.PROGRESS,
        *PROBED,
        Symbol.PROBE_AGAIN,
        Symbol.EXPIRED,
        Symbol.ATTEMPT_FAILED,
        Symbol.OLD_ENDED,
        Symbol.HEDGE,
        Symbol.UNPROVEN,
    },
    State.WAITING_TO_LIST: BEGIN,
    State.WAITING_TO_WATCH: BEGIN,
    State.STOPPED: set(),
}
"""By what may be open: a list; a watch asked for; an open watch; a probe beside it; several watches and a probe."""

OPEN_WATCH = {State.SYNCING, State.WATCHING, State.PROBING}


def test_the_table_has_exactly_the_pairs_that_inputs_can_make() -> None:
    stop = {(state, Symbol.STOP) for state in State if state is not State.STOPPED}
    assert set(TRANSITIONS) == stop | {(state, symbol) for state in State for symbol in POSSIBLE[state]}


def test_every_effect_is_used_and_has_its_method() -> None:
    assert {effect for effect, _ in TRANSITIONS.values()} == set(Effect)
    machine = Session(CLIENT_GO, lambda: 0, lambda: 0.0)
    assert all(callable(getattr(machine, f"_{effect.value}")) for effect in Effect)


def test_every_state_can_be_come_to_and_only_stopped_is_for_good() -> None:
    reached = {following for _, following in TRANSITIONS.values()} | {State.NEW}
    left = {state for state, _ in TRANSITIONS}
    assert reached == set(State)
    assert set(State) - left == {State.STOPPED}


# Every input in every state

Say = Callable[[Driver, int], Input]
"""An input about the request of this id."""


def held(driver: Driver) -> int:
    return int(driver.session.resource_version or 10)


def list_answer(status: int, body: Callable[[Driver], bytes], retry_after_s: float | None = None) -> Say:
    return lambda driver, number: ListAnswer(number, status, body(driver), retry_after_s)


def head(status: int, body: bytes = b"", retry_after_s: float | None = None) -> Say:
    return lambda _, number: WatchAnswer(number, status, body, retry_after_s)


def chunk(data: Callable[[Driver], bytes]) -> Say:
    return lambda driver, number: Chunk(number, data(driver))


EXPIRED = b'{"reason":"Expired","code":410}'
SAID: dict[str, Say] = {
    "start": lambda *_: Start(),
    "tick": lambda *_: Tick(),
    "stop": lambda *_: Stop(),
    "list": list_answer(200, lambda driver: page(held(driver))),
    "list of 3 more": list_answer(200, lambda driver: page(held(driver) + 3)),
    "list of 5 less": list_answer(200, lambda driver: page(held(driver) - 5)),
    "a page": list_answer(200, lambda driver: page(held(driver), token="t")),
    "no list": list_answer(200, lambda _: b"nonsense"),
    "list 410": list_answer(410, lambda _: EXPIRED),
    "list 429": list_answer(429, lambda _: b"", 3.0),
    "list 403": list_answer(403, lambda _: b""),
    "list 503": list_answer(503, lambda _: b"upstream connect error"),
    "watch 200": head(200),
    "watch 410": head(410, EXPIRED),
    "watch 422": head(422),
    "watch 429": head(429, b"", 1.0),
    "watch 403": head(403),
    "watch 503": head(503, b"shutting down", 1.0),
    "no bytes": chunk(lambda _: b""),
    "an event": chunk(lambda driver: frame("ADDED", held(driver) + 1)),
    "an event of before": chunk(lambda driver: frame("ADDED", held(driver) - 1)),
    "events": chunk(lambda driver: b"".join(frame("ADDED", held(driver) + more) for more in range(1, 6))),
    "part of an event": chunk(lambda driver: frame("ADDED", held(driver) + 1)[:30]),
    "a bookmark": chunk(lambda driver: bookmark(held(driver) + 2)),
    "the end of initial events": chunk(lambda driver: sync_end(held(driver))),
    "ERROR 410": chunk(lambda _: error(410, "Expired")),
    "ERROR 429": chunk(lambda _: error(429, "TooManyRequests")),
    "ERROR 500": chunk(lambda _: error(500, "InternalError")),
    "an event, then ERROR 400": chunk(lambda driver: frame("ADDED", held(driver) + 1) + error(400, "BadRequest")),
    "garbage": chunk(lambda _: b"garbage\n"),
    "clean end": lambda _, number: StreamEnded(number, CLEAN),
    "reset": lambda _, number: StreamEnded(number, RESET),
    "connection lost": lambda _, number: StreamEnded(number, LOST),
    "deadline": lambda _, number: StreamEnded(number, DEADLINE),
    "unreachable": lambda _, number: Unreachable(number, "refused"),
}


def allowed(driver: Driver, said: Input) -> bool:
    """Whether a caller that keeps books may say this."""
    state = driver.session.state
    match said:
        case Start():
            return state is State.NEW
        case Tick() | Stop():
            return state is not State.STOPPED
        case ListAnswer():
            return isinstance(driver.asked.get(said.id), AskList | AskProbe)
        case WatchAnswer():
            return isinstance(driver.asked.get(said.id), AskWatch) and said.id not in driver.heads
        case Chunk():
            return said.id in driver.heads
        case StreamEnded():
            return said.id in driver.asked
        case Unreachable():
            return said.id in driver.asked and said.id not in driver.heads


def snapshot(driver: Driver) -> object:
    machine = driver.session
    requests = [(one.id, one.kind, one.deadline_ms, one.opened_ms) for one in machine._requests.values()]
    held_now = (machine.resource_version, machine.proof_ms, machine.duplicates, machine.attempts)
    return machine.state, machine.deadline_ms, held_now, requests, machine._garbage, machine._target


def say(driver: Driver, said: Input) -> list[Command] | None:
    """Says it; None if that was refused, as it must be. Checks what is so after any input."""
    before = snapshot(driver)
    first = not any(isinstance(command, Listed) for command in driver.all)
    if not allowed(driver, said):
        with pytest.raises(SessionError, match=r"while|head"):
            driver.session.receive(said)
        assert snapshot(driver) == before
        return None
    commands = driver.give(said)
    machine = driver.session
    assert set(machine._requests) == set(driver.asked)
    started = [command for command in commands if isinstance(command, WatchStarted)]
    listed = [command for command in commands if isinstance(command, Listed)]
    assert len(started) <= 1
    assert len(listed) <= 1
    assert all(command.reason == ("initial" if first else "relist") for command in listed)
    assert all(command.resource_version for command in listed)
    assert machine.state in OPEN_WATCH or machine.state is State.REPLACING or machine.watch_age_ms is None
    assert machine.state not in OPEN_WATCH or machine.watch_age_ms is not None
    if machine.state in (State.NEW, State.STOPPED):
        assert not driver.asked
        assert machine.deadline_ms is None
    else:
        assert driver.asked or machine.deadline_ms is not None, "nothing will ever happen"
    return commands


def to_watching(driver: Driver) -> None:
    driver.start()
    driver.answer()
    driver.head()


def to_probing(driver: Driver) -> None:
    """Two watches in a row, the second silent since its head."""
    to_watching(driver)
    driver.chunk(bookmark(held(driver) + 1))
    driver.pass_ms(5000)
    driver.end()
    driver.head()
    driver.tick_until(AskProbe, 10_000)


def to_replacing(driver: Driver) -> None:
    to_probing(driver)
    driver.probe(0, 503)


def to_waiting_to_watch(driver: Driver) -> None:
    driver.start()
    driver.answer()
    driver.head(429)


def to_syncing(driver: Driver) -> None:
    driver.start()
    driver.head()


def to_waiting_to_list(driver: Driver) -> None:
    driver.start()
    driver.unreachable()


def to_watch_requested(driver: Driver) -> None:
    driver.start()
    driver.answer()


WAYS_TO: list[tuple[State, WatchPolicy, Callable[[Driver], object]]] = [
    (State.NEW, LISTS_FIRST, lambda _: None),
    (State.LISTING, LISTS_FIRST, Driver.start),
    (State.SYNC_REQUESTED, CLIENT_GO, Driver.start),
    (State.SYNCING, CLIENT_GO, to_syncing),
    (State.WATCH_REQUESTED, LISTS_FIRST, to_watch_requested),
    (State.WATCHING, LISTS_FIRST, to_watching),
    (State.WAITING_TO_LIST, LISTS_FIRST, to_waiting_to_list),
    (State.WAITING_TO_WATCH, LISTS_FIRST, to_waiting_to_watch),
    (State.STOPPED, LISTS_FIRST, lambda driver: driver.give(Stop())),
    (State.NEW, BOUNDED_LISTS_FIRST, lambda _: None),
    (State.LISTING, BOUNDED_LISTS_FIRST, Driver.start),
    (State.SYNC_REQUESTED, BOUNDED, Driver.start),
    (State.SYNCING, BOUNDED, to_syncing),
    (State.WATCH_REQUESTED, BOUNDED_LISTS_FIRST, to_watch_requested),
    (State.WATCHING, BOUNDED_LISTS_FIRST, to_watching),
    (State.PROBING, BOUNDED_LISTS_FIRST, to_probing),
    (State.REPLACING, BOUNDED_LISTS_FIRST, to_replacing),
    (State.WAITING_TO_LIST, BOUNDED_LISTS_FIRST, to_waiting_to_list),
    (State.WAITING_TO_WATCH, BOUNDED_LISTS_FIRST, to_waiting_to_watch),
]


@pytest.mark.parametrize(
    ("state", "policy", "way"), WAYS_TO, ids=[f"{policy.name}-{state.value}" for state, policy, _ in WAYS_TO]
)
@pytest.mark.parametrize("what", SAID)
def test_every_input_in_every_state_does_what_the_table_says_or_is_refused_and_changes_nothing(
    state: State, policy: WatchPolicy, way: Callable[[Driver], object], what: str
) -> None:
    probe = Driver(policy)
    way(probe)
    for number in [*probe.asked, 999]:
        driver = Driver(policy)
        way(driver)
        assert driver.session.state is state
        say(driver, SAID[what](driver, number))
        following = {after for (before, _), (_, after) in TRANSITIONS.items() if before is state}
        assert driver.session.state in following | {state}


steps = st.tuples(st.sampled_from(sorted(SAID)), st.integers(0, 7), st.sampled_from([0, 0, 1, 300, 700, 2000, 7000]))


@settings(max_examples=300)
@given(
    st.lists(steps, max_size=60),
    st.sampled_from([CLIENT_GO, LISTS_FIRST, BOUNDED, BOUNDED_LISTS_FIRST]),
    st.floats(0, 1, exclude_max=True),
)
def test_no_order_of_inputs_confuses_it(
    happened: list[tuple[str, int, int]], policy: WatchPolicy, chance: float
) -> None:
    driver = Driver(policy, lambda: chance)
    driver.start()
    for what, which, ms in happened:
        driver.clock.ms += ms
        numbers = sorted(driver.asked) or [999]
        commands = say(driver, SAID[what](driver, numbers[which % len(numbers)]))
        if what == "tick" and commands is not None:
            due_ms = driver.session.deadline_ms
            assert due_ms is None or due_ms > driver.clock.ms


def test_chance_comes_to_every_pair_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """So no row of the table is dead."""
    seen: set[tuple[State, Symbol]] = set()
    step = Session._step

    def note(self: Session, symbol: Symbol) -> None:
        seen.add((self.state, symbol))
        step(self, symbol)

    monkeypatch.setattr(Session, "_step", note)
    chance = random.Random(1)
    unwanted = {"start", "stop"}
    patient = bounded(200)
    unlucky = Driver(BOUNDED_LISTS_FIRST)
    to_replacing(unlucky)
    unlucky.tick_until(AskList, 11_000)
    stopped = Driver(CLIENT_GO)
    stopped.start()
    stopped.head()
    stopped.give(Stop())
    expired = Driver(CLIENT_GO)
    expired.start()
    expired.head()
    expired.chunk(sync_end())
    expired.end(RESET)
    expired.tick()
    expired.head(410, EXPIRED)
    for _ in range(3000):
        if seen == set(TRANSITIONS):
            break
        policy = replace(
            chance.choice([CLIENT_GO, patient, patient]),
            watch_list=chance.random() < 0.3,
            recovery={by: chance.choice([*Recovery]) for by in EndedBy},
        )
        driver = Driver(policy, chance.random)
        if not policy.watch_list and chance.random() < 0.9:
            to_watching(driver)
        if policy.liveness is not None and driver.heads and chance.random() < 0.7:
            driver.tick_until(AskProbe, 100_000)
        for _ in range(30):
            if chance.random() < 0.3 and driver.session.deadline_ms is not None:
                driver.tick()
                continue
            number = chance.choice([*driver.asked, 999])
            may = [
                said
                for what, one in SAID.items()
                if what not in unwanted or chance.random() < 0.05
                if allowed(driver, said := one(driver, number))
            ]
            if may:
                driver.clock.ms += chance.choice([0, 100, 3000])
                say(driver, chance.choice(may))
    assert set(TRANSITIONS) - seen == set()
