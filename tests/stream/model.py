"""A model of apiservers over one store, in virtual time: what a session may meet, and what it must never do.

Two apiservers stand behind a gateway that sends each request to one of them and never notices that one is gone. Faults
hit one apiserver at a time, unless ``all_down``; the session's commands are carried out against them, its inputs come
back after delays, as bytes cut anywhere. Every violation of an invariant is an AssertionError.
"""

import heapq
import itertools
import json
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from unblink.lab.apiserver import protobuf
from unblink.stream.bookmarks import Bookmarks
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.frames import FrameType, Framing
from unblink.stream.messages import (
    AskList,
    AskProbe,
    AskWatch,
    Chunk,
    Close,
    Command,
    Delivered,
    Doubted,
    Ended,
    Input,
    ListAnswer,
    Listed,
    Proven,
    Stale,
    Start,
    Stop,
    Stopped,
    StreamEnded,
    Tick,
    Unreachable,
    WatchAnswer,
    WatchStarted,
)
from unblink.stream.objects import INITIAL_EVENTS_END
from unblink.stream.policy import WatchPolicy
from unblink.stream.session import Session
from unblink.stream.transitions import State

Event = tuple[str, dict[str, object]]
"""Type and object of a frame."""

KEYS = [f"pod-{number}" for number in range(6)]
FAULTS = ("drop", "freeze", "kill", "reset", "store-cut", "drain", "lag", "overload", "spin")
RESOURCE_VERSION_TOO_LARGE = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}


@dataclass
class Write:
    """One event of the watched resource."""

    rv: int
    at_ms: int
    kind: str
    name: str
    uid: str


def _rv_of(write: Write) -> int:
    return write.rv


@dataclass
class Store:
    """etcd: one revision for all resources; ``writes`` are those of the watched one."""

    rv: int = 100
    floor: int = 0
    writes: list[Write] = field(default_factory=list)
    objects: dict[str, Write] = field(default_factory=dict)
    revisions: list[tuple[int, int]] = field(default_factory=lambda: [(0, 100)])

    def at(self, moment_ms: int) -> int:
        """The revision as of a moment."""
        return next(rv for when, rv in reversed(self.revisions) if when <= moment_ms)

    def after(self, rv: int, up_to: int | None = None) -> list[Write]:
        """The watched resource's writes after a revision, up to another."""
        begin = bisect_right(self.writes, rv, key=_rv_of)
        return (
            self.writes[begin:] if up_to is None else self.writes[begin : bisect_right(self.writes, up_to, key=_rv_of)]
        )


@dataclass
class Server:
    """One apiserver: what works, and how far behind the store its watch cache is."""

    number: int
    fault: str = ""
    cut_at_ms: int | None = None
    lag_ms: int = 0
    in_flight: int = 0
    oldest_rv: int = 0
    """Where its watch cache begins."""

    @property
    def hears(self) -> bool:
        return self.fault not in ("drop", "freeze")


@dataclass
class Stream:
    """An open watch: what was sent on it, and what is due."""

    id: int
    server: Server
    sent_rv: int
    started_from: int
    ends_ms: int
    bookmark_ms: int | None
    complete_at: int | None = None
    position: int = 0
    dead: bool = False


@dataclass(frozen=True)
class Plan:
    """What a case is made of."""

    seed: int
    duration_ms: int
    write_every_ms: tuple[int, int]
    quiet: tuple[int, int] | None
    faults: tuple[tuple[int, int, int, str], ...]
    """(begin, end, server, kind), one after another."""
    compactions_ms: tuple[int, ...] = ()
    balance: str = "round-robin"
    bookmarks: bool = True
    watch_list: str = "served"
    """``served``, ``refused``, or ``ignored`` as servers before 1.27 do."""
    cache_moves: bool = True
    """Whether the watch caches follow the store on their own, by etcd's progress notifications."""
    framing: Framing = Framing.LINES
    opaque: bool = False
    """Whether resourceVersions are no integers; their order is known to the store alone."""
    gateway_answers: bool = False
    """Whether the gateway says 503 for a dead apiserver, or lets the connection be refused."""


class World:
    """One session against the model. ``run`` plays the plan to its end."""

    def __init__(self, plan: Plan, policy: WatchPolicy) -> None:
        assert policy.liveness is not None
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.now_ms = 0
        self.store = Store()
        self.servers = [Server(0), Server(1)]
        self.streams: dict[int, Stream] = {}
        self.bookmarks = Bookmarks()
        self.session = Session(policy, lambda: self.now_ms, self.random.random, bookmarks=self.bookmarks)
        self.bound_ms = policy.liveness.max_staleness_ms
        self.synced = False
        self.held_rv = 0
        self.cache: dict[str, str] = {}
        self.delivered: set[int] = set()
        self.relists: list[str] = []
        self.requests = {"list": 0, "watch": 0, "probe": 0}
        self.commands: list[tuple[int, Command]] = []
        self.blind_ms = 0
        self.pauses_in_a_row = self.most_pauses_in_a_row = 0
        """Answers that ask for a pause, and watches that ended at once, with no other answer between them."""
        self.verified = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._next_server = 0
        self._open: dict[int, Server] = {}

    # Time

    def at(self, moment_ms: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (moment_ms, next(self._order), act))

    def run(self) -> None:
        for begin, end, number, kind in self.plan.faults:
            self.at(begin, lambda number=number, kind=kind: self._break(number, kind))  # type: ignore[misc]
            self.at(end, lambda number=number: self._mend(number))  # type: ignore[misc]
        for moment in self.plan.compactions_ms:
            self.at(moment, self._compact)
        self.at(1, self._write)
        self.at(50, self._noise)
        self.give(Start())
        steps = 0
        while self._queue and self._queue[0][0] <= self.plan.duration_ms:
            steps += 1
            assert steps < 400_000, "a spin"
            due_ms = self.session.deadline_ms
            if due_ms is not None and due_ms < self._queue[0][0]:
                self.now_ms = max(self.now_ms, due_ms)
                self.give(Tick())
                again = self.session.deadline_ms
                assert again is None or again > self.now_ms, "a tick that does not help"
                continue
            moment, _, act = heapq.heappop(self._queue)
            self.now_ms = max(self.now_ms, moment)
            act()
        self._check_complete()
        self.give(Stop())
        assert not self._open

    # resourceVersions on the wire

    def text(self, rv: int) -> str:
        return f"r{rv}" if self.plan.opaque else str(rv)

    def rv(self, text: str) -> int:
        return int(text.removeprefix("r") or 0)

    def object(self, write: Write) -> dict[str, object]:
        return _config_map({"name": write.name, "uid": write.uid, "resourceVersion": self.text(write.rv)})

    # The store

    def _write(self) -> None:
        low, high = self.plan.write_every_ms
        quiet = self.plan.quiet
        if quiet is None or not quiet[0] <= self.now_ms < quiet[1]:
            name = self.random.choice(KEYS)
            self.store.rv += 1
            before = self.store.objects.get(name)
            kind = "ADDED" if before is None else self.random.choice(["MODIFIED", "MODIFIED", "DELETED"])
            uid = f"{name}-{self.store.rv}" if before is None else before.uid
            write = Write(self.store.rv, self.now_ms, kind, name, uid)
            self.store.writes.append(write)
            if kind == "DELETED":
                del self.store.objects[name]
            else:
                self.store.objects[name] = write
            self.store.revisions.append((self.now_ms, self.store.rv))
        self._look()
        self.at(self.now_ms + self.random.randint(low, high), self._write)

    def _noise(self) -> None:
        """Other resources move the revision too."""
        self.store.rv += 1
        self.store.revisions.append((self.now_ms, self.store.rv))
        for server in self.servers:
            self.at(self.now_ms + server.lag_ms, lambda server=server: self._pump(server))  # type: ignore[misc]
        self._look()
        self.at(self.now_ms + self.random.randint(100, 900), self._noise)

    def _compact(self) -> None:
        self.store.floor = self.store.rv

    def _look(self) -> None:
        """How long the oldest write that the watcher does not hold has been written."""
        for server in self.servers:
            self._pump(server)
        if self.synced:
            missing = self.store.after(self.held_rv)
            if missing:
                self.blind_ms = max(self.blind_ms, self.now_ms - missing[0].at_ms)

    def cache_rv(self, server: Server) -> int:
        moment = self.now_ms - server.lag_ms
        return self.store.at(moment if server.cut_at_ms is None else min(moment, server.cut_at_ms))

    # Faults

    def _break(self, number: int, kind: str) -> None:
        server = self.servers[number]
        server.fault = kind
        if kind == "store-cut":
            server.cut_at_ms = self.now_ms
        elif kind == "lag":
            server.lag_ms = 900
        elif kind in ("kill", "reset", "drain"):
            by = {"kill": EndedBy.STREAM_RESET, "reset": EndedBy.CONNECTION_LOST, "drain": EndedBy.SERVER_CLOSED}[kind]
            for stream in [one for one in self.streams.values() if one.server is server]:
                self._end(stream, Ending(by, kind))
        elif kind == "drop":
            for stream in self.streams.values():
                stream.dead = stream.dead or stream.server is server

    def _mend(self, number: int) -> None:
        server = self.servers[number]
        if server.fault == "kill" and self.plan.balance == "round-robin":
            server.oldest_rv = self.store.rv
        server.fault, server.cut_at_ms, server.lag_ms = "", None, 0
        self._pump(server)

    def _pick(self) -> Server:
        self._next_server += 1
        turn = self._next_server % 2
        if self.plan.balance == "least-request":
            # A gateway that decides ties by chance may go to the bad one any number of times: no bound holds of that.
            return min(self.servers, key=lambda server: (server.in_flight, (server.number + turn) % 2))
        return self.servers[turn]

    # Commands

    def give(self, event: Input) -> None:
        for command in self.session.receive(event):
            self.commands.append((self.now_ms, command))
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case AskList():
                self.requests["list"] += 1
                self._ask(command, lambda server: self._answer_list(command, server))
            case AskProbe():
                self.requests["probe"] += 1
                probe = AskList(command.id, "", 1, "")
                self._ask(command, lambda server: self._answer_list(probe, server))
            case AskWatch():
                self.requests["watch"] += 1
                self._ask(command, lambda server: self._answer_watch(command, server))
            case Close():
                self._forget(command.id)
            case Listed():
                self._take_list(command)
            case Delivered():
                self._take_frames(command)
            case Ended(while_state=State.REPLACING, ending=Ending(detail=detail)):
                self.verified = self.verified or "no replacement proved" in detail
            case Ended() | WatchStarted() | Doubted() | Stale() | Proven() | Stopped():
                pass

    def _ask(self, command: AskList | AskProbe | AskWatch, answer: Callable[[Server], None]) -> None:
        number, server = command.id, self._pick()
        self._open[number] = server
        server.in_flight += 1

        def arrive() -> None:
            if number not in self._open:
                return
            if server.fault == "kill" and self.plan.gateway_answers:
                body = b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"
                if isinstance(command, AskWatch):
                    self._close_and_give(number, WatchAnswer(number, 503, body))
                else:
                    self._close_and_give(number, ListAnswer(number, 503, body))
            elif server.fault == "kill":
                self._close_and_give(number, Unreachable(number, "connection refused"))
            elif server.fault == "reset":
                self._close_and_give(number, StreamEnded(number, Ending(EndedBy.CONNECTION_LOST, "reset")))
            elif server.hears:
                answer(server)

        self.at(self.now_ms + self.random.randint(1, 20), arrive)

    def _forget(self, number: int) -> None:
        self._open.pop(number).in_flight -= 1
        self.streams.pop(number, None)

    def _close_and_give(self, number: int, event: Input) -> None:
        asks = isinstance(event, ListAnswer | WatchAnswer) and event.retry_after_s is not None
        pauses = asks or (isinstance(event, StreamEnded) and self._open[number].fault == "spin")
        self.pauses_in_a_row = self.pauses_in_a_row + 1 if pauses else 0
        self.most_pauses_in_a_row = max(self.most_pauses_in_a_row, self.pauses_in_a_row)
        self._forget(number)
        self.give(event)

    def _answer_list(self, asked: AskList, server: Server) -> None:
        consistent = not asked.resource_version
        if server.fault == "overload":
            return self._close_and_give(asked.id, ListAnswer(asked.id, 429, b"", 1.0))
        if server.cut_at_ms is not None and consistent:
            late = ListAnswer(asked.id, 500, _status(500, "", "etcdserver: request timed out"))
            return self.at(
                self.now_ms + 2000, lambda: self._close_and_give(asked.id, late) if asked.id in self._open else None
            )
        rv = self.store.rv if consistent else self.cache_rv(server)
        wanted = self.rv(asked.resource_version)
        if wanted > rv:
            body = _status(504, "Timeout", "too large", causes=[RESOURCE_VERSION_TOO_LARGE])
            return self._close_and_give(asked.id, ListAnswer(asked.id, 504, body, 1.0))
        items = [self.object(write) for write in self._objects_at(rv)]
        body = json.dumps({"metadata": {"resourceVersion": self.text(rv)}, "items": items}).encode()
        return self._close_and_give(asked.id, ListAnswer(asked.id, 200, body))

    def _objects_at(self, rv: int) -> list[Write]:
        objects: dict[str, Write] = {}
        for write in self.store.writes:
            if write.rv > rv:
                break
            objects[write.name] = write
            if write.kind == "DELETED":
                del objects[write.name]
        return list(objects.values())

    def _answer_watch(self, asked: AskWatch, server: Server) -> None:
        if server.fault == "overload":
            return self._close_and_give(asked.id, WatchAnswer(asked.id, 429, b"", 1.0))
        if asked.send_initial_events and self.plan.watch_list == "refused":
            return self._close_and_give(asked.id, WatchAnswer(asked.id, 422, _status(422, "Invalid", "forbidden")))
        if server.fault == "drain":
            return self._close_and_give(asked.id, WatchAnswer(asked.id, 503, b"shutting down", 1.0))
        if asked.send_initial_events and server.cut_at_ms is not None:
            return None  # it waits for its cache to be fresh
        self.give(WatchAnswer(asked.id, 200, framing=self.plan.framing))
        if asked.id not in self._open:
            return None
        if server.fault == "spin":
            return self._close_and_give(asked.id, StreamEnded(asked.id, Ending(EndedBy.SERVER_CLOSED, "end of stream")))
        cache_rv = self.cache_rv(server)
        start = self.rv(asked.resource_version)
        if not asked.send_initial_events and start < max(self.store.floor, server.oldest_rv):
            self._bytes(asked.id, [("ERROR", json.loads(_status(410, "Expired", "too old")))])
            return None
        lasts_ms = asked.timeout_s * 1000
        stream = Stream(asked.id, server, start, start, self.now_ms + lasts_ms, None)
        self.streams[asked.id] = stream
        if asked.send_initial_events:
            objects = self._objects_at(cache_rv)
            self._bytes(asked.id, [("ADDED", self.object(one)) for one in objects])
            stream.sent_rv = cache_rv
            stream.started_from = max((one.rv for one in objects), default=0)
            if asked.id in self.streams and self.plan.watch_list == "served":
                stream.complete_at = self.store.rv
        if self.plan.bookmarks:
            self._schedule_bookmark(stream)
        self.at(stream.ends_ms, lambda: self._deadline(stream))
        return self._pump(server)

    def _schedule_bookmark(self, stream: Stream) -> None:
        before_end = stream.ends_ms - 2000
        due = before_end if self.now_ms < before_end < self.now_ms + 60_000 else self.now_ms + 60_000
        if due < stream.ends_ms:
            self.at(due, lambda: self._bookmark(stream))

    def _bookmark(self, stream: Stream) -> None:
        if self.streams.get(stream.id) is not stream:
            return
        self._schedule_bookmark(stream)
        if stream.dead or not stream.server.hears:
            return
        self._pump(stream.server)
        rv = self.cache_rv(stream.server)
        if not self.plan.cache_moves:
            rv = max((write.rv for write in self.store.writes if write.rv <= rv), default=0)
        if self.plan.opaque and rv < stream.sent_rv:
            return  # nobody could tell that it goes back
        if rv > stream.started_from and stream.complete_at is None:
            stream.sent_rv = max(stream.sent_rv, rv)
            self._frames(stream, [("BOOKMARK", _config_map({"resourceVersion": self.text(rv)}))])

    def _deadline(self, stream: Stream) -> None:
        if self.streams.get(stream.id) is stream and not stream.dead and stream.server.hears:
            self._end(stream, Ending(EndedBy.SERVER_CLOSED, "end of stream"))

    def _end(self, stream: Stream, ending: Ending) -> None:
        if stream.dead and ending.by is not EndedBy.STREAM_RESET:
            return
        self._close_and_give(stream.id, StreamEnded(stream.id, ending))

    def _pump(self, server: Server) -> None:
        """Send what the server's cache holds beyond what its streams got."""
        if not server.hears:
            return
        rv = self.cache_rv(server)
        for stream in [one for one in self.streams.values() if one.server is server]:
            writes = self.store.after(stream.sent_rv, rv)
            stream.sent_rv = max([stream.sent_rv, *(write.rv for write in writes)])
            self._frames(stream, [(write.kind, self.object(write)) for write in writes])
            if stream.complete_at is not None and rv >= stream.complete_at and self.streams.get(stream.id) is stream:
                stream.complete_at = None
                mark: dict[str, object] = {
                    "resourceVersion": self.text(rv),
                    "annotations": {INITIAL_EVENTS_END: "true"},
                }
                self._frames(stream, [("BOOKMARK", _config_map(mark))])

    def _frames(self, stream: Stream, frames: list[Event]) -> None:
        if frames and not stream.dead and stream.server.hears and self.streams.get(stream.id) is stream:
            self._bytes(stream.id, frames)

    def _bytes(self, number: int, frames: list[Event]) -> None:
        data = b"".join(_encoded(self.plan.framing, *frame) for frame in frames)
        while data and number in self._open:
            cut = self.random.randint(1, len(data)) if self.random.random() < 0.3 else len(data)
            self.give(Chunk(number, data[:cut]))
            data = data[cut:]

    # What the watcher holds, and what must be so

    def _take_list(self, listed: Listed) -> None:
        rv = self.rv(listed.resource_version)
        assert rv >= self.held_rv, f"the list went back from {self.held_rv} to {rv}"
        if listed.reason == "relist":
            young = any(server.oldest_rv > self.held_rv for server in self.servers)
            self.relists.append("expired" if self.held_rv < self.store.floor else "young" if young else "good")
        self.synced = True
        self.held_rv = rv
        self.cache = {item.metadata.name: item.metadata.uid for item in listed.items}
        assert self.cache == {write.name: write.uid for write in self._objects_at(rv)}

    def _take_frames(self, delivered: Delivered) -> None:
        for frame in delivered.frames:
            rv = self.rv(frame.metadata.resource_version)
            assert rv > self.held_rv, f"{frame.type} of {rv}, and {self.held_rv} was held"
            owed = [one.rv for one in self.store.after(self.held_rv, rv - 1)]
            assert not owed, f"{frame.type} of {rv} came before {owed}"
            if frame.type is FrameType.DELETED:
                assert self.cache.pop(frame.metadata.name) == frame.metadata.uid
            elif frame.type is not FrameType.BOOKMARK:
                self.cache[frame.metadata.name] = frame.metadata.uid
            if frame.type is not FrameType.BOOKMARK:
                assert rv not in self.delivered, f"{rv} was delivered twice"
                self.delivered.add(rv)
            else:
                assert not self.store.after(self.held_rv, rv), "a bookmark skips"
            self.held_rv = rv

    def _check_complete(self) -> None:
        """All faults were mended a bound ago, so everything written before that is held."""
        last = [write for write in self.store.writes if write.at_ms < self.now_ms - self.bound_ms]
        assert not last or self.held_rv >= last[-1].rv, f"{last[-1].rv} is missing; {self.held_rv} is held"
        assert self.cache == {write.name: write.uid for write in self._objects_at(self.held_rv)}


def _config_map(metadata: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def _encoded(framing: Framing, kind: str, thing: dict[str, object]) -> bytes:
    if framing is Framing.PROTOBUF:
        return protobuf.watch_frame(kind, thing)
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def _status(code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None) -> bytes:
    details = {"causes": causes} if causes else {}
    content = {
        "apiVersion": "v1",
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }
    return json.dumps(content).encode()
