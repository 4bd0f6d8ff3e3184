"""A watcher's session without I/O: answers, bytes, endings and timers in; requests, objects and endings out.

What it does stands in one table, ``TRANSITIONS``: (state, symbol) -> (effect, next state). A pair that is absent is an
error of the caller. An input becomes a symbol by what it says and by the policy; see ``Session.receive``.

The rules are those of client-go's reflector (tools/cache/reflector.go, 1.36), with the policy as data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Literal, assert_never

from unblink.stream.endings import EndedBy, Ending
from unblink.stream.frames import DEFAULT_MAX_FRAME_BYTES, Frame, FrameDecoder, FrameError, FrameType
from unblink.stream.objects import Item, Page, Status, decode_page, decode_status
from unblink.stream.policy import Backoff, Recovery, WatchPolicy

ANY_VERSION = "0"
"""List whatever the server has at hand (the first list)."""
MOST_RECENT = ""
"""List consistently (after the last resourceVersion turned out to be unusable)."""

BUSY_STATUSES = frozenset({429})

ListReason = Literal["initial", "relist"]


class State(Enum):
    """Where the session stands."""

    NEW = "new"
    LISTING = "listing"
    SYNC_REQUESTED = "sync-requested"
    SYNCING = "syncing"
    WATCH_REQUESTED = "watch-requested"
    WATCHING = "watching"
    WAITING_TO_LIST = "waiting-to-list"
    WAITING_TO_WATCH = "waiting-to-watch"
    STOPPED = "stopped"


class Symbol(Enum):
    """What an input means."""

    GO = "start or timer; the policy lists"
    GO_SYNC = "start or timer; the policy asks for a WatchList"
    PAGE_MORE = "a page that is not the last"
    PAGE_LAST = "the last page"
    HEAD = "the watch is answered 200"
    OBJECT = "ADDED, MODIFIED or DELETED"
    BOOKMARK = "a bookmark"
    SYNC_END = "the bookmark that ends the initial events"
    EXPIRED = "the resourceVersion is unusable, and a list without one helps"
    BUSY = "429, or 5xx with a Retry-After: the same again, later"
    REFUSED = "any other refusal or ERROR event, or what cannot be understood"
    UNREACHABLE = "no connection"
    BROKEN_REWATCH = "ended; the policy resumes from the last resourceVersion"
    BROKEN_RELIST = "ended; the policy lists"
    STOP = "the caller has had enough"


# Inputs


@dataclass(frozen=True, slots=True)
class Start:
    """Begin."""


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """The whole answer to ``AskList``."""

    status: int
    body: bytes
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """The head of the answer to ``AskWatch``; ``body`` only where the status is not 200."""

    status: int
    body: bytes = b""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of the open watch."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The request under way or the open watch ended."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection could be made for the request."""

    detail: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The pause of the last ``Wait`` is over."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End for good."""


Input = Start | ListAnswer | WatchAnswer | Chunk | StreamEnded | Unreachable | TimerFired | Stop


# Commands


@dataclass(frozen=True, slots=True)
class AskList:
    """GET the list. ``limit`` of 0 and empty strings mean: leave the parameter out."""

    resource_version: str
    limit: int
    continue_token: str


@dataclass(frozen=True, slots=True)
class AskWatch:
    """GET the watch, with bookmarks allowed."""

    resource_version: str
    timeout_s: int
    send_initial_events: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Give ``TimerFired`` after this long."""

    ms: int


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Drop the open watch or the request under way; nothing more of it is wanted."""


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """A watch is answered 200."""

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
    """One event of the watch, bookmarks included."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch ended, or a request for a list or watch failed (``while_state`` says which)."""

    ending: Ending
    while_state: State


@dataclass(frozen=True, slots=True)
class Stopped:
    """The session is over."""


Command = AskList | AskWatch | Wait | CloseStream | WatchStarted | Listed | Delivered | Ended | Stopped


class SessionError(Exception):
    """An input that the table does not know in this state: an error of the caller, and the session stays as it was."""


class Effect(Enum):
    """What a transition does, beside the next state; ``Session`` has one method for each."""

    ASK_LIST = "ask_list"
    ASK_NEXT_PAGE = "ask_next_page"
    ASK_LIST_ANEW = "ask_list_anew"
    TAKE_LIST = "take_list"
    ASK_SYNC = "ask_sync"
    ASK_SYNC_ANEW = "ask_sync_anew"
    FALL_BACK = "fall_back"
    COLLECT = "collect"
    IGNORE = "ignore"
    TAKE_SYNC = "take_sync"
    ASK_WATCH = "ask_watch"
    BEGIN_STREAM = "begin_stream"
    DELIVER = "deliver"
    END_AND_WAIT = "end_and_wait"
    END_FORGET_AND_WAIT = "end_forget_and_wait"
    END_AND_REWATCH = "end_and_rewatch"
    STOP = "stop"


_S, _Y, _E = State, Symbol, Effect

TRANSITIONS: Mapping[tuple[State, Symbol], tuple[Effect, State]] = {
    (_S.NEW, _Y.GO): (_E.ASK_LIST, _S.LISTING),
    (_S.NEW, _Y.GO_SYNC): (_E.ASK_SYNC, _S.SYNC_REQUESTED),
    (_S.NEW, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.LISTING, _Y.PAGE_MORE): (_E.ASK_NEXT_PAGE, _S.LISTING),
    (_S.LISTING, _Y.PAGE_LAST): (_E.TAKE_LIST, _S.WATCH_REQUESTED),
    (_S.LISTING, _Y.EXPIRED): (_E.ASK_LIST_ANEW, _S.LISTING),
    (_S.LISTING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.UNREACHABLE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.SYNC_REQUESTED, _Y.HEAD): (_E.BEGIN_STREAM, _S.SYNCING),
    (_S.SYNC_REQUESTED, _Y.EXPIRED): (_E.ASK_SYNC_ANEW, _S.SYNC_REQUESTED),
    (_S.SYNC_REQUESTED, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.REFUSED): (_E.FALL_BACK, _S.LISTING),
    (_S.SYNC_REQUESTED, _Y.UNREACHABLE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.SYNCING, _Y.OBJECT): (_E.COLLECT, _S.SYNCING),
    (_S.SYNCING, _Y.BOOKMARK): (_E.IGNORE, _S.SYNCING),
    (_S.SYNCING, _Y.SYNC_END): (_E.TAKE_SYNC, _S.WATCHING),
    (_S.SYNCING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WATCH_REQUESTED, _Y.HEAD): (_E.BEGIN_STREAM, _S.WATCHING),
    (_S.WATCH_REQUESTED, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.UNREACHABLE): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WATCHING, _Y.OBJECT): (_E.DELIVER, _S.WATCHING),
    (_S.WATCHING, _Y.BOOKMARK): (_E.DELIVER, _S.WATCHING),
    (_S.WATCHING, _Y.SYNC_END): (_E.DELIVER, _S.WATCHING),
    (_S.WATCHING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCHING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.BROKEN_REWATCH): (_E.END_AND_REWATCH, _S.WATCH_REQUESTED),
    (_S.WATCHING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WAITING_TO_LIST, _Y.GO): (_E.ASK_LIST, _S.LISTING),
    (_S.WAITING_TO_LIST, _Y.GO_SYNC): (_E.ASK_SYNC, _S.SYNC_REQUESTED),
    (_S.WAITING_TO_LIST, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WAITING_TO_WATCH, _Y.GO): (_E.ASK_WATCH, _S.WATCH_REQUESTED),
    (_S.WAITING_TO_WATCH, _Y.GO_SYNC): (_E.ASK_WATCH, _S.WATCH_REQUESTED),
    (_S.WAITING_TO_WATCH, _Y.STOP): (_E.STOP, _S.STOPPED),
}

STATES_OF_INPUT: Mapping[type[Input], frozenset[State]] = {
    Start: frozenset({State.NEW}),
    TimerFired: frozenset({State.WAITING_TO_LIST, State.WAITING_TO_WATCH}),
    ListAnswer: frozenset({State.LISTING}),
    WatchAnswer: frozenset({State.SYNC_REQUESTED, State.WATCH_REQUESTED}),
    Chunk: frozenset({State.SYNCING, State.WATCHING}),
    StreamEnded: frozenset({State.LISTING, State.SYNC_REQUESTED, State.SYNCING, State.WATCH_REQUESTED, State.WATCHING}),
    Unreachable: frozenset({State.LISTING, State.SYNC_REQUESTED, State.WATCH_REQUESTED}),
    Stop: frozenset(State) - {State.STOPPED},
}
"""Where an input may come at all, before the table says what it does."""


class Session:
    """One watcher of one resource. ``now_ms`` is a monotonic clock, ``random`` gives numbers in [0, 1)."""

    def __init__(
        self,
        policy: WatchPolicy,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    ) -> None:
        self.state = State.NEW
        self.resource_version = ""
        """The last one held; empty before the first list."""
        self._policy = policy
        self._now_ms = now_ms
        self._random = random
        self._backoff = Backoff(policy.backoff, now_ms, random)
        self._max_frame_bytes = max_frame_bytes
        self._frames = FrameDecoder(max_frame_bytes)
        self._version_unusable = False
        self._list_version = MOST_RECENT
        self._pages: list[Page] = []
        self._collected: dict[tuple[str, str], Item] = {}
        self._synced_once = False
        self._asked = AskWatch("", 0, False)
        self._opened_ms = 0
        self._frames_seen = 0
        self._frame: Frame | None = None
        self._ending: Ending | None = None
        self._retry_after_s: float | None = None
        self._commands: list[Command] = []

    @property
    def watch_age_ms(self) -> int | None:
        """How long the open watch has been open; None when none is."""
        return self._now_ms() - self._opened_ms if self.state in (State.SYNCING, State.WATCHING) else None

    def receive(self, event: Input) -> list[Command]:
        """Take one input and say what to do, in order.

        :raises SessionError: if the input cannot come in this state.
        """
        if self.state not in STATES_OF_INPUT[type(event)]:
            raise SessionError(f"{type(event).__name__} while {self.state.value}")
        self._commands = []
        self._retry_after_s = None
        match event:
            case Start() | TimerFired():
                self._step(Symbol.GO_SYNC if self._policy.watch_list else Symbol.GO)
            case ListAnswer():
                self._step(self._list_symbol(event))
            case WatchAnswer(status=200):
                self._step(Symbol.HEAD)
            case WatchAnswer():
                self._step(self._refusal_symbol(event.status, event.body, event.retry_after_s))
            case Chunk():
                self._take_bytes(event.data)
            case StreamEnded():
                self._step(self._ending_symbol(event.ending))
            case Unreachable():
                self._ending = Ending(EndedBy.CONNECTION_LOST, event.detail)
                self._step(Symbol.UNREACHABLE)
            case Stop():
                self._step(Symbol.STOP)
            case _:
                assert_never(event)
        return self._commands

    def _step(self, symbol: Symbol) -> None:
        try:
            effect, next_state = TRANSITIONS[self.state, symbol]
        except KeyError:
            raise SessionError(f"{symbol.name} while {self.state.value}") from None
        getattr(self, f"_{effect.value}")()
        self.state = next_state

    # Inputs to symbols

    def _take_bytes(self, data: bytes) -> None:
        self._frames.feed(data)
        while self.state in (State.SYNCING, State.WATCHING):
            try:
                frame = self._frames.next_frame()
            except FrameError as error:
                self._ending = Ending(EndedBy.ERROR_EVENT, str(error))
                self._step_dropping(Symbol.REFUSED)
                return
            if frame is None:
                return
            self._frame = frame
            self._frames_seen += 1
            if frame.status is not None:
                self._step_dropping(self._status_symbol(EndedBy.ERROR_EVENT, frame.status))
            elif frame.type is FrameType.BOOKMARK:
                self._step(Symbol.SYNC_END if frame.ends_initial_events else Symbol.BOOKMARK)
            else:
                self._step(Symbol.OBJECT)

    def _step_dropping(self, symbol: Symbol) -> None:
        self._commands.append(CloseStream())
        self._step(symbol)

    def _list_symbol(self, answer: ListAnswer) -> Symbol:
        if answer.status != 200:
            return self._refusal_symbol(answer.status, answer.body, answer.retry_after_s)
        try:
            page = decode_page(answer.body)
        except ValueError as error:
            self._ending = Ending(EndedBy.ERROR_EVENT, f"list: {error}")
            return Symbol.REFUSED
        self._pages.append(page)
        return Symbol.PAGE_MORE if page.continue_token else Symbol.PAGE_LAST

    def _refusal_symbol(self, code: int, body: bytes, retry_after_s: float | None) -> Symbol:
        status = decode_status(code, body)
        symbol = self._status_symbol(EndedBy.REFUSED, status)
        if retry_after_s is None:
            return symbol
        self._retry_after_s = retry_after_s
        # client-go, rest/with_retry.go, checkWait: an apiserver that shuts down answers a watch so.
        return Symbol.BUSY if symbol is Symbol.REFUSED and code >= HTTPStatus.INTERNAL_SERVER_ERROR else symbol

    def _status_symbol(self, by: EndedBy, status: Status) -> Symbol:
        text = (
            f"{status.code} {status.reason}: {status.message}" if status.reason else f"{status.code} {status.message}"
        )
        self._ending = Ending(by, text, status.code)
        self._retry_after_s = status.retry_after_s
        if status.expired or status.too_large:
            # A consistent list that is told the same has nothing better to ask for: then it is a refusal like others.
            consistent = self._list_version == MOST_RECENT and self.state in (State.LISTING, State.SYNC_REQUESTED)
            return Symbol.REFUSED if consistent else Symbol.EXPIRED
        return Symbol.BUSY if status.code in BUSY_STATUSES else Symbol.REFUSED

    def _ending_symbol(self, ending: Ending) -> Symbol:
        self._ending = ending
        recovery = self._policy.recovery.get(ending.by, Recovery.RELIST)
        if ending.by is EndedBy.SERVER_CLOSED and self.state in (State.SYNCING, State.WATCHING):
            try:
                self._frames.finish()
            except FrameError as error:
                self._ending = Ending(ending.by, str(error))
        age_ms = self.watch_age_ms
        if age_ms is not None and not self._frames_seen and age_ms < self._policy.very_short_watch_ms:
            self._ending = Ending(
                ending.by, f"{ending.detail} (very short watch: {age_ms} ms without an event)", ending.code
            )
            recovery = Recovery.RELIST
        return Symbol.BROKEN_REWATCH if recovery is Recovery.REWATCH else Symbol.BROKEN_RELIST

    # Effects

    def _relist_version(self) -> str:
        if self._version_unusable:
            return MOST_RECENT
        return self.resource_version or ANY_VERSION

    def _ask_list(self) -> None:
        self._pages = []
        self._list_version = self._relist_version()
        # The watch cache answers a list from some RV in one piece; client-go asks for pages only where they may come.
        limit = self._policy.page_limit if self._list_version in (MOST_RECENT, ANY_VERSION) else 0
        self._commands.append(AskList(self._list_version, limit, ""))

    def _ask_list_anew(self) -> None:
        self._version_unusable = True
        self._ask_list()

    def _ask_next_page(self) -> None:
        self._commands.append(AskList("", self._policy.page_limit, self._pages[-1].continue_token))

    def _take_list(self) -> None:
        items = tuple(item for page in self._pages for item in page.items)
        version = self._pages[-1].resource_version
        self._pages = []
        self._hold_list(version, items)
        self._ask_watch()

    def _hold_list(self, version: str, items: tuple[Item, ...]) -> None:
        self.resource_version = version
        self._version_unusable = False
        self._commands.append(Listed(version, items, "relist" if self._synced_once else "initial"))
        self._synced_once = True

    def _ask_sync(self) -> None:
        self._list_version = MOST_RECENT if self._version_unusable else self.resource_version
        self._ask(self._list_version, send_initial_events=True)

    def _ask_sync_anew(self) -> None:
        self._version_unusable = True
        self._ask_sync()

    def _fall_back(self) -> None:
        self._end()
        self._ask_list()

    def _ask_watch(self) -> None:
        self._ask(self.resource_version, send_initial_events=False)

    def _ask(self, version: str, *, send_initial_events: bool) -> None:
        span_s = self._policy.timeout_max_s - self._policy.timeout_min_s
        timeout_s = self._policy.timeout_min_s + int(span_s * self._random())
        self._asked = AskWatch(version, timeout_s, send_initial_events)
        self._commands.append(self._asked)

    def _begin_stream(self) -> None:
        self._frames = FrameDecoder(self._max_frame_bytes)
        self._collected = {}
        self._opened_ms = self._now_ms()
        self._frames_seen = 0
        self._commands.append(WatchStarted(self._asked.resource_version, self._asked.timeout_s))

    def _collect(self) -> None:
        frame = self._held_frame()
        key = (frame.metadata.namespace, frame.metadata.name)
        if frame.type is FrameType.DELETED:
            self._collected.pop(key, None)
        else:
            self._collected[key] = Item(frame.metadata, frame.object_json())

    def _ignore(self) -> None:
        pass

    def _take_sync(self) -> None:
        items = tuple(self._collected.values())
        self._collected = {}
        self._hold_list(self._held_frame().metadata.resource_version, items)

    def _deliver(self) -> None:
        frame = self._held_frame()
        self.resource_version = frame.metadata.resource_version
        self._commands.append(Delivered(frame))

    def _held_frame(self) -> Frame:
        if self._frame is None:
            raise AssertionError("no frame was read")
        return self._frame

    def _end(self) -> None:
        if self._ending is None:
            raise AssertionError("no ending was read")
        self._commands.append(Ended(self._ending, self.state))
        self._ending = None

    def _end_and_wait(self) -> None:
        self._end()
        pause_ms = self._backoff.pause_ms()
        if self._retry_after_s is not None:
            pause_ms = max(pause_ms, int(self._retry_after_s * 1000))
        self._commands.append(Wait(pause_ms))

    def _end_forget_and_wait(self) -> None:
        self._version_unusable = True
        self._end_and_wait()

    def _end_and_rewatch(self) -> None:
        self._end()
        self._ask_watch()

    def _stop(self) -> None:
        if self.state not in (State.NEW, State.WAITING_TO_LIST, State.WAITING_TO_WATCH):
            self._commands.append(CloseStream())
        self._commands.append(Stopped())
