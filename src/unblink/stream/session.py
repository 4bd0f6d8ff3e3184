"""A watcher's session without I/O: answers, bytes, endings and time in; requests, objects and endings out.

What it does stands in one table, ``transitions.TRANSITIONS``. An input becomes a symbol of it by what it says and by
the policy; see ``Session.receive``. With ``WatchPolicy.liveness`` every phase has a deadline, and a watch has to prove
that it keeps up. Its replacement is opened before the old watch is closed, from the last resourceVersion.

Requests have ids. Of one that the session closed nothing more may come in.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, assert_never

from unblink.stream import protobuf
from unblink.stream.bookmarks import Bookmarks
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.frames import DEFAULT_MAX_FRAME_BYTES, Decoder, Frame, FrameError, FrameType, Framing, decoder
from unblink.stream.gzip import Gunzip, GzipError
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
from unblink.stream.objects import Item, Page, Status, decode_page, decode_status
from unblink.stream.policy import Backoff, Liveness, Recovery, WatchPolicy
from unblink.stream.transitions import TRANSITIONS, State, Symbol
from unblink.stream.versions import Progress, number, reached

ANY_VERSION = "0"
"""List whatever the server has at hand (the first list)."""
MOST_RECENT = ""
"""List consistently (after the last resourceVersion turned out to be unusable)."""

BUSY_STATUSES = frozenset({429})
GARBAGE_IN_A_ROW = 3
"""Broken frames without progress between them, after which a list is to help over an object that cannot be read."""
EXPIRED_IN_A_ROW = 3
"""Watches answered with 410, without progress between them, after which the resourceVersion counts as expired."""
WHOLE_WATCHES_WITHOUT_BOOKMARK = 2
MOST_RETRY_AFTER_S = 3600.0
MOST_DOUBLINGS = 5
"""Of the time that a page of a list may take, each after a page that took longer."""
TRY_AGAIN_MS = 250
"""After the first failed request for a watch; twice as long after the second, and so on, with jitter."""
SYNC_PAUSES = 6
"""All initial events may take as long as so many pauses between two of them; then they are listed in pages."""


class SessionError(Exception):
    """An input that the table does not know in this state: an error of the caller, and the session stays as it was."""


_RECOVERIES: Mapping[Recovery, Symbol] = {
    Recovery.REWATCH: Symbol.BROKEN_REWATCH,
    Recovery.PAUSE: Symbol.BROKEN_PAUSE,
    Recovery.RELIST: Symbol.BROKEN_RELIST,
}

SETTLE_MS = 2500
"""A watch just opened is not probed before its first bookmark may have come (``policy.REPLACEMENT_TIMEOUT_S``)."""


@dataclass(slots=True)
class _Request:
    """A request under way, or the watch that it opened. ``deadline_ms`` is on the session's clock."""

    id: int
    kind: Literal["list", "probe", "watch"]
    asked_ms: int
    deadline_ms: int | None = None
    timeout_s: int = 0
    version: str = ""
    send_initial_events: bool = False
    opened_ms: int | None = None
    frames: Decoder = field(default_factory=lambda: decoder(Framing.LINES))
    gunzip: Gunzip | None = None
    brought_news: bool = False
    bookmark_ms: int | None = None


class Session:
    """One watcher of one resource. ``now_ms`` is a monotonic clock, ``random`` gives numbers in [0, 1)."""

    def __init__(
        self,
        policy: WatchPolicy,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
        bookmarks: Bookmarks | None = None,
    ) -> None:
        self.state = State.NEW
        self.proof_ms: int | None = None
        """The moment of the last proof of life: all that was written before it is held. None before the first."""
        self.proof_by = ""
        """What that proof was, in words."""
        self._heard_ms = 0
        """When the last news came. Silence counts from here, or from the first list."""
        self._policy = policy
        self._liveness = policy.liveness
        self._now_ms = now_ms
        self._random = random
        self._backoff = Backoff(policy.backoff, now_ms, random)
        self._max_frame_bytes = max_frame_bytes
        self._bookmarks = bookmarks or Bookmarks()
        self._progress = Progress()
        self._requests: dict[int, _Request] = {}
        self._next_id = 1
        self._main: _Request | None = None
        self._watch_list = policy.watch_list
        self._version_unusable = False
        self._went_back = False
        self._unsure = False
        self._list_version = MOST_RECENT
        self._list_asked_ms = 0
        self._pages: list[Page] = []
        self._collected: dict[tuple[str, str], Item] = {}
        self._synced_once = False
        self._late_lists = 0
        self._verifying = False
        self._garbage = 0
        self._expired = 0
        self._whole_watches_without_bookmark = 0
        self._target: str | None = None
        self._target_asked_ms = 0
        self._any_head_will_do = False
        self._attempts_made = 0
        self._pause_until_ms: int | None = None
        self._hedge_at_ms: int | None = None
        self._overdue_at_ms: int | None = None
        self._probe_at_ms: int | None = None
        self._unproven_at_ms: int | None = None
        # What the step under way is about.
        self._subject: _Request | None = None
        self._news: list[Frame] = []
        self._ending: Ending | None = None
        self._why_stale = ""
        self._retry_after_s: float | None = None
        self._commands: list[Command] = []

    # What can be asked

    @property
    def resource_version(self) -> str:
        """The last one held; empty before the first list."""
        return self._progress.version

    @property
    def duplicates(self) -> int:
        """Events that overlapping watches brought again, and that were dropped."""
        return self._progress.duplicates

    @property
    def watch_age_ms(self) -> int | None:
        """How long the watch that is listened to has been open; None when none is."""
        opened_ms = self._main.opened_ms if self._main else None
        return None if opened_ms is None else self._now_ms() - opened_ms

    @property
    def staleness_ms(self) -> int | None:
        """All that was written longer ago than this is held; None before the first proof of it."""
        return None if self.proof_ms is None else max(0, self._now_ms() - self.proof_ms)

    @property
    def _silent_ms(self) -> int:
        return self._now_ms() - self._heard_ms

    @property
    def attempts(self) -> int:
        """Requests made for the present watch or its replacement so far."""
        return self._attempts_made

    @property
    def deadline_ms(self) -> int | None:
        """When the session wants a ``Tick``, on its clock; None is never."""
        due = [moment for moment, _ in self._due()]
        return min(due) if due else None

    # Inputs to symbols

    def receive(self, event: Input) -> list[Command]:
        """Take one input and say what to do, in order.

        :raises SessionError: if the input cannot come in this state, or is of a request that is none.
        """
        self._commands = []
        self._retry_after_s = None
        match event:
            case Chunk():
                self._take_bytes(self._open(event.id), event.pieces)
            case Tick():
                self._check(self.state is not State.STOPPED, event)
                self._tick()
            case ListAnswer():
                request = self._known(event.id, "list", "probe")
                del self._requests[event.id]
                self._step(self._probe_symbol(request, event) if request.kind == "probe" else self._list_symbol(event))
            case WatchAnswer():
                self._take_head(self._unopened(event.id), event)
            case StreamEnded():
                self._end_request(self._known(event.id, "list", "probe", "watch"), event.ending)
            case Unreachable():
                request = self._known(event.id, "list", "probe", "watch")
                self._check(request.opened_ms is None, event)
                self._ending = Ending(EndedBy.CONNECTION_LOST, event.detail)
                self._step(self._failed(request, Symbol.UNREACHABLE))
            case Start():
                self._check(self.state is State.NEW, event)
                self._step(self._go())
            case Stop():
                self._check(self.state is not State.STOPPED, event)
                self._step(Symbol.STOP)
            case _:
                assert_never(event)
        return self._commands

    def _check(self, possible: bool, event: Input) -> None:
        if not possible:
            raise SessionError(f"{type(event).__name__} while {self.state.value}")

    def _known(self, number_: int, *kinds: str) -> _Request:
        request = self._requests.get(number_)
        if request is None or request.kind not in kinds:
            raise SessionError(f"request {number_} is none of kind {' or '.join(kinds)} while {self.state.value}")
        return request

    def _open(self, number_: int) -> _Request:
        request = self._known(number_, "watch")
        if request.opened_ms is None:
            raise SessionError(f"bytes of request {number_} before its head")
        return request

    def _unopened(self, number_: int) -> _Request:
        request = self._known(number_, "watch")
        if request.opened_ms is not None:
            raise SessionError(f"a second head of request {number_}")
        return request

    def _step(self, symbol: Symbol) -> None:
        try:
            effect, next_state = TRANSITIONS[self.state, symbol]
        except KeyError:
            raise SessionError(f"{symbol.name} while {self.state.value}") from None
        getattr(self, f"_{effect.value}")()
        self.state = next_state

    def _go(self) -> Symbol:
        return Symbol.GO_SYNC if self._watch_list else Symbol.GO

    def _take_head(self, request: _Request, answer: WatchAnswer) -> None:
        if answer.status != HTTPStatus.OK:
            self._step(self._failed(request, self._refusal_symbol(answer.status, answer.body, answer.retry_after_s)))
            return
        now_ms = self._now_ms()
        request.opened_ms = now_ms
        request.frames = decoder(answer.framing, self._max_frame_bytes)
        request.gunzip = Gunzip() if answer.gzip else None
        if self._liveness is not None:
            lasts_ms = request.timeout_s * 1000 + self._liveness.body_margin_ms
            request.deadline_ms = now_ms + (self._liveness.sync_ms if request.send_initial_events else lasts_ms)
        self._subject = request
        if self.state is State.REPLACING and self._any_head_will_do:
            self._news = []
            self._note_proof(request.asked_ms, "watch opened anew")
            self._step(Symbol.PROGRESS)
        else:
            self._step(Symbol.HEAD)

    def _take_bytes(self, request: _Request, pieces: tuple[bytes, ...]) -> None:
        if request.gunzip is None:
            self._take_frames(request, request.frames.feed(*pieces))
            if request.id in self._requests and request.frames.error is not None:
                self._garbled(request, request.frames.error)
            return
        try:
            for plain in request.gunzip.feed(b"".join(pieces)):
                self._take_frames(request, request.frames.feed(plain))
                if request.id not in self._requests:
                    return
                if request.frames.error is not None:
                    self._garbled(request, request.frames.error)
                    return
        except GzipError as error:
            self._garbled(request, error)

    def _take_frames(self, request: _Request, frames: list[Frame]) -> None:
        if not frames:
            return
        if self.state is State.SYNCING:
            request.brought_news = True
            frames = self._sync(request, frames)
            if self.state is State.SYNCING and self._liveness is not None:
                at_most_ms = (request.opened_ms or 0) + SYNC_PAUSES * self._liveness.sync_ms
                request.deadline_ms = min(self._now_ms() + self._liveness.sync_ms, at_most_ms)
            if not frames:
                return
        # An ERROR is the last word of its stream.
        error = next((frame.status for frame in frames if frame.status is not None), None)
        if error is not None:
            frames = frames[: next(at for at, frame in enumerate(frames) if frame.status is not None)]
        self._take_news(request, frames)
        if error is not None and request.id in self._requests:
            self._commands.append(Close(request.id))
            self._step(self._failed(request, self._status_symbol(EndedBy.ERROR_EVENT, error)))

    def _take_news(self, request: _Request, frames: list[Frame]) -> None:
        news = self._progress.news(frames)
        if not news:
            return
        now_ms, heard_before_ms = self._now_ms(), self._heard_ms
        self._heard_ms = now_ms
        # What a watch begins with it may have from long ago, and so may a bookmark be of long ago: both are newer only
        # than the news before them. Later events come as they are written.
        as_of_ms = now_ms if request.brought_news and news[-1].type is not FrameType.BOOKMARK else heard_before_ms
        self._garbage = self._expired = 0
        self._subject, self._news = request, news
        for frame in news:
            if frame.type is FrameType.BOOKMARK:
                gap_ms = None if request.bookmark_ms is None else now_ms - request.bookmark_ms
                self._bookmarks.came(gap_ms, quiet=not request.brought_news)
                request.bookmark_ms = now_ms
            request.brought_news = True
        version = self._progress.version
        if self._target is not None and number(version) is not None and not reached(version, self._target):
            self._step(Symbol.NEWS)
            return
        if self._target is not None:
            as_of_ms = max(as_of_ms, self._target_asked_ms)
        self._note_proof(as_of_ms, "bookmark" if news[-1].type is FrameType.BOOKMARK else "event")
        self._step(Symbol.PROGRESS)

    def _sync(self, request: _Request, frames: list[Frame]) -> list[Frame]:
        """Take initial events up to their end; what follows that in the same bytes is left over."""
        for at, frame in enumerate(frames):
            if frame.status is not None:
                self._news = frames[:at]
                self._step(Symbol.INITIAL)
                self._commands.append(Close(request.id))
                self._step(self._failed(request, self._status_symbol(EndedBy.ERROR_EVENT, frame.status)))
                return []
            if frame.type is FrameType.BOOKMARK and not frame.ends_initial_events and self._liveness is not None:
                self._never_ends(request)
                return []
            if frame.ends_initial_events:
                self._news = frames[: at + 1]
                if self._goes_back(frame.metadata.resource_version):
                    self._commands.append(Close(request.id))
                    self._step(self._failed(request, Symbol.REFUSED))
                    return []
                self._step(Symbol.SYNC_END)
                return frames[at + 1 :]
        self._news = frames
        self._step(Symbol.INITIAL)
        return []

    def _never_ends(self, request: _Request) -> None:
        """A plain bookmark among initial events: the server does not know sendInitialEvents, so they have no end."""
        self._watch_list = False
        self._commands.append(Close(request.id))
        self._ending = Ending(EndedBy.ERROR_EVENT, "the initial events have no end: the server knows no WatchList")
        self._step(self._failed(request, Symbol.REFUSED))

    def _garbled(self, request: _Request, error: FrameError | GzipError) -> None:
        self._ending = Ending(EndedBy.ERROR_EVENT, str(error))
        self._commands.append(Close(request.id))
        self._garbage += 1
        again_helps = self._liveness is not None and self._garbage < GARBAGE_IN_A_ROW
        self._step(self._failed(request, Symbol.BUSY if again_helps else Symbol.REFUSED))

    def _failed(self, request: _Request, symbol: Symbol) -> Symbol:
        """What the failure of this request means where others may go on; it is a request no longer."""
        del self._requests[request.id]
        self._subject = request
        if request is self._main:
            self._main = None
            if self.state is State.REPLACING and symbol is not Symbol.EXPIRED:
                return Symbol.OLD_ENDED
            return symbol
        if request.kind == "probe":
            return Symbol.PROBE_FAILED
        if request.kind == "watch" and symbol is not Symbol.EXPIRED:
            others = any(True for _ in self._attempts_under_way())
            if self.state is State.REPLACING:
                return Symbol.ATTEMPT_FAILED
            if self.state is State.WATCH_REQUESTED and (others or self._goes_on_without_pause(symbol)):
                return Symbol.ATTEMPT_FAILED
        return symbol

    def _goes_on_without_pause(self, symbol: Symbol) -> bool:
        """Behind a gateway another try may well meet another apiserver, so the first ones come soon."""
        liveness = self._liveness
        left = liveness is not None and self._attempts_made < liveness.replacements_at_once
        if symbol is Symbol.BUSY:
            # An apiserver that shuts down asks for a pause that the others do not need; 429 is meant as it is said.
            return left and self._ending is not None and (self._ending.code or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR
        return left and symbol is not Symbol.REFUSED

    def _end_request(self, request: _Request, ending: Ending) -> None:
        self._ending = ending
        recovery = self._policy.recovery.get(ending.by, Recovery.RELIST)
        opened_ms = request.opened_ms
        if opened_ms is not None:
            if ending.by is EndedBy.SERVER_CLOSED:
                self._note_clean_end(request, ending)
            age_ms = self._now_ms() - opened_ms
            if not request.brought_news and age_ms < self._policy.very_short_watch_ms:
                text = f"{ending.detail} (very short watch: {age_ms} ms without an event)"
                self._ending = Ending(ending.by, text, ending.code)
                recovery = self._policy.after_very_short
        self._unsure = ending.by is not EndedBy.SERVER_CLOSED
        self._step(self._failed(request, _RECOVERIES[recovery]))

    def _note_clean_end(self, request: _Request, ending: Ending) -> None:
        request.frames.finish()
        if request.gunzip is not None and request.frames.error is None:
            try:
                request.gunzip.finish()
            except GzipError as error:
                self._ending = Ending(ending.by, str(error))
        # To the second, as the server counts.
        whole = self._now_ms() - (request.opened_ms or 0) >= (request.timeout_s - 1) * 1000
        if whole and self.state is State.SYNCING and self._liveness is not None:
            # The initial events have no end, or none within a watch's time.
            self._watch_list = False
        if request.frames.error is not None:
            self._ending = Ending(ending.by, str(request.frames.error))
        elif not request.brought_news and self.state is State.REPLACING and self._target is not None:
            self._whole_watches_without_bookmark += whole

    def _list_symbol(self, answer: ListAnswer) -> Symbol:
        if answer.status != HTTPStatus.OK:
            return self._refusal_symbol(answer.status, answer.body, answer.retry_after_s)
        try:
            page = _page(answer)
        except ValueError as error:
            self._ending = Ending(EndedBy.ERROR_EVENT, f"list: {error}")
            return Symbol.REFUSED
        if not page.continue_token and self._goes_back(page.resource_version):
            return Symbol.REFUSED
        self._pages.append(page)
        return Symbol.PAGE_MORE if page.continue_token else Symbol.PAGE_LAST

    def _goes_back(self, version: str) -> bool:
        """Whether a list is older than what is held: once that is a server that lags, twice the store was set back."""
        held, listed = number(self._progress.version), number(version)
        if held is None or listed is None or listed >= held or self._went_back:
            return False
        self._went_back = self._version_unusable = True
        self._ending = Ending(EndedBy.ERROR_EVENT, f"the list is of resourceVersion {listed}, and {held} is held")
        return True

    def _probe_symbol(self, request: _Request, answer: ListAnswer) -> Symbol:
        self._subject = request
        if answer.status != HTTPStatus.OK:
            self._refusal_symbol(answer.status, answer.body, answer.retry_after_s)
            return Symbol.PROBE_FAILED
        try:
            version = _page(answer).resource_version
        except ValueError as error:
            self._ending = Ending(EndedBy.ERROR_EVENT, f"probe: {error}")
            return Symbol.PROBE_FAILED
        asked_at, now_at = number(request.version), number(version)
        if asked_at is not None and now_at is not None and now_at < asked_at:
            # Only a store that was set back answers so, and a watch from a resourceVersion to come stays silent.
            text = f"the store is at resourceVersion {now_at}, and {asked_at} was held"
            self._ending = Ending(EndedBy.ERROR_EVENT, text)
            return Symbol.EXPIRED
        if not reached(self._progress.version, version):
            self._target, self._target_asked_ms = version, request.asked_ms
            return Symbol.AHEAD
        self._note_proof(request.asked_ms, "probe")
        opened = self._main or next((one for one in self._attempts_under_way() if one.opened_ms is not None), None)
        if self.state is State.REPLACING and opened is not None:
            self._subject, self._news = opened, []
            return Symbol.PROGRESS
        return Symbol.LEVEL

    def _refusal_symbol(self, code: int, body: bytes, retry_after_s: float | None) -> Symbol:
        status = decode_status(code, body)
        symbol = self._status_symbol(EndedBy.REFUSED, status)
        if retry_after_s is None:
            return symbol
        self._retry_after_s = min(retry_after_s, MOST_RETRY_AFTER_S)
        # client-go, rest/with_retry.go, checkWait: an apiserver that shuts down answers a watch so.
        return Symbol.BUSY if symbol is Symbol.REFUSED and code >= HTTPStatus.INTERNAL_SERVER_ERROR else symbol

    def _status_symbol(self, by: EndedBy, status: Status) -> Symbol:
        text = (
            f"{status.code} {status.reason}: {status.message}" if status.reason else f"{status.code} {status.message}"
        )
        self._ending = Ending(by, text, status.code)
        self._retry_after_s = None if status.retry_after_s is None else min(status.retry_after_s, MOST_RETRY_AFTER_S)
        if status.expired and self._is_tried_elsewhere():
            return Symbol.BROKEN_REWATCH
        if status.expired or status.too_large:
            # A consistent list that is told the same has nothing better to ask for: then it is a refusal like others.
            consistent = self._list_version == MOST_RECENT and self.state in (State.LISTING, State.SYNC_REQUESTED)
            return Symbol.REFUSED if consistent else Symbol.EXPIRED
        if self._liveness is not None and _says_nothing_of_the_version(status.code):
            return Symbol.BUSY
        return Symbol.BUSY if status.code in BUSY_STATUSES else Symbol.REFUSED

    def _is_tried_elsewhere(self) -> bool:
        """The watch cache of an apiserver begins with its start, so another one's may well reach further back."""
        asked_for_watch = self.state not in (State.LISTING, State.SYNC_REQUESTED, State.SYNCING)
        if self._liveness is None or not asked_for_watch:
            return False
        self._expired += 1
        self._unsure = True
        return self._expired < EXPIRED_IN_A_ROW

    # Time

    def _due(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """Every moment that something is due at, and what that is."""
        if self._pause_until_ms is not None:
            yield self._pause_until_ms, self._pause_over
        for request in self._requests.values():
            if request.deadline_ms is not None:
                yield request.deadline_ms, lambda late=request: self._late(late)  # type: ignore[misc]  # mypy infers no type for its default
        if self._liveness is None:
            return
        match self.state:
            case State.WATCHING if self._main is not None and self._main.opened_ms is not None:
                yield self._silent_at_ms(self._liveness, self._main.opened_ms), lambda: self._step(Symbol.SILENT)
            case State.PROBING if self._overdue_at_ms is not None:
                yield self._overdue_at_ms, self._overdue
            case State.WATCH_REQUESTED | State.REPLACING:
                under_way = sum(1 for _ in self._attempts_under_way())
                if self._hedge_at_ms is not None and under_way < self._liveness.replacements_at_once:
                    yield self._hedge_at_ms, lambda: self._step(Symbol.HEDGE)
                if self._probe_at_ms is not None and not any(one.kind == "probe" for one in self._requests.values()):
                    yield self._probe_at_ms, lambda: self._step(Symbol.PROBE_AGAIN)
                if self._unproven_at_ms is not None:
                    yield self._unproven_at_ms, lambda: self._step(Symbol.UNPROVEN)
            case _:
                pass

    def _silent_at_ms(self, liveness: Liveness, opened_ms: int) -> int:
        if self._bookmarks.need_prompting:
            return max(self._heard_ms + liveness.prompt_ms, opened_ms)
        return max(self._heard_ms + liveness.silence_ms, opened_ms + SETTLE_MS)

    def _tick(self) -> None:
        now_ms = self._now_ms()
        while due := [(moment, act) for moment, act in self._due() if moment <= now_ms]:
            _, act = min(due, key=lambda one: one[0])
            act()

    def _pause_over(self) -> None:
        self._pause_until_ms = None
        self._step(self._go())

    def _overdue(self) -> None:
        self._why_stale = f"it did not reach resourceVersion {self._target}"
        self._step(Symbol.OVERDUE)

    def _late(self, request: _Request) -> None:
        self._commands.append(Close(request.id))
        waited_s = (self._now_ms() - request.asked_ms) / 1000
        if self.state is State.SYNCING:
            # A server that does not know sendInitialEvents sends no end of them.
            self._watch_list = False
        what = "answer" if request.opened_ms is None else "end"
        if request.kind == "list":
            # It may be the list that is large, and not the server that is dead.
            self._late_lists = min(self._late_lists + 1, MOST_DOUBLINGS)
        if request.kind == "probe":
            self._why_stale = f"the probe had no answer for {waited_s:g} s"
        self._end_request(request, Ending(EndedBy.DEADLINE, f"no {what} of the {request.kind} within {waited_s:g} s"))

    # Effects

    def _request(self, kind: Literal["list", "probe", "watch"], within_ms: int | None) -> _Request:
        now_ms = self._now_ms()
        request = _Request(self._next_id, kind, now_ms, None if within_ms is None else now_ms + within_ms)
        self._next_id += 1
        self._requests[request.id] = request
        return request

    def _attempts_under_way(self) -> Iterator[_Request]:
        return (one for one in self._requests.values() if one.kind == "watch" and one is not self._main)

    def _close(self, *requests: _Request) -> None:
        for request in requests:
            del self._requests[request.id]
            self._commands.append(Close(request.id))

    def _close_but(self, kept: _Request | None) -> None:
        self._close(*(one for one in self._requests.values() if one is not kept))
        self._progress.overlap(expected=False)

    def _note_proof(self, moment_ms: int, by: str) -> None:
        self.proof_ms, self.proof_by = max(moment_ms, self.proof_ms or 0), by
        self._heard_ms = max(self._heard_ms, moment_ms)
        self._unsure = False

    def _rest(self) -> None:
        """Nothing is in doubt any more."""
        self._target = self._overdue_at_ms = self._probe_at_ms = self._unproven_at_ms = self._hedge_at_ms = None
        self._any_head_will_do = False
        self._attempts_made = self._whole_watches_without_bookmark = 0

    def _relist_version(self) -> str:
        if self._version_unusable or (self._liveness is not None and self._synced_once):
            return MOST_RECENT
        return self.resource_version or ANY_VERSION

    def _ask_list(self) -> None:
        self._pages = []
        self._list_version = self._relist_version()
        self._list_asked_ms = self._now_ms()
        # The watch cache answers a list from some RV in one piece; client-go asks for pages only where they may come.
        limit = self._policy.page_limit if self._list_version in (MOST_RECENT, ANY_VERSION) else 0
        self._ask_page(self._list_version, limit, "")

    def _ask_page(self, version: str, limit: int, token: str) -> None:
        within_ms = self._liveness.page_ms << self._late_lists if self._liveness else None
        request = self._request("list", within_ms)
        self._commands.append(AskList(request.id, version, limit, token, self._unsure))

    def _ask_list_anew(self) -> None:
        self._version_unusable = True
        self._ask_list()

    def _ask_next_page(self) -> None:
        self._ask_page("", self._policy.page_limit, self._pages[-1].continue_token)

    def _take_list(self) -> None:
        items = tuple(item for page in self._pages for item in page.items)
        version = self._pages[-1].resource_version
        self._pages = []
        self._hold_list(version, items)
        self._ask_watch()

    def _hold_list(self, version: str, items: tuple[Item, ...]) -> None:
        if self._verifying:
            self._verifying = False
            held = number(self._progress.version)
            missed = held is None or any((number(item.metadata.resource_version) or 0) > held for item in items)
            whole_watches = self._whole_watches_without_bookmark
            self._bookmarks.never = not missed and whole_watches >= WHOLE_WATCHES_WITHOUT_BOOKMARK
        self._rest()
        self._progress.move(version)
        self._version_unusable = self._went_back = False
        self._late_lists = self._garbage = self._expired = 0
        self._heard_ms = max(self._heard_ms, self._list_asked_ms)
        if self._list_version == MOST_RECENT:
            self._note_proof(self._list_asked_ms, "list")
        self._commands.append(Listed(version, items, "relist" if self._synced_once else "initial"))
        self._synced_once = True

    def _ask_sync(self) -> None:
        self._list_version = MOST_RECENT if self._version_unusable else self.resource_version
        self._list_asked_ms = self._now_ms()
        self._ask(self._list_version, send_initial_events=True)

    def _ask_sync_anew(self) -> None:
        self._version_unusable = True
        self._ask_sync()

    def _fall_back(self) -> None:
        if self._ending is not None and self._ending.code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            self._watch_list = False
        self._end()
        self._ask_list()

    def _ask_watch(self) -> None:
        self._attempts_made = 0
        self._ask(self.resource_version, send_initial_events=False)

    def _ask_another(self) -> None:
        self._unsure = True
        self._progress.overlap(expected=True)
        self._ask(self.resource_version, send_initial_events=False)

    def _ask(self, version: str, *, send_initial_events: bool) -> None:
        liveness = self._liveness
        request = self._request("watch", liveness.head_ms if liveness else None)
        request.version, request.send_initial_events = version, send_initial_events
        request.timeout_s = self._timeout_s(send_initial_events=send_initial_events)
        self._commands.append(AskWatch(request.id, version, request.timeout_s, send_initial_events, self._unsure))
        self._attempts_made += 1
        if liveness is not None and not send_initial_events:
            self._hedge_at_ms = self._next_try_ms()

    def _next_try_ms(self) -> int:
        """The first ones follow each other soon, later ones with the pauses of the policy."""
        liveness = self._liveness
        soon = liveness is not None and self._attempts_made < liveness.replacements_at_once
        return self._now_ms() + (liveness.hedge_ms if liveness is not None and soon else self._backoff.pause_ms())

    def _timeout_s(self, *, send_initial_events: bool) -> int:
        """Short watches where a bookmark is needed soon: it comes before their end."""
        policy, liveness = self._policy, self._liveness
        if liveness is not None and not send_initial_events:
            if self._synced_once and self._silent_ms >= liveness.silence_ms:
                return liveness.replacement_timeout_s
            if self._bookmarks.are_rare:
                return liveness.short_timeout_s
        span_s = policy.timeout_max_s - policy.timeout_min_s
        return policy.timeout_min_s + int(span_s * self._random())

    def _begin_stream(self) -> None:
        request = self._held(self._subject)
        self._main = request
        self._close_but(request)
        self._collected = {}
        self._hedge_at_ms = None
        self._attempts_made = 0
        self._commands.append(WatchStarted(request.version, request.timeout_s))

    def _collect(self) -> None:
        for frame in self._news:
            key = (frame.metadata.namespace, frame.metadata.name)
            if frame.type is FrameType.DELETED:
                self._collected.pop(key, None)
            elif frame.type is not FrameType.BOOKMARK:
                self._collected[key] = Item(frame.metadata, frame.raw, enveloped=True)

    def _take_sync(self) -> None:
        self._collect()
        items = tuple(self._collected.values())
        self._collected = {}
        main, liveness = self._held(self._main), self._liveness
        if liveness is not None and main.opened_ms is not None:
            main.deadline_ms = main.opened_ms + main.timeout_s * 1000 + liveness.body_margin_ms
        self._hold_list(self._news[-1].metadata.resource_version, items)

    def _deliver(self) -> None:
        self._commands.append(Delivered(self._news))

    @staticmethod
    def _held(request: _Request | None) -> _Request:
        if request is None:
            raise AssertionError("the step is about no request")
        return request

    def _end(self) -> None:
        if self._ending is None:
            raise AssertionError("no ending was read")
        self._commands.append(Ended(self._ending, self.state))
        self._ending = None

    def _end_and_wait(self) -> None:
        self._end()
        self._main = None
        self._close_but(None)
        self._rest()
        self._pages, self._collected = [], {}
        self._unsure = True
        pause_ms = self._backoff.pause_ms()
        if self._retry_after_s is not None:
            pause_ms = max(pause_ms, int(self._retry_after_s * 1000))
        self._pause_until_ms = self._now_ms() + pause_ms

    def _end_forget_and_wait(self) -> None:
        self._version_unusable = True
        self._end_and_wait()

    def _end_and_rewatch(self) -> None:
        self._end()
        self._close_but(None)
        self._rest()
        self._ask_watch()

    def _drop(self) -> None:
        ending = self._ending
        if self._held(self._subject).kind == "watch":
            self._end()
        self._ending = None
        if self._hedge_at_ms is None:
            return
        if ending is not None and ending.code in BUSY_STATUSES:
            self._hedge_at_ms = max(self._hedge_at_ms, self._now_ms() + int((self._retry_after_s or 0) * 1000))
        elif self._liveness is not None and self._attempts_made < self._liveness.replacements_at_once:
            # It failed and does not hang: another one need not wait for its answer.
            soon_ms = int(TRY_AGAIN_MS * self._attempts_made * (1 + self._random()))
            self._hedge_at_ms = min(self._hedge_at_ms, self._now_ms() + soon_ms)

    def _ask_probe(self) -> None:
        self._commands.append(Doubted(self._silent_ms))
        self._ask_for_version()

    def _probe_again(self) -> None:
        self._probe_at_ms = self._next_try_ms()
        self._ask_for_version()

    def _ask_for_version(self) -> None:
        request = self._request("probe", self._liveness.probe_ms if self._liveness else None)
        request.version = self.resource_version
        self._commands.append(AskProbe(request.id))

    def _note_level(self) -> None:
        if self.state is State.PROBING:
            self._rest()
            self._commands.append(Proven(self.proof_by))
        else:
            self._any_head_will_do = True
            self._probe_at_ms = None

    def _await_target(self) -> None:
        if self._liveness is None:
            raise AssertionError("only a policy with liveness probes")
        if self.state is State.PROBING:
            until_ms = max(self._now_ms(), self._heard_ms + self._liveness.silence_ms)
            self._overdue_at_ms = until_ms + self._liveness.grace_ms
        else:
            self._any_head_will_do = self._bookmarks.never
            self._probe_at_ms = None

    def _deliver_and_rest(self) -> None:
        self._close_but(self._main)
        self._rest()
        self._deliver()
        self._commands.append(Proven(self.proof_by))

    def _open_replacement(self) -> None:
        if self._liveness is None:
            raise AssertionError("only a policy with liveness replaces a watch")
        self._ending = None
        self._overdue_at_ms = None
        self._unproven_at_ms = self._now_ms() + self._liveness.verify_ms
        self._any_head_will_do = self._target is not None and self._bookmarks.never
        self._attempts_made = 0
        self._probe_at_ms = None if self._target is not None else self._now_ms() + self._liveness.hedge_ms
        behind = self._target is not None
        self._commands.append(Stale(self._silent_ms, behind, self._why_stale or "the probe failed"))
        self._why_stale = ""
        self._ask_another()

    def _note_head(self) -> None:
        pass

    def _adopt(self) -> None:
        adopted, old = self._held(self._subject), self._main
        if adopted is not old:
            if old is not None:
                # It was alive after all, and only said too little, where nothing but a bookmark was news.
                only_bookmarks = bool(self._news) and all(one.type is FrameType.BOOKMARK for one in self._news)
                self._bookmarks.missed += only_bookmarks
                self._commands.append(Ended(Ending(EndedBy.DEADLINE, "stale: replaced by another watch"), self.state))
            self._main = adopted
            self._commands.append(WatchStarted(adopted.version, adopted.timeout_s))
        self._close_but(adopted)
        self._rest()
        if self._news:
            self._deliver()
        self._commands.append(Proven(self.proof_by))

    def _verify(self) -> None:
        if self._main is not None:
            text = "stale: no replacement proved itself"
            self._commands.append(Ended(Ending(EndedBy.DEADLINE, text), self.state))
            self._main = None
        self._close_but(None)
        whole = self._whole_watches_without_bookmark
        self._rest()
        self._whole_watches_without_bookmark = whole
        self._verifying = self._unsure = self._version_unusable = True
        self._ask_list()

    def _stop(self) -> None:
        self._main = None
        self._pause_until_ms = None
        self._close_but(None)
        self._commands.append(Stopped())


def _page(answer: ListAnswer) -> Page:
    return protobuf.page(answer.body) if answer.framing is Framing.PROTOBUF else decode_page(answer.body)


def _says_nothing_of_the_version(code: int) -> bool:
    """Refusals that a list would meet as well: who we are, or that the server cannot now."""
    return code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or code >= HTTPStatus.INTERNAL_SERVER_ERROR
