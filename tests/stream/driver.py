"""What tests of the session say to it, and one that keeps books: which requests are open, what time it is."""

import json
from collections.abc import Callable
from typing import TypeVar

from unblink.stream.bookmarks import Bookmarks
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.messages import (
    AskList,
    AskProbe,
    AskWatch,
    Chunk,
    Close,
    Command,
    Input,
    ListAnswer,
    Start,
    StreamEnded,
    Tick,
    Unreachable,
    WatchAnswer,
)
from unblink.stream.objects import INITIAL_EVENTS_END
from unblink.stream.policy import WatchPolicy
from unblink.stream.session import Session
from unblink.stream.transitions import State

CLEAN = Ending(EndedBy.SERVER_CLOSED, "end of stream")
RESET = Ending(EndedBy.STREAM_RESET, "RST_STREAM INTERNAL_ERROR", 2)
LOST = Ending(EndedBy.CONNECTION_LOST, "the peer closed the connection")
DEADLINE = Ending(EndedBy.DEADLINE, "silent for 60 s")

Some = TypeVar("Some")


def page(version: int | str = 10, token: str = "", names: str = "a") -> bytes:
    """A list's page; its objects are of version 9."""
    items = [{"metadata": {"name": name, "resourceVersion": "9"}} for name in names]
    return json.dumps({"metadata": {"resourceVersion": str(version), "continue": token}, "items": items}).encode()


def frame(kind: str, version: int | str, name: str = "a", **metadata: object) -> bytes:
    content = {"metadata": {"name": name, "resourceVersion": str(version), **metadata}}
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def bookmark(version: int | str, **annotations: str) -> bytes:
    return frame("BOOKMARK", version, annotations=annotations)


def sync_end(version: int | str = 10) -> bytes:
    return frame("BOOKMARK", version, annotations={INITIAL_EVENTS_END: "true"})


def error(code: int, reason: str) -> bytes:
    status = {"kind": "Status", "metadata": {}, "code": code, "reason": reason, "message": "m"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


class Clock:
    """Virtual time in ms."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


class Driver:
    """A session, its clock, and the requests that it has open: id -> what was asked; ``heads`` are those answered."""

    def __init__(
        self,
        policy: WatchPolicy,
        random: Callable[[], float] = lambda: 0.0,
        bookmarks: Bookmarks | None = None,
    ) -> None:
        self.clock = Clock()
        self.bookmarks = bookmarks or Bookmarks()
        self.session = Session(policy, self.clock, random, max_frame_bytes=10_000, bookmarks=self.bookmarks)
        self.asked: dict[int, AskList | AskWatch | AskProbe] = {}
        self.heads: set[int] = set()
        self.all: list[Command] = []

    def give(self, event: Input) -> list[Command]:
        """The commands; a request that was answered, refused, ended or closed is open no longer."""
        commands = self.session.receive(event)
        match event:
            case ListAnswer() | StreamEnded() | Unreachable():
                self._over(event.id)
            case WatchAnswer(status=200):
                self.heads.add(event.id)
            case WatchAnswer():
                self._over(event.id)
            case _:
                pass
        for command in commands:
            match command:
                case AskList() | AskWatch() | AskProbe():
                    assert command.id not in self.asked
                    self.asked[command.id] = command
                case Close():
                    assert command.id in self.asked
                    self._over(command.id)
                case _:
                    pass
        self.all += commands
        return commands

    def _over(self, number: int) -> None:
        del self.asked[number]
        self.heads.discard(number)

    def stands(self, state: State) -> bool:
        return self.session.state is state

    # Requests by what they are

    def last(self, kind: type[AskList] | type[AskWatch] | type[AskProbe]) -> int:
        """The newest open request of this kind."""
        return max(number for number, asked in self.asked.items() if isinstance(asked, kind))

    @property
    def watches(self) -> list[int]:
        """Open and asked ones, oldest first."""
        return [number for number, asked in self.asked.items() if isinstance(asked, AskWatch)]

    # Words for what happens

    def start(self) -> list[Command]:
        return self.give(Start())

    def answer(self, body: bytes | None = None, status: int = 200, retry_after_s: float | None = None) -> list[Command]:
        return self.give(ListAnswer(self.last(AskList), status, page() if body is None else body, retry_after_s))

    def probe(self, version: int | str, status: int = 200) -> list[Command]:
        return self.give(ListAnswer(self.last(AskProbe), status, page(version) if status == 200 else b""))

    def head(
        self, status: int = 200, body: bytes = b"", retry_after_s: float | None = None, *, of: int | None = None
    ) -> list[Command]:
        return self.give(WatchAnswer(self.last(AskWatch) if of is None else of, status, body, retry_after_s))

    def chunk(self, *data: bytes, of: int | None = None) -> list[Command]:
        return self.give(Chunk(self.last(AskWatch) if of is None else of, b"".join(data)))

    def end(self, ending: Ending = CLEAN, *, of: int | None = None) -> list[Command]:
        return self.give(StreamEnded(max(self.asked) if of is None else of, ending))

    def unreachable(self, *, of: int | None = None) -> list[Command]:
        return self.give(Unreachable(max(self.asked) if of is None else of, "refused"))

    # Time

    def pass_ms(self, ms: int) -> list[Command]:
        """So much time passes, with a Tick at each deadline; all commands of it."""
        end_ms, commands = self.clock.ms + ms, []
        while (due_ms := self.session.deadline_ms) is not None and due_ms <= end_ms:
            commands += self.tick()
        self.clock.ms = end_ms
        return commands

    def tick(self) -> list[Command]:
        """Time passes up to the next deadline, and a Tick."""
        due_ms = self.session.deadline_ms
        assert due_ms is not None, "nothing is due"
        self.clock.ms = max(self.clock.ms, due_ms)
        commands = self.give(Tick())
        again_ms = self.session.deadline_ms
        assert again_ms is None or again_ms > self.clock.ms, "a tick that does not help"
        return commands

    def tick_until(self, kind: type[Some], at_most_ms: int) -> Some:
        """Deadlines pass until a command of this kind comes; it fails when that takes longer than ``at_most_ms``."""
        end_ms = self.clock.ms + at_most_ms
        while (due_ms := self.session.deadline_ms) is not None and due_ms <= end_ms:
            for command in self.tick():
                if isinstance(command, kind):
                    return command
        raise AssertionError(f"no {kind.__name__} within {at_most_ms} ms")


def only(kind: type[Some], commands: list[Command]) -> Some:
    """The one command of this kind."""
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def kinds(commands: list[Command]) -> list[type]:
    return [type(command) for command in commands]
