"""What keeps another client's watch within a bound: its answers, events, endings and timers in, the next command out.

One watch at a time and one command at a time, so that a loop without threads can carry them out. What it does stands in
one table, ``TRANSITIONS``: (state, symbol) -> (effect, next state). A pair that is absent is an error of the caller.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from unblink.stream.frames import Frame, FrameType
from unblink.stream.known import Known
from unblink.stream.objects import Item, Status
from unblink.stream.policy import BOOKMARK_PERIOD_S, REPLACEMENT_TIMEOUT_S, Backoff, BackoffPolicy
from unblink.stream.versions import Progress, reached

MIN_MAX_STALENESS_S = 2.0
"""timeoutSeconds counts whole seconds, and a watch of one second has to fit in twice."""

MAX_PHASE_MS = 10_000
"""No connect, head or probe needs longer, however much staleness is allowed."""

REPLACEMENTS = 4
"""So many unproven replacements in a row, then a list settles it."""


@dataclass(frozen=True, slots=True)
class Timers:
    """How a bound is spent, all in ms but for ``timeoutSeconds``.

    A watch without proof of life for ``silence_ms`` is probed, and replaced if it missed something. A replacement has
    ``grace_ms`` to prove itself. ``connect_ms``, ``head_ms``, ``probe_ms`` and ``page_ms`` are the deadlines of one
    request's phases. A watch that the server does not end is ended ``body_margin_ms`` after its timeoutSeconds. One
    that ends before ``very_short_ms`` is followed by a pause.
    """

    max_staleness_ms: int
    silence_ms: int
    timeout_min_s: int
    timeout_max_s: int
    replacement_timeout_s: int
    very_short_ms: int
    connect_ms: int
    head_ms: int
    probe_ms: int
    page_ms: int
    grace_ms: int
    body_margin_ms: int
    backoff: BackoffPolicy


def timers(max_staleness_s: float) -> Timers:
    """Divide a bound, as ``policy.bounded`` does: about two thirds are silence, the rest pays for what follows it.

    From about 90 s on kube-apiserver's own bookmarks come in time; below, watches last half the bound, because a
    bookmark comes about 2 s before a watch's end (k8s.io/apiserver, storage/cacher, cache_watcher.go). Below about 6 s
    none can come in time, and quiet watches are proven by probes alone.

    :raises ValueError: if the bound is below ``MIN_MAX_STALENESS_S`` or not a number of seconds.
    """
    if not MIN_MAX_STALENESS_S <= max_staleness_s < float("inf"):
        raise ValueError(f"max_staleness: expected at least {MIN_MAX_STALENESS_S:g} s, found {max_staleness_s:g}")
    bound_ms = int(max_staleness_s * 1000)
    long_watches = bound_ms * 72 // 100 > (BOOKMARK_PERIOD_S + 4) * 1000
    timeout_s = int(max_staleness_s / 2)
    replacement_s = min(REPLACEMENT_TIMEOUT_S, timeout_s)
    phase_ms = min(bound_ms // (20 if long_watches else 10), MAX_PHASE_MS)
    return Timers(
        max_staleness_ms=bound_ms,
        silence_ms=bound_ms * (72 if long_watches else 65) // 100,
        timeout_min_s=300 if long_watches else timeout_s,
        timeout_max_s=600 if long_watches else timeout_s,
        replacement_timeout_s=replacement_s,
        very_short_ms=min(1000, timeout_s * 500),
        connect_ms=phase_ms,
        head_ms=phase_ms,
        probe_ms=phase_ms,
        page_ms=max(bound_ms // 4, 4000),
        grace_ms=max(phase_ms, (replacement_s - 2) * 1000 + 800),
        body_margin_ms=max(bound_ms // 20, 1000),
        backoff=BackoffPolicy(
            base_ms=min(800, bound_ms // 20),
            limit_ms=min(30_000, bound_ms // 10),
            jitter=1.0,
            reset_after_ms=120_000,
        ),
    )


class Kind(Enum):
    """What a failure means for what comes next."""

    EXPIRED = "the resourceVersion is too old"
    BUSY = "the same again later helps: 429, or a Retry-After"
    FATAL = "the same again gets the same answer: the user is told"
    FAILED = "anything else that a new attempt may heal"
    LATE = "no answer within our own deadline"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One failure. ``error`` is the client's own exception, None where ``frame`` is the ERROR event that told it."""

    kind: Kind
    error: BaseException | None = None
    frame: Frame | None = None
    retry_after_s: float | None = None


_HEALING_4XX = frozenset({408, 409, 425})


def kind_of(status: Status, retry_after_s: float | None = None) -> Kind:
    """What a refusal or an ERROR event means; ``retry_after_s`` is the header's."""
    if status.expired:
        return Kind.EXPIRED
    if status.code == 429 or retry_after_s is not None or status.retry_after_s is not None:
        return Kind.BUSY
    return Kind.FATAL if 400 <= status.code < 500 and status.code not in _HEALING_4XX else Kind.FAILED


# Commands


@dataclass(frozen=True, slots=True)
class AskList:
    """A consistent list, all pages: ``listed`` or ``failed``."""


@dataclass(frozen=True, slots=True)
class AskWatch:
    """Open a watch, with bookmarks allowed, then close the one before: ``opened`` or ``failed``.

    ``fresh`` is on a connection that nothing has used before.
    """

    resource_version: str
    timeout_s: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class AskProbe:
    """A consistent list of one object on a fresh connection, the watch stays open: ``probed`` or ``failed``."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read from the open watch for at most ``Guard.patience_ms``: ``received``, ``ended``, ``failed`` or ``idle``."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then ``resumed``."""

    ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Raise it to the user: retrying cannot heal it."""

    trouble: Trouble


Command = AskList | AskWatch | AskProbe | Read | Pause | GiveUp


class State(Enum):
    """Where the guard stands."""

    NEW = "new"
    LISTING = "listing"
    OPENING = "opening"
    WATCHING = "watching"
    PROBING = "probing"
    """The watch is open and silent."""
    PROBING_ALONE = "probing-alone"
    """The watch was silent and is gone: its client cannot wait without losing it."""
    VERIFYING = "verifying"
    """A replacement is open; nothing proves yet that it is any better."""
    PAUSED_TO_LIST = "paused-to-list"
    PAUSED_TO_WATCH = "paused-to-watch"
    OVER = "over"


class Symbol(Enum):
    """What an input means."""

    START_LIST = "start; what there is belongs to the events"
    START_WATCH = "start from the user's own resourceVersion"
    LISTED = "a list is complete"
    UNLISTED = "the list that was to settle it failed, and the resourceVersion is still good"
    RESUMED = "the pause is over"
    OPENED = "a watch is answered 200"
    OPENED_UNPROVEN = "the same, and the last proof of life is too old"
    NEWS = "bytes of the watch, or none and no deadline passed"
    SILENT = "no proof of life for as long as silence may last"
    SILENT_LOST = "the same, and waiting for it has cost the watch"
    OVERDUE = "a replacement did not prove itself in time"
    UNPROVEN = "nor did those before it"
    OVERSTAYED = "the server does not end its watch"
    ENDED = "the watch ended cleanly, or broke, after a while"
    ENDED_SOON = "the same, at once"
    LEVEL = "the probe: nothing is newer than what is held"
    AHEAD = "the probe: the resourceVersion has moved on"
    EXPIRED = Kind.EXPIRED.value
    BUSY = Kind.BUSY.value
    FATAL = Kind.FATAL.value
    FAILED = Kind.FAILED.value
    LATE = Kind.LATE.value


class Effect(Enum):
    """What a transition does, beside the next state; ``Guard`` has one method for each."""

    ASK_LIST = "ask_list"
    WATCH = "watch"
    REPLACE = "replace"
    TRUST = "trust"
    READ = "read"
    ASK_PROBE = "ask_probe"
    AWAIT_PROOF = "await_proof"
    PAUSE = "pause"
    GIVE_UP = "give_up"


_S, _Y, _E = State, Symbol, Effect

TRANSITIONS: Mapping[tuple[State, Symbol], tuple[Effect, State]] = {
    (_S.NEW, _Y.START_LIST): (_E.ASK_LIST, _S.LISTING),
    (_S.NEW, _Y.START_WATCH): (_E.WATCH, _S.OPENING),
    (_S.LISTING, _Y.LISTED): (_E.WATCH, _S.OPENING),
    (_S.LISTING, _Y.UNLISTED): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.LISTING, _Y.EXPIRED): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.LISTING, _Y.BUSY): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.LISTING, _Y.FAILED): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.LISTING, _Y.LATE): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.LISTING, _Y.FATAL): (_E.GIVE_UP, _S.OVER),
    (_S.PAUSED_TO_LIST, _Y.RESUMED): (_E.ASK_LIST, _S.LISTING),
    (_S.PAUSED_TO_WATCH, _Y.RESUMED): (_E.REPLACE, _S.OPENING),
    (_S.OPENING, _Y.OPENED): (_E.READ, _S.WATCHING),
    (_S.OPENING, _Y.OPENED_UNPROVEN): (_E.ASK_PROBE, _S.VERIFYING),
    (_S.OPENING, _Y.EXPIRED): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.OPENING, _Y.BUSY): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.OPENING, _Y.FAILED): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.OPENING, _Y.LATE): (_E.REPLACE, _S.OPENING),
    (_S.OPENING, _Y.FATAL): (_E.GIVE_UP, _S.OVER),
    (_S.WATCHING, _Y.NEWS): (_E.READ, _S.WATCHING),
    (_S.WATCHING, _Y.SILENT): (_E.ASK_PROBE, _S.PROBING),
    (_S.WATCHING, _Y.SILENT_LOST): (_E.ASK_PROBE, _S.PROBING_ALONE),
    (_S.WATCHING, _Y.OVERDUE): (_E.REPLACE, _S.OPENING),
    (_S.WATCHING, _Y.UNPROVEN): (_E.ASK_LIST, _S.LISTING),
    (_S.WATCHING, _Y.OVERSTAYED): (_E.REPLACE, _S.OPENING),
    (_S.WATCHING, _Y.ENDED): (_E.WATCH, _S.OPENING),
    (_S.WATCHING, _Y.ENDED_SOON): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.WATCHING, _Y.EXPIRED): (_E.PAUSE, _S.PAUSED_TO_LIST),
    (_S.WATCHING, _Y.BUSY): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.WATCHING, _Y.FAILED): (_E.PAUSE, _S.PAUSED_TO_WATCH),
    (_S.WATCHING, _Y.FATAL): (_E.GIVE_UP, _S.OVER),
    (_S.PROBING, _Y.LEVEL): (_E.READ, _S.WATCHING),
    (_S.PROBING, _Y.AHEAD): (_E.REPLACE, _S.OPENING),
    (_S.PROBING, _Y.EXPIRED): (_E.REPLACE, _S.OPENING),
    (_S.PROBING, _Y.BUSY): (_E.REPLACE, _S.OPENING),
    (_S.PROBING, _Y.FAILED): (_E.REPLACE, _S.OPENING),
    (_S.PROBING, _Y.LATE): (_E.REPLACE, _S.OPENING),
    (_S.PROBING, _Y.FATAL): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.LEVEL): (_E.WATCH, _S.OPENING),
    (_S.PROBING_ALONE, _Y.AHEAD): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.EXPIRED): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.BUSY): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.FAILED): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.LATE): (_E.REPLACE, _S.OPENING),
    (_S.PROBING_ALONE, _Y.FATAL): (_E.REPLACE, _S.OPENING),
    (_S.VERIFYING, _Y.LEVEL): (_E.READ, _S.WATCHING),
    (_S.VERIFYING, _Y.AHEAD): (_E.AWAIT_PROOF, _S.WATCHING),
    (_S.VERIFYING, _Y.EXPIRED): (_E.AWAIT_PROOF, _S.WATCHING),
    (_S.VERIFYING, _Y.BUSY): (_E.AWAIT_PROOF, _S.WATCHING),
    (_S.VERIFYING, _Y.FAILED): (_E.AWAIT_PROOF, _S.WATCHING),
    (_S.VERIFYING, _Y.LATE): (_E.AWAIT_PROOF, _S.WATCHING),
    (_S.VERIFYING, _Y.FATAL): (_E.TRUST, _S.WATCHING),
}

_OF_KIND: Mapping[Kind, Symbol] = {
    Kind.EXPIRED: Symbol.EXPIRED,
    Kind.BUSY: Symbol.BUSY,
    Kind.FATAL: Symbol.FATAL,
    Kind.FAILED: Symbol.FAILED,
    Kind.LATE: Symbol.LATE,
}

SHORTEST_READ_MS = 50
"""What has arrived already is read before a deadline counts: the user's own work may have taken all the time."""


class GuardError(Exception):
    """An input that the table does not know in this state: an error of the caller, and the guard stays as it was."""


class Guard:
    """One guarded watch. ``now_ms`` is a monotonic clock, ``random`` gives numbers in [0, 1).

    ``since`` is the user's own resourceVersion. Without one the guard lists first, shows what there is as ADDED and
    can relist later. With one it cannot tell what a relist would have to say of objects that it never showed, so an
    expired resourceVersion is the user's to heal, as it is with every client today. ``known`` is what the user has
    seen already.
    """

    def __init__(
        self,
        timers: Timers,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        since: str | None = None,
        known: Known | None = None,
    ) -> None:
        self.timers = timers
        self.state = State.NEW
        self.may_list = since in (None, "", "0")
        self.progress = Progress("" if self.may_list else since or "")
        self._now_ms = now_ms
        self._random = random
        self._backoff = Backoff(timers.backoff, now_ms, random)
        self._known = known or Known()
        self._deliver: list[Frame] = []
        self._proof_ms = now_ms()
        self._opened_ms = 0
        self._timeout_s = 0
        self._asked_ms = 0
        self._target: str | None = None
        self._grace_until_ms: int | None = None
        self._replaced_in_vain = 0
        self._probing_refused = False
        self._expired = False
        self._trouble: Trouble | None = None

    def take(self) -> list[Frame]:
        """The events that the user has not had yet, bookmarks included."""
        deliver, self._deliver = self._deliver, []
        return deliver

    @property
    def proof_age_ms(self) -> int:
        """Since the last proof of life: every change older than this has been given to the user."""
        return self._now_ms() - self._proof_ms

    def patience_ms(self) -> int:
        """How long the next read may wait."""
        return max(self._until_ms() - self._now_ms(), SHORTEST_READ_MS)

    def _until_ms(self) -> int:
        until = min(self._proof_ms + self.timers.silence_ms, self._stay_until_ms())
        return until if self._grace_until_ms is None else min(self._grace_until_ms, self._stay_until_ms())

    def _stay_until_ms(self) -> int:
        return self._opened_ms + self._timeout_s * 1000 + self.timers.body_margin_ms

    # Inputs

    def start(self) -> Command:
        """Begin."""
        return self._step(Symbol.START_LIST if self.may_list else Symbol.START_WATCH)

    def listed(self, resource_version: str, items: tuple[Item, ...]) -> Command:
        """The whole answer to ``AskList``."""
        self._deliver += self._known.relist(items)
        self.progress.move(resource_version)
        self._expired = False
        self._prove(self._asked_ms)
        return self._step(Symbol.LISTED)

    def opened(self) -> Command:
        """The answer to ``AskWatch`` has begun."""
        self._opened_ms = self._now_ms()
        if self._target is not None:
            self._grace_until_ms = self._opened_ms + self.timers.grace_ms
        elif self.proof_age_ms >= self.timers.silence_ms:
            if not self._probing_refused:
                return self._step(Symbol.OPENED_UNPROVEN)
            self._prove(self._opened_ms)
        return self._step(Symbol.OPENED)

    def received(self, frames: list[Frame], *, broken: bool = False) -> Command:
        """Frames of the open watch; ``broken`` if no more of it can be understood."""
        told = next((frame for frame in frames if frame.type is FrameType.ERROR), None)
        news = self.progress.news([frame for frame in frames if frame.type is not FrameType.ERROR])
        if news:
            if self.may_list:
                for frame in news:
                    self._known.note(frame)
            self._deliver += news
            if self._target is None or reached(self.progress.version, self._target):
                self._prove(self._now_ms())
        if told is not None and told.status is not None:
            return self.failed(Trouble(kind_of(told.status), None, told, told.status.retry_after_s))
        if broken:
            return self.failed(Trouble(Kind.FAILED))
        return self._step(self._passed() or Symbol.NEWS)

    def idle(self, *, lost: bool = False, unable_ms: int = 0) -> Command:
        """Nothing came in time; ``lost`` if the watch is gone by that. Or, before a read whose wait cannot be chosen:
        it may last ``unable_ms``."""
        symbol = self._passed(unable_ms)
        if not lost:
            return self._step(symbol or Symbol.NEWS)
        if symbol is None:
            return self.ended()
        return self._step(Symbol.SILENT_LOST if symbol is Symbol.SILENT else symbol)

    def ended(self) -> Command:
        """The open watch ended cleanly, or its connection was lost."""
        soon = self._now_ms() - self._opened_ms < self.timers.very_short_ms
        return self._step(Symbol.ENDED_SOON if soon else Symbol.ENDED)

    def probed(self, resource_version: str) -> Command:
        """The answer to ``AskProbe``."""
        if reached(self.progress.version, resource_version):
            self._prove(self._asked_ms)
            return self._step(Symbol.LEVEL)
        self._target = resource_version
        return self._step(Symbol.AHEAD)

    def failed(self, trouble: Trouble) -> Command:
        """The request under way or the open watch failed."""
        self._trouble = trouble
        symbol = _OF_KIND[trouble.kind]
        if self.state in (State.PROBING, State.PROBING_ALONE, State.VERIFYING):
            self._probing_refused = self._probing_refused or symbol is Symbol.FATAL
        elif symbol is Symbol.EXPIRED and not self.may_list:
            symbol = Symbol.FATAL
        elif symbol is Symbol.EXPIRED:
            self._expired = True
        elif self.state is State.LISTING and symbol is not Symbol.FATAL and self.progress.version and not self._expired:
            symbol = Symbol.UNLISTED
        elif self.state is State.WATCHING and symbol in (Symbol.FAILED, Symbol.LATE) and trouble.frame is None:
            return self.ended()
        return self._step(symbol)

    def resumed(self) -> Command:
        """The pause is over."""
        return self._step(Symbol.RESUMED)

    def _passed(self, wait_ms: int = 0) -> Symbol | None:
        """The deadline of the open watch that has passed, or will have ``wait_ms`` from now."""
        now_ms = self._now_ms()
        if self._grace_until_ms is not None and now_ms >= self._grace_until_ms:
            self._replaced_in_vain += 1
            vain = self._replaced_in_vain >= REPLACEMENTS and self.may_list
            return Symbol.UNPROVEN if vain else Symbol.OVERDUE
        if now_ms >= self._stay_until_ms():
            return Symbol.OVERSTAYED
        tolerance_ms = self.timers.max_staleness_ms // 20 if wait_ms else 0
        if self._grace_until_ms is None and now_ms + wait_ms >= self._proof_ms + self.timers.silence_ms + tolerance_ms:
            return Symbol.SILENT
        return None

    def _prove(self, at_ms: int) -> None:
        self._proof_ms = max(self._proof_ms, at_ms)
        self._target = self._grace_until_ms = None
        self._replaced_in_vain = 0

    def _step(self, symbol: Symbol) -> Command:
        try:
            effect, next_state = TRANSITIONS[self.state, symbol]
        except KeyError:
            raise GuardError(f"{symbol.name} while {self.state.value}") from None
        self.state = next_state
        command: Command = getattr(self, f"_{effect.value}")()
        return command

    # Effects

    def _ask_list(self) -> Command:
        self._asked_ms = self._now_ms()
        self._grace_until_ms = None
        return AskList()

    def _watch(self) -> Command:
        span_s = self.timers.timeout_max_s - self.timers.timeout_min_s
        return self._ask(self.timers.timeout_min_s + int(span_s * self._random()), fresh=False)

    def _replace(self) -> Command:
        return self._ask(self.timers.replacement_timeout_s, fresh=True)

    def _ask(self, timeout_s: int, *, fresh: bool) -> Command:
        self._timeout_s = timeout_s
        self._grace_until_ms = None
        return AskWatch(self.progress.version, timeout_s, fresh)

    def _trust(self) -> Command:
        self._prove(self._opened_ms)
        return Read()

    def _read(self) -> Command:
        return Read()

    def _ask_probe(self) -> Command:
        self._asked_ms = self._now_ms()
        return AskProbe()

    def _await_proof(self) -> Command:
        self._grace_until_ms = self._now_ms() + self.timers.grace_ms
        return Read()

    def _pause(self) -> Command:
        pause_ms = self._backoff.pause_ms()
        if self._trouble is not None and self._trouble.retry_after_s is not None:
            pause_ms = max(pause_ms, int(self._trouble.retry_after_s * 1000))
        self._trouble = None
        return Pause(pause_ms)

    def _give_up(self) -> Command:
        if self._trouble is None:
            raise AssertionError("nothing went wrong")
        return GiveUp(self._trouble)
