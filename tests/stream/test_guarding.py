import json
from typing import Any

import pytest

from unblink.stream.frames import Frame, Lines
from unblink.stream.guarding import (
    REPLACEMENTS,
    TRANSITIONS,
    AskList,
    AskProbe,
    AskWatch,
    GiveUp,
    Guard,
    GuardError,
    Kind,
    Pause,
    Read,
    State,
    Symbol,
    Trouble,
    kind_of,
    timers,
)
from unblink.stream.objects import Status, StatusDetails

BOUND_S = 10.0


class Bench:
    """A guard on a clock that the test turns."""

    def __init__(self, bound_s: float = BOUND_S, since: str | None = None) -> None:
        self.now_ms = 1_000_000
        self.guard = Guard(timers(bound_s), lambda: self.now_ms, lambda: 0.0, since)

    def watching(self, rv: str = "100") -> "Bench":
        assert self.guard.start() == AskList()
        assert isinstance(self.guard.listed(rv, ()), AskWatch)
        assert self.guard.opened() == Read()
        return self

    def after(self, ms: int) -> Guard:
        self.now_ms += ms
        return self.guard


def frame(kind: str, rv: str, name: str = "a", **more: Any) -> Frame:
    made = more or {"metadata": {"name": name, "uid": name, "resourceVersion": rv}}
    [one] = Lines().feed(json.dumps({"type": kind, "object": made}).encode() + b"\n")
    return one


def fresh(guard: Guard, rv: str = "100") -> AskWatch:
    return AskWatch(rv, guard.timers.replacement_timeout_s, fresh=True)


def test_the_bound_is_divided_so_that_all_phases_fit() -> None:
    for bound_s in (2, 3, 8, 10, 30, 60, 89, 90, 600):
        spent = timers(bound_s)
        # silence, a probe that fails, one replacement that does not answer, and the next one that does
        worst_ms = spent.silence_ms + spent.probe_ms + spent.connect_ms + spent.head_ms
        assert worst_ms < spent.max_staleness_ms
        assert spent.backoff.base_ms <= spent.backoff.limit_ms


def test_a_bound_that_leaves_bookmarks_their_minute_leaves_watches_theirs() -> None:
    assert (timers(90).timeout_min_s, timers(90).timeout_max_s) == (300, 600)
    assert timers(90).silence_ms > 60_000
    assert timers(10).timeout_max_s == 5


@pytest.mark.parametrize("bound_s", [1.99, 0, -1, float("inf"), float("nan")])
def test_other_bounds_are_refused(bound_s: float) -> None:
    with pytest.raises(ValueError, match="max_staleness: expected at least 2 s"):
        timers(bound_s)


def test_events_are_taken_once_and_in_order() -> None:
    guard = Bench().watching().guard
    assert guard.received([frame("ADDED", "101"), frame("MODIFIED", "102")]) == Read()
    assert guard.received([frame("MODIFIED", "102"), frame("MODIFIED", "101"), frame("MODIFIED", "103")]) == Read()
    assert [one.metadata.resource_version for one in guard.take()] == ["101", "102", "103"]
    assert guard.take() == []


def test_only_a_version_that_advances_is_proof() -> None:
    bench = Bench().watching()
    bench.after(3000).received([frame("BOOKMARK", "100")])
    assert bench.guard.proof_age_ms == 3000
    bench.guard.received([frame("BOOKMARK", "101")])
    assert bench.guard.proof_age_ms == 0


def test_a_silent_watch_is_probed_and_stays_if_nothing_is_newer() -> None:
    bench = Bench().watching()
    silence_ms = bench.guard.timers.silence_ms
    assert bench.guard.patience_ms() == min(silence_ms, 6000)
    bench.guard.received([])
    assert bench.after(5990).received([frame("BOOKMARK", "100")]) == Read()
    bench = Bench(90).watching()
    assert bench.after(bench.guard.timers.silence_ms).idle() == AskProbe()
    assert bench.after(100).probed("100") == Read()
    assert bench.guard.proof_age_ms == 100, "fresh as of the probe's start"


def test_a_silent_watch_that_missed_something_is_replaced() -> None:
    bench = Bench(90).watching()
    assert bench.after(bench.guard.timers.silence_ms).idle() == AskProbe()
    assert bench.guard.probed("105") == fresh(bench.guard)
    assert bench.guard.opened() == Read()
    assert bench.guard.patience_ms() == bench.guard.timers.grace_ms
    assert bench.guard.received([frame("MODIFIED", "104")]) == Read()
    assert bench.guard.proof_age_ms > 0, "it is not there yet"
    assert bench.guard.received([frame("BOOKMARK", "105")]) == Read()
    assert bench.guard.proof_age_ms == 0


def test_a_watch_that_was_lost_by_waiting_is_opened_again_after_the_probe() -> None:
    bench = Bench(90).watching()
    assert bench.after(bench.guard.timers.silence_ms).idle(lost=True) == AskProbe()
    command = bench.guard.probed("100")
    assert isinstance(command, AskWatch)
    assert not command.fresh


def test_a_probe_without_an_answer_replaces_and_the_replacement_is_verified() -> None:
    bench = Bench(90).watching()
    bench.after(bench.guard.timers.silence_ms).idle()
    assert bench.guard.failed(Trouble(Kind.LATE)) == fresh(bench.guard)
    assert bench.guard.failed(Trouble(Kind.LATE)) == fresh(bench.guard), "a deadline paces itself"
    assert bench.guard.opened() == AskProbe()
    assert bench.guard.probed("100") == Read()
    assert bench.guard.proof_age_ms == 0


def test_replacements_in_vain_end_in_a_list() -> None:
    bench = Bench(90).watching()
    bench.after(bench.guard.timers.silence_ms).idle()
    assert bench.guard.probed("105") == fresh(bench.guard)
    for _ in range(REPLACEMENTS - 1):
        bench.guard.opened()
        assert bench.after(bench.guard.timers.grace_ms).idle() == fresh(bench.guard)
    bench.guard.opened()
    assert bench.after(bench.guard.timers.grace_ms).idle() == AskList()
    assert isinstance(bench.guard.failed(Trouble(Kind.LATE)), Pause), "the version is still good"
    assert bench.guard.resumed() == fresh(bench.guard)


def test_replacements_in_vain_go_on_where_the_user_lists() -> None:
    bench = Bench(90, since="100")
    assert isinstance(bench.guard.start(), AskWatch)
    bench.guard.opened()
    bench.after(bench.guard.timers.silence_ms).idle()
    bench.guard.probed("105")
    for _ in range(2 * REPLACEMENTS):
        bench.guard.opened()
        assert bench.after(bench.guard.timers.grace_ms).idle() == fresh(bench.guard)


def test_a_probe_that_is_refused_for_good_is_not_asked_again() -> None:
    """Who may watch but not list: a fresh watch is all the proof there is."""
    bench = Bench(90, since="100")
    bench.guard.start()
    bench.guard.opened()
    silence_ms = bench.guard.timers.silence_ms
    bench.after(silence_ms).idle()
    assert bench.guard.failed(Trouble(Kind.FATAL)) == fresh(bench.guard)
    assert bench.guard.opened() == Read()
    assert bench.guard.proof_age_ms == 0


def test_a_read_that_cannot_be_shortened_is_not_begun_past_the_bound() -> None:
    bench = Bench(90).watching()
    silence_ms = bench.guard.timers.silence_ms
    assert bench.guard.idle(unable_ms=silence_ms) == Read()
    bench.after(silence_ms // 2).received([frame("BOOKMARK", "100")])
    assert bench.guard.idle(unable_ms=silence_ms) == AskProbe()


def test_a_read_always_has_a_moment_for_what_has_arrived_already() -> None:
    bench = Bench().watching()
    assert bench.after(60_000).patience_ms() == 50


def test_a_clean_end_is_watched_again_at_once_and_a_quick_one_after_growing_pauses() -> None:
    bench = Bench(90).watching()
    command = bench.after(300_000).ended()
    assert isinstance(command, AskWatch)
    assert not command.fresh
    pauses = []
    for _ in range(8):
        bench.guard._step(Symbol.OPENED)
        bench.guard._opened_ms = bench.now_ms
        command = bench.guard.ended()
        assert isinstance(command, Pause)
        pauses.append(command.ms)
        bench.after(command.ms).resumed()
    assert pauses == [800, 1600, 3200, 6400, 9000, 9000, 9000, 9000]


def test_a_watch_that_the_server_does_not_end_is_replaced() -> None:
    bench = Bench().watching()
    bench.after(3000).received([frame("MODIFIED", "101")])
    assert bench.after(3000).received([frame("MODIFIED", "102")]) == fresh(bench.guard, "102")


def test_an_expired_version_is_listed_after_a_pause() -> None:
    bench = Bench().watching()
    gone = frame("ERROR", "", code=410, reason="Expired")
    assert isinstance(bench.guard.received([frame("ADDED", "101"), gone]), Pause)
    assert bench.guard.resumed() == AskList()
    assert isinstance(bench.guard.failed(Trouble(Kind.FAILED)), Pause)
    assert bench.guard.resumed() == AskList(), "there is nothing to watch from"
    assert bench.guard.listed("200", ()) == AskWatch("200", 5, fresh=False)
    assert [one.type for one in bench.guard.take()] == ["ADDED", "DELETED"]


def test_an_expired_version_of_the_users_own_is_given_up() -> None:
    bench = Bench(since="7")
    assert bench.guard.start() == AskWatch("7", 5, fresh=False)
    trouble = Trouble(Kind.EXPIRED, ValueError("gone"))
    assert bench.guard.failed(trouble) == GiveUp(trouble)


def test_retry_after_is_the_least_pause() -> None:
    bench = Bench()
    bench.guard.start()
    assert bench.guard.failed(Trouble(Kind.BUSY, None, None, 7.0)) == Pause(7000)
    assert bench.guard.resumed() == AskList()
    command = bench.guard.failed(Trouble(Kind.FAILED))
    assert isinstance(command, Pause)
    assert command.ms == bench.guard.timers.backoff.limit_ms, "the doubled one, without what was asked for before"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status(code=410), Kind.EXPIRED),
        (Status(reason="Gone"), Kind.EXPIRED),
        (Status(code=429), Kind.BUSY),
        (Status(code=503, details=StatusDetails(retry_after_seconds=1)), Kind.BUSY),
        (Status(code=400), Kind.FATAL),
        (Status(code=401), Kind.FATAL),
        (Status(code=403), Kind.FATAL),
        (Status(code=404), Kind.FATAL),
        (Status(code=408), Kind.FAILED),
        (Status(code=500), Kind.FAILED),
        (Status(), Kind.FAILED),
    ],
)
def test_what_a_refusal_means(status: Status, kind: Kind) -> None:
    assert kind_of(status) is kind


def test_what_cannot_be_understood_is_a_broken_watch() -> None:
    bench = Bench().watching()
    assert isinstance(bench.after(2000).received([], broken=True), AskWatch)


def test_an_input_that_cannot_come_is_an_error_and_changes_nothing() -> None:
    guard = Bench().guard
    with pytest.raises(GuardError, match="OPENED while new"):
        guard.opened()
    assert guard.state is State.NEW


def test_every_failure_has_its_row_wherever_something_is_under_way() -> None:
    kinds = [Symbol.EXPIRED, Symbol.BUSY, Symbol.FATAL, Symbol.FAILED, Symbol.LATE]
    for state in (State.LISTING, State.OPENING, State.PROBING, State.PROBING_ALONE, State.VERIFYING):
        assert all((state, symbol) in TRANSITIONS for symbol in kinds), state
    assert all((State.WATCHING, symbol) in TRANSITIONS for symbol in kinds if symbol is not Symbol.LATE)
