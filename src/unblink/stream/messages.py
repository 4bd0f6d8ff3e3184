"""What goes into a watcher's session and what comes out of it."""

from dataclasses import dataclass
from typing import Literal

from unblink.stream.endings import Ending
from unblink.stream.frames import Frame, Framing
from unblink.stream.objects import Item
from unblink.stream.transitions import State

ListReason = Literal["initial", "relist"]

# Inputs


@dataclass(frozen=True, slots=True)
class Start:
    """Begin."""


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """The whole answer to ``AskList`` or ``AskProbe``."""

    id: int
    status: int
    body: bytes
    retry_after_s: float | None = None
    framing: Framing = Framing.LINES


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """The head of the answer to ``AskWatch``; ``body`` only where the status is not 200."""

    id: int
    status: int
    body: bytes = b""
    retry_after_s: float | None = None
    framing: Framing = Framing.LINES
    gzip: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of an open watch, in the pieces that they came in; a WebSocket message is one piece."""

    id: int
    pieces: tuple[bytes, ...]

    def __init__(self, id: int, *pieces: bytes) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "pieces", pieces)


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A request under way or an open watch ended."""

    id: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection could be made for the request."""

    id: int
    detail: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; of effect once ``Session.deadline_ms`` is reached."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End for good."""


Input = Start | ListAnswer | WatchAnswer | Chunk | StreamEnded | Unreachable | Tick | Stop


# Commands


@dataclass(frozen=True, slots=True)
class AskList:
    """GET the list. ``limit`` of 0 and empty strings mean: leave the parameter out.

    ``fresh`` asks for a connection that no request of this session used since the last proof of life.
    """

    id: int
    resource_version: str
    limit: int
    continue_token: str
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class AskWatch:
    """GET the watch, with bookmarks allowed; ``fresh`` as for ``AskList``."""

    id: int
    resource_version: str
    timeout_s: int
    send_initial_events: bool
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class AskProbe:
    """GET a consistent list of one object, on a fresh connection."""

    id: int


@dataclass(frozen=True, slots=True)
class Close:
    """Drop the request or the open watch; nothing more of it is wanted."""

    id: int


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """A watch is open: it is now the one that is listened to."""

    resource_version: str
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The whole set as of ``resource_version``; it replaces whatever was known."""

    resource_version: str
    items: tuple[Item, ...]
    reason: ListReason


@dataclass(frozen=True, slots=True)
class Delivered:
    """Events of the watch, bookmarks included, none of them held before."""

    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch ended, or a request for a list or watch failed (``while_state`` says which)."""

    ending: Ending
    while_state: State


@dataclass(frozen=True, slots=True)
class Doubted:
    """The watch gave no proof of life for ``silent_ms``; a probe goes out."""

    silent_ms: int


@dataclass(frozen=True, slots=True)
class Stale:
    """The watch does not keep up; replacements are asked for. ``behind``: a probe has seen more than it brought."""

    silent_ms: int
    behind: bool
    why: str


@dataclass(frozen=True, slots=True)
class Proven:
    """A doubt has ended: ``by`` says what proved that the view is up to date."""

    by: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The session is over."""


Command = (
    AskList
    | AskWatch
    | AskProbe
    | Close
    | WatchStarted
    | Listed
    | Delivered
    | Ended
    | Doubted
    | Stale
    | Proven
    | Stopped
)
