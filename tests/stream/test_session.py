import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.endings import EndedBy, Ending
from unblink.stream.objects import INITIAL_EVENTS_END
from unblink.stream.policy import CLIENT_GO, WatchPolicy
from unblink.stream.session import (
    STATES_OF_INPUT,
    TRANSITIONS,
    AskList,
    AskWatch,
    Chunk,
    CloseStream,
    Command,
    Delivered,
    Effect,
    Ended,
    Input,
    ListAnswer,
    Listed,
    Session,
    SessionError,
    Start,
    State,
    Stop,
    Stopped,
    StreamEnded,
    Symbol,
    TimerFired,
    Unreachable,
    Wait,
    WatchAnswer,
    WatchStarted,
)

LISTS_FIRST = replace(CLIENT_GO, watch_list=False)

CLEAN = Ending(EndedBy.SERVER_CLOSED, "end of stream")
RESET = Ending(EndedBy.STREAM_RESET, "RST_STREAM INTERNAL_ERROR", 2)
LOST = Ending(EndedBy.CONNECTION_LOST, "the peer closed the connection")
DEADLINE = Ending(EndedBy.DEADLINE, "silent for 60 s")

SYMBOLS_OF_INPUT: dict[type[Input], set[Symbol]] = {
    Start: {Symbol.GO, Symbol.GO_SYNC},
    TimerFired: {Symbol.GO, Symbol.GO_SYNC},
    ListAnswer: {Symbol.PAGE_MORE, Symbol.PAGE_LAST, Symbol.EXPIRED, Symbol.BUSY, Symbol.REFUSED},
    WatchAnswer: {Symbol.HEAD, Symbol.EXPIRED, Symbol.BUSY, Symbol.REFUSED},
    Chunk: {Symbol.OBJECT, Symbol.BOOKMARK, Symbol.SYNC_END, Symbol.EXPIRED, Symbol.BUSY, Symbol.REFUSED},
    StreamEnded: {Symbol.BROKEN_REWATCH, Symbol.BROKEN_RELIST},
    Unreachable: {Symbol.UNREACHABLE},
    Stop: {Symbol.STOP},
}


def page(version: str = "10", token: str = "", names: str = "a") -> bytes:
    items = [{"metadata": {"name": name, "resourceVersion": "9"}} for name in names]
    return json.dumps({"metadata": {"resourceVersion": version, "continue": token}, "items": items}).encode()


def frame(kind: str, version: int | str, name: str = "a", **metadata: object) -> bytes:
    content = {"metadata": {"name": name, "resourceVersion": str(version), **metadata}}
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def error(code: int, reason: str) -> bytes:
    status = {"kind": "Status", "metadata": {}, "code": code, "reason": reason, "message": "m"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


SYNC_END = frame("BOOKMARK", 10, annotations={INITIAL_EVENTS_END: "true"})


class Clock:
    """Virtual time in ms."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


def session(policy: WatchPolicy = LISTS_FIRST, clock: Clock | None = None, random: float = 0.0) -> Session:
    return Session(policy, clock or Clock(), lambda: random, max_frame_bytes=10_000)


def drive(machine: Session, *inputs: Input) -> list[Command]:
    """Give the inputs; the commands of the last one."""
    commands: list[Command] = []
    for one in inputs:
        commands = machine.receive(one)
    return commands


WAYS_TO: dict[State, tuple[WatchPolicy, tuple[Input, ...]]] = {
    State.NEW: (LISTS_FIRST, ()),
    State.LISTING: (LISTS_FIRST, (Start(),)),
    State.SYNC_REQUESTED: (CLIENT_GO, (Start(),)),
    State.SYNCING: (CLIENT_GO, (Start(), WatchAnswer(200))),
    State.WATCH_REQUESTED: (LISTS_FIRST, (Start(), ListAnswer(200, page()))),
    State.WATCHING: (LISTS_FIRST, (Start(), ListAnswer(200, page()), WatchAnswer(200))),
    State.WAITING_TO_LIST: (LISTS_FIRST, (Start(), Unreachable("no"))),
    State.WAITING_TO_WATCH: (LISTS_FIRST, (Start(), ListAnswer(200, page()), WatchAnswer(429))),
    State.STOPPED: (LISTS_FIRST, (Stop(),)),
}

INPUTS: list[Input] = [
    Start(),
    TimerFired(),
    ListAnswer(200, page()),
    ListAnswer(200, page(token="t")),
    ListAnswer(200, b"nonsense"),
    ListAnswer(410, b'{"reason":"Expired","code":410}'),
    ListAnswer(429, b"", 3.0),
    ListAnswer(503, b"upstream connect error"),
    WatchAnswer(200),
    WatchAnswer(410),
    WatchAnswer(429),
    WatchAnswer(500),
    Chunk(b""),
    Chunk(frame("ADDED", 11)),
    Chunk(frame("BOOKMARK", 12)),
    Chunk(SYNC_END),
    Chunk(error(410, "Expired")),
    Chunk(error(429, "TooManyRequests")),
    Chunk(error(500, "InternalError")),
    Chunk(b"garbage\n"),
    StreamEnded(CLEAN),
    StreamEnded(RESET),
    StreamEnded(LOST),
    StreamEnded(DEADLINE),
    Unreachable("refused"),
    Stop(),
]


def test_the_table_has_exactly_the_pairs_that_inputs_can_make() -> None:
    possible = {
        (state, symbol)
        for kind, states in STATES_OF_INPUT.items()
        for state in states
        for symbol in SYMBOLS_OF_INPUT[kind]
    }
    assert set(TRANSITIONS) == possible
    assert {effect for effect, _ in TRANSITIONS.values()} == set(Effect)


def test_every_effect_has_its_method() -> None:
    machine = session()
    assert all(callable(getattr(machine, f"_{effect.value}")) for effect, _ in TRANSITIONS.values())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("one", INPUTS, ids=repr)
def test_every_input_in_every_state_does_what_the_table_says_or_is_refused_and_changes_nothing(
    state: State, one: Input
) -> None:
    policy, way = WAYS_TO[state]
    machine = session(policy)
    drive(machine, *way)
    assert machine.state is state
    if state in STATES_OF_INPUT[type(one)]:
        commands = machine.receive(one)
        reachable = {following for (before, _), (_, following) in TRANSITIONS.items() if before is state}
        assert machine.state in reachable | {state}
        asks = [command for command in commands if isinstance(command, AskList | AskWatch | Wait | Stopped)]
        waits_for_more = machine.state in (State.SYNCING, State.WATCHING)
        assert len(asks) == (0 if waits_for_more else 1)
        assert not asks or asks[-1] is commands[-1]
    else:
        with pytest.raises(SessionError, match=f"{type(one).__name__} while {state.value}"):
            machine.receive(one)
        assert machine.state is state


@given(st.lists(st.sampled_from(INPUTS), max_size=40), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_no_order_of_inputs_confuses_it(inputs: list[Input], watch_list: bool, random: float) -> None:
    clock = Clock()
    machine = session(replace(CLIENT_GO, watch_list=watch_list), clock, random)
    open_stream = False
    for one in inputs:
        clock.ms += 700
        before = machine.state
        try:
            commands = machine.receive(one)
        except SessionError:
            assert machine.state is before
            continue
        for command in commands:
            if isinstance(command, WatchStarted):
                assert not open_stream
                open_stream = True
            elif isinstance(command, CloseStream):
                open_stream = False
            elif isinstance(command, Wait):
                assert command.ms >= 800
        if isinstance(one, StreamEnded):
            open_stream = False
        assert open_stream == (machine.state in (State.SYNCING, State.WATCHING))
        assert (machine.watch_age_ms is not None) == open_stream


def test_pages_are_one_list_and_the_watch_begins_at_its_version() -> None:
    machine = session()
    assert drive(machine, Start()) == [AskList("0", 500, "")]
    assert drive(machine, ListAnswer(200, page(token="next", names="ab"))) == [AskList("", 500, "next")]
    listed, asked = drive(machine, ListAnswer(200, page(names="c")))
    assert isinstance(listed, Listed)
    assert [item.metadata.name for item in listed.items] == ["a", "b", "c"]
    assert (listed.resource_version, listed.reason) == ("10", "initial")
    assert asked == AskWatch("10", 300, False)
    assert machine.resource_version == "10"


@pytest.mark.parametrize(
    "answer",
    [
        ListAnswer(410, b'{"reason":"Expired","code":410}'),
        ListAnswer(410, b""),
        ListAnswer(
            504, b'{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}'
        ),
    ],
)
def test_an_unusable_version_is_listed_without_one_at_once_and_only_once(answer: ListAnswer) -> None:
    machine = session()
    assert drive(machine, Start(), answer) == [AskList("", 500, "")]
    ended, wait = drive(machine, answer)
    assert isinstance(ended, Ended)
    assert ended.ending.by is EndedBy.REFUSED
    assert isinstance(wait, Wait)


def test_a_continue_token_that_expires_begins_the_list_again() -> None:
    machine = session()
    drive(machine, Start(), ListAnswer(200, page(token="next", names="gone")))
    assert drive(machine, ListAnswer(410, b"")) == [AskList("", 500, "")]
    listed, _ = drive(machine, ListAnswer(200, page(names="a")))
    assert isinstance(listed, Listed)
    assert [item.metadata.name for item in listed.items] == ["a"]


@pytest.mark.parametrize(
    ("ending", "after"),
    [
        (CLEAN, [AskWatch("11", 300, False)]),
        (RESET, [Wait(800)]),
        (LOST, [AskWatch("11", 300, False)]),
        (DEADLINE, [Wait(800)]),
    ],
)
def test_the_ending_decides_between_a_watch_and_a_list(ending: Ending, after: list[Command]) -> None:
    machine = session()
    drive(machine, *WAYS_TO[State.WATCHING][1], Chunk(frame("MODIFIED", 11)))
    assert drive(machine, StreamEnded(ending)) == [Ended(ending, State.WATCHING), *after]
    if after == [Wait(800)]:
        # From the last version held: what any apiserver can answer that is no older.
        assert drive(machine, TimerFired()) == [AskList("11", 0, "")]
        listed, _ = drive(machine, ListAnswer(200, page("12")))
        assert isinstance(listed, Listed)
        assert listed.reason == "relist"


@pytest.mark.parametrize("ending", [CLEAN, LOST])
def test_a_very_short_watch_without_events_is_a_failure_and_not_a_loop(ending: Ending) -> None:
    clock = Clock()
    machine = session(clock=clock)
    drive(machine, *WAYS_TO[State.WATCHING][1])
    clock.ms += 999
    ended, wait = drive(machine, StreamEnded(ending))
    assert isinstance(ended, Ended)
    assert ended.ending.detail == f"{ending.detail} (very short watch: 999 ms without an event)"
    assert wait == Wait(800)


def test_a_clean_end_inside_a_frame_loses_nothing() -> None:
    machine = session()
    drive(machine, *WAYS_TO[State.WATCHING][1], Chunk(frame("MODIFIED", 11) + frame("MODIFIED", 12)[:9]))
    ended, asked = drive(machine, StreamEnded(CLEAN))
    assert isinstance(ended, Ended)
    assert "ended inside this frame" in ended.ending.detail
    assert asked == AskWatch("11", 300, False)
    drive(machine, WatchAnswer(200))
    assert [type(command) for command in drive(machine, Chunk(frame("MODIFIED", 12)))] == [Delivered]


@pytest.mark.parametrize(
    ("data", "then", "asked"),
    [
        (error(410, "Expired"), State.WAITING_TO_LIST, AskList("", 500, "")),
        (error(0, "Gone"), State.WAITING_TO_LIST, AskList("", 500, "")),
        (error(429, "TooManyRequests"), State.WAITING_TO_WATCH, AskWatch("11", 300, False)),
        (error(500, "InternalError"), State.WAITING_TO_LIST, AskList("11", 0, "")),
        (b"garbage\n", State.WAITING_TO_LIST, AskList("11", 0, "")),
        (b"x" * 10_001, State.WAITING_TO_LIST, AskList("11", 0, "")),
    ],
)
def test_what_the_stream_says_wrong_ends_it_and_nothing_after_it_counts(
    data: bytes, then: State, asked: Command
) -> None:
    machine = session()
    drive(machine, *WAYS_TO[State.WATCHING][1], Chunk(frame("MODIFIED", 11)))
    close, ended, wait = drive(machine, Chunk(data + b"\n" + frame("MODIFIED", 99)))
    assert close == CloseStream()
    assert isinstance(ended, Ended)
    assert ended.ending.by is EndedBy.ERROR_EVENT
    assert wait == Wait(800)
    assert machine.state is then
    assert drive(machine, TimerFired()) == [asked]


def test_bookmarks_move_the_version() -> None:
    machine = session()
    delivered = drive(machine, *WAYS_TO[State.WATCHING][1], Chunk(frame("BOOKMARK", 44)))
    assert [type(command) for command in delivered] == [Delivered]
    assert machine.resource_version == "44"


def test_retry_after_is_kept_and_a_longer_pause_of_our_own_too() -> None:
    machine = session()
    drive(machine, Start())
    assert drive(machine, ListAnswer(429, b"", 7.0))[-1] == Wait(7000)
    drive(machine, TimerFired())
    assert drive(machine, ListAnswer(429, b'{"code":429,"details":{"retryAfterSeconds":1}}'))[-1] == Wait(1600)


@pytest.mark.parametrize(
    ("answer", "wait", "asked"),
    [
        (WatchAnswer(503, b"apiserver is shutting down", 1.0), Wait(1000), AskWatch("11", 300, False)),
        (WatchAnswer(500, b"", 1.0), Wait(1000), AskWatch("11", 300, False)),
        (WatchAnswer(503, b"upstream connect error"), Wait(800), AskList("11", 0, "")),
        (WatchAnswer(403, b"", 1.0), Wait(1000), AskList("11", 0, "")),
        (WatchAnswer(504, b'{"code":410,"reason":"Expired"}', 1.0), Wait(1000), AskList("", 500, "")),
    ],
)
def test_a_server_that_says_when_it_is_back_is_asked_the_same_again(
    answer: WatchAnswer, wait: Wait, asked: Command
) -> None:
    machine = session()
    drive(machine, *WAYS_TO[State.WATCHING][1], Chunk(frame("MODIFIED", 11)), StreamEnded(CLEAN))
    assert drive(machine, answer)[-1] == wait
    assert drive(machine, TimerFired()) == [asked]


def test_a_watch_list_is_one_list_and_then_the_same_stream() -> None:
    machine = session(CLIENT_GO)
    assert drive(machine, Start()) == [AskWatch("", 300, True)]
    assert drive(machine, WatchAnswer(200)) == [WatchStarted("", 300)]
    assert drive(machine, Chunk(frame("ADDED", 3, "a") + frame("ADDED", 4, "b") + frame("DELETED", 5, "a"))) == []
    (listed,) = drive(machine, Chunk(SYNC_END))
    assert isinstance(listed, Listed)
    assert [(item.metadata.name, item.metadata.resource_version) for item in listed.items] == [("b", "4")]
    assert json.loads(bytes(listed.items[0].raw))["metadata"]["name"] == "b"
    assert machine.resource_version == "10"
    assert [type(command) for command in drive(machine, Chunk(frame("MODIFIED", 11)))] == [Delivered]


def test_stop_ends_it_for_good() -> None:
    machine = session()
    drive(machine, *WAYS_TO[State.WATCHING][1])
    assert drive(machine, Stop()) == [CloseStream(), Stopped()]
    with pytest.raises(SessionError, match="Start while stopped"):
        machine.receive(Start())


# A model of a cluster, faults of every kind, virtual time: in the end the view is the cluster's, and on the way no
# event was lost or came twice.


@dataclass
class Cluster:
    """Objects by name, every change in order, and the oldest version that a watch may begin from."""

    version: int = 1
    objects: dict[str, int] = field(default_factory=dict)
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    compacted: int = 0

    def write(self, name: str) -> None:
        self.version += 1
        self.changes.append((self.version, "MODIFIED" if name in self.objects else "ADDED", name))
        self.objects[name] = self.version

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            self.changes.append((self.version, "DELETED", name))
            del self.objects[name]

    def frames_after(self, version: int) -> list[bytes]:
        if version < self.compacted:
            return [error(410, "Expired")]
        return [frame(kind, number, name) for number, kind, name in self.changes if number > version]


class Simulation:
    """A session against the cluster; ``view`` is what its watcher holds."""

    def __init__(self, policy: WatchPolicy) -> None:
        self.clock = Clock()
        self.cluster = Cluster()
        self.session = session(policy, self.clock)
        self.asked: AskList | AskWatch | Wait | None = None
        self.snapshot: tuple[int, list[tuple[str, int]]] = (0, [])
        self.sent_up_to = 0
        self.pipe = b""
        self.view: dict[str, int] = {}
        self.seen_up_to = 0
        self.give(Start())

    def give(self, one: Input) -> None:
        for command in self.session.receive(one):
            match command:
                case AskList() | AskWatch() | Wait():
                    self.asked = command
                case Listed():
                    self.view = {item.metadata.name: int(item.metadata.resource_version) for item in command.items}
                    self.seen_up_to = int(command.resource_version)
                case Delivered(got):
                    self.take(got.type, got.metadata.name, int(got.metadata.resource_version))
                case CloseStream():
                    self.pipe = b""
                case _:
                    pass

    def take(self, kind: str, name: str, version: int) -> None:
        missing = [change for change in self.cluster.changes if self.seen_up_to < change[0] <= version]
        assert missing == ([] if kind == "BOOKMARK" else [(version, kind, name)])
        self.seen_up_to = version
        if kind == "DELETED":
            del self.view[name]
        elif kind != "BOOKMARK":
            self.view[name] = version

    @property
    def streaming(self) -> bool:
        return self.session.state in (State.SYNCING, State.WATCHING)

    def good(self) -> None:
        """The next step as it should be."""
        asked = self.asked
        if self.streaming:
            self.fill()
            data, self.pipe = self.pipe, b""
            self.give(Chunk(data))
        elif isinstance(asked, Wait):
            self.clock.ms += asked.ms
            self.give(TimerFired())
        elif isinstance(asked, AskList):
            self.list(asked)
        elif isinstance(asked, AskWatch):
            self.pipe = b""
            self.sent_up_to = int(asked.resource_version or self.cluster.version)
            if asked.send_initial_events:
                self.sent_up_to = self.cluster.version
                objects = [frame("ADDED", version, name) for name, version in self.cluster.objects.items()]
                end = frame("BOOKMARK", self.sent_up_to, annotations={INITIAL_EVENTS_END: "true"})
                self.pipe = b"".join((*objects, end))
            self.give(WatchAnswer(200))

    def list(self, asked: AskList) -> None:
        if not asked.continue_token:
            self.snapshot = (self.cluster.version, sorted(self.cluster.objects.items()))
        version, objects = self.snapshot
        start = int(asked.continue_token or 0)
        rest = objects[start:]
        shown = rest[:2] if asked.limit else rest
        items = [{"metadata": {"name": name, "resourceVersion": str(number)}} for name, number in shown]
        token = str(start + 2) if len(shown) < len(rest) else ""
        body = {"metadata": {"resourceVersion": str(version), "continue": token}, "items": items}
        self.give(ListAnswer(200, json.dumps(body).encode()))

    def fill(self) -> None:
        self.pipe += b"".join(self.cluster.frames_after(self.sent_up_to))
        self.sent_up_to = self.cluster.version

    def partial(self, size: int) -> None:
        if self.streaming:
            self.fill()
            data, self.pipe = self.pipe[:size], self.pipe[size:]
            self.give(Chunk(data))

    def bookmark(self) -> None:
        if self.streaming:
            self.fill()
            self.pipe += frame("BOOKMARK", self.sent_up_to)

    def end(self, ending: Ending) -> None:
        if not isinstance(self.asked, Wait) or self.streaming:
            self.pipe = b""
            self.give(StreamEnded(ending))

    def refuse(self, status: int) -> None:
        if self.session.state is State.LISTING:
            self.give(ListAnswer(status, b""))
        elif self.session.state in (State.SYNC_REQUESTED, State.WATCH_REQUESTED):
            self.give(WatchAnswer(status))

    def unreachable(self) -> None:
        if self.session.state in STATES_OF_INPUT[Unreachable]:
            self.give(Unreachable("no"))

    def garbage(self) -> None:
        if self.streaming and not self.pipe:
            self.give(Chunk(b"\x00garbage\n"))

    def compact(self) -> None:
        self.cluster.compacted = self.cluster.version

    def quiet(self) -> None:
        self.clock.ms += 200_000


Step = Callable[[Simulation], None]
names = st.sampled_from("abcde")
steps: st.SearchStrategy[Step] = st.one_of(
    names.map(lambda name: lambda simulation: simulation.cluster.write(name)),
    names.map(lambda name: lambda simulation: simulation.cluster.delete(name)),
    st.integers(0, 400).map(lambda size: lambda simulation: simulation.partial(size)),
    st.sampled_from([CLEAN, RESET, LOST, DEADLINE]).map(lambda ending: lambda simulation: simulation.end(ending)),
    st.sampled_from([401, 410, 422, 429, 500, 503]).map(lambda status: lambda simulation: simulation.refuse(status)),
    st.sampled_from(
        [Simulation.good, Simulation.bookmark, Simulation.compact, Simulation.quiet, Simulation.unreachable]
    ),
    st.just(Simulation.good),
    st.just(Simulation.garbage),
)


@given(st.lists(steps, max_size=60), st.booleans())
def test_whatever_breaks_the_view_becomes_the_clusters_and_no_event_is_lost_or_doubled(
    happened: list[Step], watch_list: bool
) -> None:
    simulation = Simulation(replace(CLIENT_GO, watch_list=watch_list))
    for step in happened:
        step(simulation)
    simulation.cluster.write("last")
    for _ in range(30):
        simulation.good()
    assert simulation.session.state is State.WATCHING
    assert simulation.view == simulation.cluster.objects
    assert simulation.session.resource_version == str(simulation.cluster.version)
