import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream.driver import (
    CLEAN,
    DEADLINE,
    LOST,
    RESET,
    Driver,
    bookmark,
    error,
    frame,
    kinds,
    only,
    page,
    sync_end,
)

from unblink.stream.endings import EndedBy, Ending
from unblink.stream.frames import Framing
from unblink.stream.messages import (
    AskList,
    AskWatch,
    Chunk,
    Close,
    Command,
    Delivered,
    Ended,
    Input,
    ListAnswer,
    Listed,
    Stop,
    Stopped,
    StreamEnded,
    Tick,
    Unreachable,
    WatchAnswer,
    WatchStarted,
)
from unblink.stream.objects import INITIAL_EVENTS_END
from unblink.stream.policy import CLIENT_GO, WatchPolicy
from unblink.stream.session import SessionError
from unblink.stream.transitions import State

LISTS_FIRST = replace(CLIENT_GO, watch_list=False)


def watching(policy: WatchPolicy = LISTS_FIRST) -> Driver:
    """A driver whose watch is open from version 10."""
    driver = Driver(policy)
    driver.start()
    driver.answer()
    driver.head()
    return driver


def pause_ms(driver: Driver) -> int:
    """How long the session pauses now; nothing is asked meanwhile."""
    assert driver.asked == {}
    assert driver.session.deadline_ms is not None
    return driver.session.deadline_ms - driver.clock.ms


def test_pages_are_one_list_and_the_watch_begins_at_its_version() -> None:
    driver = Driver(LISTS_FIRST)
    assert driver.start() == [AskList(1, "0", 500, "")]
    assert driver.answer(page(token="next", names="ab")) == [AskList(2, "", 500, "next")]
    listed, asked = driver.answer(page(names="c"))
    assert isinstance(listed, Listed)
    assert [item.metadata.name for item in listed.items] == ["a", "b", "c"]
    assert (listed.resource_version, listed.reason) == ("10", "initial")
    assert asked == AskWatch(3, "10", 300, False)
    assert driver.session.resource_version == "10"


def test_client_go_has_no_deadline_of_its_own() -> None:
    driver = Driver(LISTS_FIRST)
    driver.start()
    assert driver.session.deadline_ms is None
    driver.answer()
    assert driver.session.deadline_ms is None
    driver.head()
    driver.clock.ms += 3_600_000
    assert driver.session.deadline_ms is None
    assert driver.give(Tick()) == []


TOO_LARGE = b'{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}'


@pytest.mark.parametrize(("status", "body"), [(410, b'{"reason":"Expired","code":410}'), (410, b""), (504, TOO_LARGE)])
def test_an_unusable_version_is_listed_without_one_at_once_and_only_once(status: int, body: bytes) -> None:
    driver = Driver(LISTS_FIRST)
    driver.start()
    assert driver.answer(body, status) == [AskList(2, "", 500, "")]
    (ended,) = driver.answer(body, status)
    assert isinstance(ended, Ended)
    assert ended.ending.by is EndedBy.REFUSED
    assert driver.session.state is State.WAITING_TO_LIST
    assert pause_ms(driver) >= 800


def test_a_continue_token_that_expires_begins_the_list_again() -> None:
    driver = Driver(LISTS_FIRST)
    driver.start()
    driver.answer(page(token="next", names="gone"))
    assert driver.answer(b"", 410) == [AskList(3, "", 500, "")]
    listed = only(Listed, driver.answer(page(names="a")))
    assert [item.metadata.name for item in listed.items] == ["a"]


@pytest.mark.parametrize(("ending", "rewatches"), [(CLEAN, True), (RESET, False), (LOST, True), (DEADLINE, False)])
def test_the_ending_decides_between_a_watch_and_a_list(ending: Ending, rewatches: bool) -> None:
    driver = watching()
    driver.chunk(frame("MODIFIED", 11))
    ended, *after = driver.end(ending)
    assert ended == Ended(ending, State.WATCHING)
    if rewatches:
        assert only(AskWatch, after).resource_version == "11"
        return
    assert after == []
    assert pause_ms(driver) == 800
    # From the last version held: what any apiserver can answer that is no older.
    (asked,) = driver.tick()
    assert isinstance(asked, AskList)
    assert (asked.resource_version, asked.limit, asked.continue_token) == ("11", 0, "")
    assert only(Listed, driver.answer(page(12))).reason == "relist"


@pytest.mark.parametrize("ending", [CLEAN, LOST])
def test_a_very_short_watch_without_events_is_a_failure_and_not_a_loop(ending: Ending) -> None:
    driver = watching()
    driver.clock.ms += 999
    (ended,) = driver.end(ending)
    assert isinstance(ended, Ended)
    assert ended.ending.detail == f"{ending.detail} (very short watch: 999 ms without an event)"
    assert pause_ms(driver) == 800


def test_a_clean_end_inside_a_frame_loses_nothing() -> None:
    driver = watching()
    driver.chunk(frame("MODIFIED", 11), frame("MODIFIED", 12)[:9])
    ended, asked = driver.end(CLEAN)
    assert isinstance(ended, Ended)
    assert "ended inside this frame" in ended.ending.detail
    assert isinstance(asked, AskWatch)
    assert asked.resource_version == "11"
    driver.head()
    assert kinds(driver.chunk(frame("MODIFIED", 12))) == [Delivered]


@pytest.mark.parametrize(
    ("data", "then", "asked"),
    [
        (error(410, "Expired"), State.WAITING_TO_LIST, ("", 500)),
        (error(0, "Gone"), State.WAITING_TO_LIST, ("", 500)),
        (error(429, "TooManyRequests"), State.WAITING_TO_WATCH, ("11",)),
        (error(500, "InternalError"), State.WAITING_TO_LIST, ("11", 0)),
        (b"garbage\n", State.WAITING_TO_LIST, ("11", 0)),
        (b"x" * 10_001, State.WAITING_TO_LIST, ("11", 0)),
    ],
)
def test_what_the_stream_says_wrong_ends_it_and_nothing_after_it_counts(
    data: bytes, then: State, asked: tuple[object, ...]
) -> None:
    driver = watching()
    driver.chunk(frame("MODIFIED", 11))
    watch = driver.last(AskWatch)
    close, ended = driver.chunk(data, b"\n", frame("MODIFIED", 99))
    assert close == Close(watch)
    assert isinstance(ended, Ended)
    assert ended.ending.by is EndedBy.ERROR_EVENT
    assert pause_ms(driver) == 800
    assert driver.session.state is then
    (again,) = driver.tick()
    if isinstance(again, AskList):
        assert (again.resource_version, again.limit) == asked
    else:
        assert isinstance(again, AskWatch)
        assert (again.resource_version,) == asked


def test_what_comes_before_an_error_in_the_same_bytes_is_delivered() -> None:
    driver = watching()
    commands = driver.chunk(frame("MODIFIED", 11), frame("MODIFIED", 12), error(410, "Expired"))
    assert kinds(commands) == [Delivered, Close, Ended]
    assert [one.metadata.resource_version for one in only(Delivered, commands).frames] == ["11", "12"]


def test_bookmarks_move_the_version() -> None:
    driver = watching()
    assert kinds(driver.chunk(bookmark(44))) == [Delivered]
    assert driver.session.resource_version == "44"


def test_retry_after_is_kept_and_a_longer_pause_of_our_own_too() -> None:
    driver = Driver(LISTS_FIRST)
    driver.start()
    driver.answer(b"", 429, 7.0)
    assert pause_ms(driver) == 7000
    driver.tick()
    driver.answer(b'{"code":429,"details":{"retryAfterSeconds":1}}', 429)
    assert pause_ms(driver) == 1600


def test_an_absurd_retry_after_is_an_hour() -> None:
    driver = Driver(LISTS_FIRST)
    driver.start()
    driver.answer(b"", 429, float("inf"))
    assert pause_ms(driver) == 3_600_000


@pytest.mark.parametrize(
    ("answer", "pause", "asked"),
    [
        ((503, b"apiserver is shutting down", 1.0), 1000, AskWatch),
        ((500, b"", 1.0), 1000, AskWatch),
        ((503, b"upstream connect error", None), 800, "11"),
        ((403, b"", 1.0), 1000, "11"),
        ((504, b'{"code":410,"reason":"Expired"}', 1.0), 1000, ""),
    ],
)
def test_a_server_that_says_when_it_is_back_is_asked_the_same_again(
    answer: tuple[int, bytes, float | None], pause: int, asked: object
) -> None:
    driver = watching()
    driver.chunk(frame("MODIFIED", 11))
    driver.end(CLEAN)
    driver.head(*answer)
    assert pause_ms(driver) == pause
    (again,) = driver.tick()
    if asked is AskWatch:
        assert isinstance(again, AskWatch)
        assert again.resource_version == "11"
    else:
        assert isinstance(again, AskList)
        assert again.resource_version == asked


def test_a_watch_list_is_one_list_and_then_the_same_stream() -> None:
    driver = Driver(CLIENT_GO)
    assert driver.start() == [AskWatch(1, "", 300, True)]
    assert driver.head() == [WatchStarted("", 300)]
    assert driver.chunk(frame("ADDED", 3, "a"), frame("ADDED", 4, "b"), frame("DELETED", 5, "a")) == []
    (listed,) = driver.chunk(sync_end())
    assert isinstance(listed, Listed)
    assert [(item.metadata.name, item.metadata.resource_version) for item in listed.items] == [("b", "4")]
    assert listed.items[0].enveloped
    assert json.loads(listed.items[0].raw)["object"]["metadata"]["name"] == "b"
    assert driver.session.resource_version == "10"
    assert kinds(driver.chunk(frame("MODIFIED", 11))) == [Delivered]


def test_events_behind_the_end_of_the_initial_ones_are_delivered_from_the_same_bytes() -> None:
    driver = Driver(CLIENT_GO)
    driver.start()
    driver.head()
    assert kinds(driver.chunk(frame("ADDED", 3), sync_end(), frame("MODIFIED", 11))) == [Listed, Delivered]


def test_an_event_that_is_held_already_is_not_delivered_again() -> None:
    driver = watching()
    driver.chunk(frame("MODIFIED", 11))
    assert driver.chunk(frame("MODIFIED", 11), frame("ADDED", 7)) == []
    assert driver.session.duplicates == 2
    assert driver.session.resource_version == "11"


def test_stop_ends_it_for_good() -> None:
    driver = watching()
    watch = driver.last(AskWatch)
    assert driver.give(Stop()) == [Close(watch), Stopped()]
    assert driver.asked == {}
    with pytest.raises(SessionError, match="Start while stopped"):
        driver.start()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (ListAnswer(7, 200, b""), "request 7 is none of kind list or probe while watching"),
        (WatchAnswer(2, 200), "a second head of request 2"),
        (Chunk(1, b""), "request 1 is none of kind watch"),
        (StreamEnded(9, CLEAN), "request 9 is none of kind"),
        (Unreachable(2, "no"), "Unreachable while watching"),
    ],
)
def test_an_input_of_no_such_request_names_it(wrong: Input, says: str) -> None:
    driver = watching()
    with pytest.raises(SessionError, match=says):
        driver.session.receive(wrong)
    assert kinds(driver.chunk(frame("MODIFIED", 11))) == [Delivered]


def test_bytes_before_the_head_are_an_error() -> None:
    driver = Driver(CLIENT_GO)
    driver.start()
    with pytest.raises(SessionError, match="bytes of request 1 before its head"):
        driver.chunk(b"")


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
        self.driver = Driver(policy)
        self.cluster = Cluster()
        self.snapshot: tuple[int, list[tuple[str, int]]] = (0, [])
        self.sent_up_to = 0
        self.pipe = b""
        self.view: dict[str, int] = {}
        self.seen_up_to = 0
        self.take(self.driver.start())

    def take(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Listed():
                    self.view = {item.metadata.name: int(item.metadata.resource_version) for item in command.items}
                    self.seen_up_to = int(command.resource_version)
                case Delivered(frames):
                    for one in frames:
                        self.see(one.type, one.metadata.name, int(one.metadata.resource_version))
                case Close():
                    self.pipe = b""
                case _:
                    pass

    def see(self, kind: str, name: str, version: int) -> None:
        missing = [change for change in self.cluster.changes if self.seen_up_to < change[0] <= version]
        assert missing == ([] if kind == "BOOKMARK" else [(version, kind, name)])
        self.seen_up_to = version
        if kind == "DELETED":
            del self.view[name]
        elif kind != "BOOKMARK":
            self.view[name] = version

    @property
    def streaming(self) -> bool:
        return bool(self.driver.heads)

    @property
    def asked(self) -> AskList | AskWatch | None:
        """The request that waits for its answer; client-go has one at a time."""
        assert len(self.driver.asked) <= 1
        found = None if self.streaming else next(iter(self.driver.asked.values()), None)
        assert found is None or isinstance(found, AskList | AskWatch)
        return found

    def good(self) -> None:
        """The next step as it should be."""
        asked = self.asked
        if self.streaming:
            self.fill()
            self.send()
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
            self.take(self.driver.head())
        else:
            self.take(self.driver.tick())

    def send(self, size: int | None = None) -> None:
        data, self.pipe = self.pipe[:size], b"" if size is None else self.pipe[size:]
        self.take(self.driver.chunk(data))

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
        self.take(self.driver.answer(json.dumps(body).encode()))

    def fill(self) -> None:
        self.pipe += b"".join(self.cluster.frames_after(self.sent_up_to))
        self.sent_up_to = self.cluster.version

    def partial(self, size: int) -> None:
        if self.streaming:
            self.fill()
            self.send(size)

    def bookmark(self) -> None:
        if self.streaming:
            self.fill()
            self.pipe += frame("BOOKMARK", self.sent_up_to)

    def end(self, ending: Ending) -> None:
        if self.driver.asked:
            self.pipe = b""
            self.take(self.driver.end(ending))

    def refuse(self, status: int) -> None:
        if isinstance(self.asked, AskList):
            self.take(self.driver.answer(b"", status))
        elif self.asked is not None:
            self.take(self.driver.head(status))

    def unreachable(self) -> None:
        if self.asked is not None:
            self.take(self.driver.unreachable())

    def garbage(self) -> None:
        if self.streaming and not self.pipe:
            self.take(self.driver.chunk(b"\x00garbage\n"))

    def compact(self) -> None:
        self.cluster.compacted = self.cluster.version

    def quiet(self) -> None:
        self.driver.clock.ms += 200_000


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
    assert simulation.driver.session.state is State.WATCHING
    assert simulation.view == simulation.cluster.objects
    assert simulation.driver.session.resource_version == str(simulation.cluster.version)


def test_a_list_may_be_protobuf() -> None:
    driver = Driver(replace(CLIENT_GO, watch_list=False))
    driver.start()
    # Unknown{raw: List{metadata: {resourceVersion: "7"}, items: [{metadata: {name: "a"}}]}}
    name = b"\x0a\x03\x0a\x01a"
    listed = b"\x0a\x03\x12\x017" + b"\x12" + bytes([len(name)]) + name
    body = b"k8s\x00" + b"\x12" + bytes([len(listed)]) + listed
    commands = driver.give(ListAnswer(driver.last(AskList), 200, body, framing=Framing.PROTOBUF))
    found = only(Listed, commands)
    assert found.resource_version == "7"
    assert [item.metadata.name for item in found.items] == ["a"]


def test_a_compressed_watch_that_is_cut_short_says_so() -> None:
    driver = Driver(replace(CLIENT_GO, watch_list=False))
    driver.start()
    driver.answer()
    driver.give(WatchAnswer(driver.last(AskWatch), 200, gzip=True))
    whole = gzip.compress(frame("ADDED", 11) + frame("ADDED", 12))
    driver.chunk(whole[:-8])
    ended = only(Ended, driver.end(CLEAN))
    assert "inside the gzip data" in ended.ending.detail
