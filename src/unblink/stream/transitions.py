"""What a watcher's session does, as one table: (state, symbol) -> (effect, next state). What is absent is an error.

Listing and watching follow client-go's reflector (tools/cache/reflector.go, 1.36). ``PROBING`` and ``REPLACING`` are
ours: ``policy.Liveness`` says when a session comes there.
"""

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """Where the session stands."""

    NEW = "new"
    LISTING = "listing"
    SYNC_REQUESTED = "sync-requested"
    SYNCING = "syncing"
    WATCH_REQUESTED = "watch-requested"
    WATCHING = "watching"
    PROBING = "probing"
    """The watch is open, and silent for too long: a probe asks whether there is anything that it should have said."""
    REPLACING = "replacing"
    """The watch is stale: replacements are asked for, and the old one may still be open."""
    WAITING_TO_LIST = "waiting-to-list"
    WAITING_TO_WATCH = "waiting-to-watch"
    STOPPED = "stopped"


class Symbol(Enum):
    """What an input means."""

    GO = "start or pause over; the policy lists"
    GO_SYNC = "start or pause over; the policy asks for a WatchList"
    PAGE_MORE = "a page that is not the last"
    PAGE_LAST = "the last page"
    HEAD = "a watch is answered 200"
    INITIAL = "what belongs to the initial events of a WatchList"
    SYNC_END = "the bookmark that ends the initial events"
    PROGRESS = "news that prove the watch keeps up"
    NEWS = "news, but not yet as far as the probe has seen"
    EXPIRED = "the resourceVersion is unusable, and a list without one helps"
    BUSY = "the same again later helps: 429, or 5xx with a Retry-After"
    REFUSED = "any other refusal or ERROR event, or what cannot be understood"
    UNREACHABLE = "no connection"
    BROKEN_REWATCH = "ended; the policy resumes from the last resourceVersion"
    BROKEN_PAUSE = "ended; the policy resumes from the last resourceVersion after a pause"
    BROKEN_RELIST = "ended; the policy lists"
    ATTEMPT_FAILED = "one of several requests for the same watch failed"
    OLD_ENDED = "the stale watch ended while its replacement is asked for"
    SILENT = "no proof of life for as long as silence may last"
    LEVEL = "the probe: nothing is newer than what is held"
    AHEAD = "the probe: the resourceVersion has moved on"
    PROBE_FAILED = "the probe has no answer"
    OVERDUE = "the watch did not reach what the probe has seen"
    PROBE_AGAIN = "no probe has had an answer so far: one more"
    HEDGE = "no request for the watch has succeeded so far: one more"
    UNPROVEN = "no replacement proved itself for too long"
    STOP = "the caller has had enough"


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
    TAKE_SYNC = "take_sync"
    ASK_WATCH = "ask_watch"
    ASK_ANOTHER = "ask_another"
    BEGIN_STREAM = "begin_stream"
    DELIVER = "deliver"
    END_AND_WAIT = "end_and_wait"
    END_FORGET_AND_WAIT = "end_forget_and_wait"
    END_AND_REWATCH = "end_and_rewatch"
    DROP = "drop"
    ASK_PROBE = "ask_probe"
    PROBE_AGAIN = "probe_again"
    NOTE_LEVEL = "note_level"
    AWAIT_TARGET = "await_target"
    DELIVER_AND_REST = "deliver_and_rest"
    OPEN_REPLACEMENT = "open_replacement"
    NOTE_HEAD = "note_head"
    ADOPT = "adopt"
    VERIFY = "verify"
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
    (_S.LISTING, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.LISTING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.SYNC_REQUESTED, _Y.HEAD): (_E.BEGIN_STREAM, _S.SYNCING),
    (_S.SYNC_REQUESTED, _Y.EXPIRED): (_E.ASK_SYNC_ANEW, _S.SYNC_REQUESTED),
    (_S.SYNC_REQUESTED, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.REFUSED): (_E.FALL_BACK, _S.LISTING),
    (_S.SYNC_REQUESTED, _Y.UNREACHABLE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNC_REQUESTED, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.SYNCING, _Y.INITIAL): (_E.COLLECT, _S.SYNCING),
    (_S.SYNCING, _Y.SYNC_END): (_E.TAKE_SYNC, _S.WATCHING),
    (_S.SYNCING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.SYNCING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WATCH_REQUESTED, _Y.HEAD): (_E.BEGIN_STREAM, _S.WATCHING),
    (_S.WATCH_REQUESTED, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.UNREACHABLE): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.BROKEN_REWATCH): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCH_REQUESTED, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCH_REQUESTED, _Y.ATTEMPT_FAILED): (_E.DROP, _S.WATCH_REQUESTED),
    (_S.WATCH_REQUESTED, _Y.HEDGE): (_E.ASK_ANOTHER, _S.WATCH_REQUESTED),
    (_S.WATCH_REQUESTED, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WATCHING, _Y.PROGRESS): (_E.DELIVER, _S.WATCHING),
    (_S.WATCHING, _Y.SILENT): (_E.ASK_PROBE, _S.PROBING),
    (_S.WATCHING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCHING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.BROKEN_REWATCH): (_E.END_AND_REWATCH, _S.WATCH_REQUESTED),
    (_S.WATCHING, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.WATCHING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.WATCHING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.PROBING, _Y.PROGRESS): (_E.DELIVER_AND_REST, _S.WATCHING),
    (_S.PROBING, _Y.NEWS): (_E.DELIVER, _S.PROBING),
    (_S.PROBING, _Y.LEVEL): (_E.NOTE_LEVEL, _S.WATCHING),
    (_S.PROBING, _Y.AHEAD): (_E.AWAIT_TARGET, _S.PROBING),
    (_S.PROBING, _Y.PROBE_FAILED): (_E.OPEN_REPLACEMENT, _S.REPLACING),
    (_S.PROBING, _Y.OVERDUE): (_E.OPEN_REPLACEMENT, _S.REPLACING),
    (_S.PROBING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.PROBING, _Y.BUSY): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.PROBING, _Y.REFUSED): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.PROBING, _Y.BROKEN_REWATCH): (_E.END_AND_REWATCH, _S.WATCH_REQUESTED),
    (_S.PROBING, _Y.BROKEN_PAUSE): (_E.END_AND_WAIT, _S.WAITING_TO_WATCH),
    (_S.PROBING, _Y.BROKEN_RELIST): (_E.END_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.PROBING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.REPLACING, _Y.HEAD): (_E.NOTE_HEAD, _S.REPLACING),
    (_S.REPLACING, _Y.NEWS): (_E.DELIVER, _S.REPLACING),
    (_S.REPLACING, _Y.PROGRESS): (_E.ADOPT, _S.WATCHING),
    (_S.REPLACING, _Y.LEVEL): (_E.NOTE_LEVEL, _S.REPLACING),
    (_S.REPLACING, _Y.AHEAD): (_E.AWAIT_TARGET, _S.REPLACING),
    (_S.REPLACING, _Y.PROBE_FAILED): (_E.DROP, _S.REPLACING),
    (_S.REPLACING, _Y.PROBE_AGAIN): (_E.PROBE_AGAIN, _S.REPLACING),
    (_S.REPLACING, _Y.ATTEMPT_FAILED): (_E.DROP, _S.REPLACING),
    (_S.REPLACING, _Y.OLD_ENDED): (_E.DROP, _S.REPLACING),
    (_S.REPLACING, _Y.HEDGE): (_E.ASK_ANOTHER, _S.REPLACING),
    (_S.REPLACING, _Y.EXPIRED): (_E.END_FORGET_AND_WAIT, _S.WAITING_TO_LIST),
    (_S.REPLACING, _Y.UNPROVEN): (_E.VERIFY, _S.LISTING),
    (_S.REPLACING, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WAITING_TO_LIST, _Y.GO): (_E.ASK_LIST, _S.LISTING),
    (_S.WAITING_TO_LIST, _Y.GO_SYNC): (_E.ASK_SYNC, _S.SYNC_REQUESTED),
    (_S.WAITING_TO_LIST, _Y.STOP): (_E.STOP, _S.STOPPED),
    (_S.WAITING_TO_WATCH, _Y.GO): (_E.ASK_WATCH, _S.WATCH_REQUESTED),
    (_S.WAITING_TO_WATCH, _Y.GO_SYNC): (_E.ASK_WATCH, _S.WATCH_REQUESTED),
    (_S.WAITING_TO_WATCH, _Y.STOP): (_E.STOP, _S.STOPPED),
}

OPEN = frozenset({State.SYNCING, State.WATCHING, State.PROBING})
"""Where an ending is that of an open watch; of a stale one that was told when it turned out to be stale."""
