"""Blind time, losses and verdicts, from what processes wrote."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.bounds import Prediction
from unblink.lab import judge
from unblink.lab.judge import Blindness, Observation, Verdict, blindness, merged

FAULT_S, UNTIL_S, PERIOD_S = 10.0, 40.0, 0.5
WRITTEN = [(second / 2, second) for second in range(1, 80)]


def seen(*spans: tuple[float, float]) -> list[tuple[float, int]]:
    """The watcher holds each write 10 ms later, if it falls in one of the spans."""
    return [(moment + 0.01, rv) for moment, rv in WRITTEN if any(start <= moment < end for start, end in spans)]


def measured(*spans: tuple[float, float]) -> Blindness:
    return blindness(seen(*spans), WRITTEN, FAULT_S, UNTIL_S, PERIOD_S)


def test_one_that_sees_all_the_time_is_blind_for_one_period() -> None:
    assert measured((0, 40)).blind_s == pytest.approx(0.5, abs=0.02)


def test_blind_from_the_fault_until_it_sees_again() -> None:
    found = measured((0, 10), (17, 40))
    assert found.blind_s == pytest.approx(7.01)
    assert found.last_event_s == 10.0
    assert found.first_event_after_s == pytest.approx(17.01)


def test_blind_to_the_end() -> None:
    found = measured((0, 10))
    assert found.blind_s is None
    assert found.open_gap_s == pytest.approx(30)


def test_events_that_leak_after_the_fault_are_no_sight() -> None:
    found = measured((0, 11), (20, 40))
    assert found.blind_s == pytest.approx(9.5, abs=0.02)
    assert measured((0, 11)).blind_s is None


def test_a_watch_that_recovered_and_is_silent_again_has_both() -> None:
    found = measured((0, 10), (17, 35))
    assert found.blind_s == pytest.approx(7.01)
    assert found.open_gap_s == pytest.approx(5.5, abs=0.02)


def test_the_longer_blindness_counts() -> None:
    found = measured((0, 10), (17, 30))
    assert found.blind_s is None
    assert found.open_gap_s == pytest.approx(10.5, abs=0.02)


def test_where_nothing_was_written_nobody_is_blind() -> None:
    assert blindness([(1.0, 1)], [(0.9, 1)], FAULT_S, UNTIL_S, PERIOD_S) == Blindness(0.0, 0.0, FAULT_S, FAULT_S)


def test_while_nothing_is_written_nobody_is_blind() -> None:
    paused = [(moment, rv) for moment, rv in WRITTEN if not 15 <= moment < 25]
    held = [(moment + 0.01, rv) for moment, rv in paused]
    assert blindness(held, paused, FAULT_S, UNTIL_S, PERIOD_S).blind_s == pytest.approx(0.51, abs=0.02)
    paused_to_the_end = blindness(held[:29], paused[:29], FAULT_S, 24.0, PERIOD_S)
    assert paused_to_the_end.blind_s == pytest.approx(0.51, abs=0.02)
    assert paused_to_the_end.open_gap_s == 0.0


def test_an_old_version_that_comes_late_is_no_sight() -> None:
    again = [*seen((0, 10)), (20.0, 3), (30.0, 4)]
    assert blindness(again, WRITTEN, FAULT_S, UNTIL_S, PERIOD_S).blind_s is None


@given(st.floats(10.5, 35), st.floats(0.1, 20))
def test_any_blind_time_is_measured_to_one_period(start: float, length: float) -> None:
    end = min(start + length, 38.0)
    found = measured((0, start), (end, 40)) if end > start else measured((0, 40))
    assert found.blind_s is not None
    assert abs(found.blind_s - max(0.5, end - start)) <= 1.02


def test_what_was_lost_and_what_came_twice() -> None:
    assert judge.lost(seen((0, 10), (17, 40)), WRITTEN, 5.0, 38.0) == 14
    event = {"event": "object", "type": "MODIFIED", "source": "watch", "name": "a", "rv": "7", "t": 1.0}
    assert judge.duplicated([event, event, event | {"rv": "8"}, event | {"source": "list"}]) == 1
    assert judge.duplicated([event | {"type": "BOOKMARK"}] * 3) == 0


def test_relists_are_the_lists_after_the_fault() -> None:
    lines = [{"event": "list", "t": 1.0}, {"event": "list", "t": 11.0}, {"event": "watch", "t": 12.0}]
    assert judge.relists(lines, FAULT_S) == 1


@pytest.mark.parametrize(
    ("lines", "survived"),
    [
        ([], None),
        ([{"event": "opened"}, {"event": "echo", "ok": True}, {"event": "echo", "ok": True}], True),
        ([{"event": "opened"}, {"event": "echo", "ok": True}, {"event": "echo", "ok": False}], False),
        ([{"event": "opened"}, {"event": "echo", "ok": True}, {"event": "closed"}], False),
        ([{"event": "opened"}, {"event": "echo", "ok": True}], False),
    ],
)
def test_whether_exec_survived(lines: list[dict[str, object]], survived: bool | None) -> None:
    assert judge.exec_survived(lines) is survived


RECOVERS = Prediction(
    True, 8.0, "http2-ping", 4.0, frozenset({"http2-ping"}), "relist", True, (), "a PING stays unanswered"
)
NEVER = Prediction(False, None, None, None, frozenset(), "none", True, (), "nothing notices")
CHANCE = replace(
    RECOVERS, recovers=None, bound_s=None, ended_by="watch-idle-timeout", detectors=frozenset({"watch-idle-timeout"})
)
SEEN = Observation(Blindness(4.0, 0.0, 10.0, 14.0), True, 30.0, 6, 0, 1, True, False, 0, "http2-ping", 3.0)
RESUMES = replace(
    RECOVERS, ended_by="proof-of-life", detectors=frozenset({"proof-of-life"}), recovery="re-watch", lossless=True
)
RESUMED = replace(SEEN, lost=0, relists=0, ended_by="proof-of-life", ended_after_s=3.0)
BLIND = replace(SEEN, blindness=Blindness(None, 30.0, 10.0, None), ended_by=None, ended_after_s=None)


@pytest.mark.parametrize(
    ("observed", "predicted", "verdict", "words"),
    [
        (SEEN, RECOVERS, Verdict.PASS, "PING"),
        (replace(SEEN, blindness=Blindness(8.1, 0.0, 10, 18.1)), RECOVERS, Verdict.FAIL, "over the bound"),
        (replace(SEEN, blindness=Blindness(4.0, 9.0, 10, 14)), RECOVERS, Verdict.FAIL, "over the bound"),
        (BLIND, RECOVERS, Verdict.FAIL, "blind to the end"),
        (replace(SEEN, exec_survived=False), RECOVERS, Verdict.FAIL, "exec session was cut"),
        (replace(SEEN, exec_survived=None), RECOVERS, Verdict.PASS, "PING"),
        (replace(SEEN, ended_by="tcp-close"), RECOVERS, Verdict.FAIL, "ended by tcp-close"),
        (replace(SEEN), replace(RECOVERS, recovery="re-watch"), Verdict.FAIL, "relists"),
        (BLIND, NEVER, Verdict.PASS, "nothing notices"),
        (SEEN, NEVER, Verdict.FAIL, "saw again after 4.0 s"),
        (replace(BLIND, client_port_changed=True), NEVER, Verdict.FAIL, "connection changed"),
        (replace(BLIND, watches_elsewhere=1), NEVER, Verdict.FAIL, "another apiserver"),
        (replace(BLIND, ended_by="watch-idle-timeout"), CHANCE, Verdict.PASS, "chance"),
        (replace(SEEN, ended_by="watch-idle-timeout"), CHANCE, Verdict.PASS, "chance"),
        (BLIND, CHANCE, Verdict.FAIL, "ended by None"),
        (replace(BLIND, was_hit=False), NEVER, Verdict.UNKNOWN, "not on the apiserver that the fault hit"),
        (RESUMED, RESUMES, Verdict.PASS, "PING"),
        (replace(RESUMED, duplicated=2), RESUMES, Verdict.FAIL, "2 events came twice"),
        (replace(RESUMED, lost=1), RESUMES, Verdict.FAIL, "1 versions were lost, and no relist skipped them"),
        (replace(RESUMED, relists=1), RESUMES, Verdict.FAIL, "1 relists, where a re-watch"),
        (replace(RESUMED, relists=1, lost=9), replace(RESUMES, recovery="relist"), Verdict.PASS, "PING"),
        (replace(RESUMED, lost=9), replace(RESUMES, recovery="relist"), Verdict.FAIL, "9 versions were lost"),
        (replace(RESUMED, relists=1, duplicated=1), replace(RESUMES, recovery="relist"), Verdict.FAIL, "came twice"),
        (replace(SEEN, ended_by="watch-idle-timeout", ended_after_s=4.1), CHANCE, Verdict.FAIL, "ended after 4.1 s"),
    ],
)
def test_a_verdict_and_its_reason(observed: Observation, predicted: Prediction, verdict: Verdict, words: str) -> None:
    given_verdict, reason = judge.judge(observed, predicted)
    assert given_verdict is verdict
    assert words in reason


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1))
def test_fail_wins_over_unknown_and_unknown_over_pass(verdicts: list[Verdict]) -> None:
    order = [Verdict.PASS, Verdict.UNKNOWN, Verdict.FAIL]
    assert merged(verdicts) is max(verdicts, key=order.index)


def test_no_verdict_at_all_is_unknown() -> None:
    assert merged([]) is Verdict.UNKNOWN
