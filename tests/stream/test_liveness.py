"""What keeps a watch within its bound, one rule at a time, on virtual time: the session with ``policy.bounded``."""

from dataclasses import replace

import pytest
from tests.stream.driver import (
    CLEAN,
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

from unblink.stream.bookmarks import Bookmarks
from unblink.stream.endings import EndedBy, Ending
from unblink.stream.messages import (
    AskList,
    AskProbe,
    AskWatch,
    Close,
    Command,
    Delivered,
    Doubted,
    Ended,
    Listed,
    Proven,
    Stale,
    WatchStarted,
)
from unblink.stream.policy import Liveness, WatchPolicy, bounded
from unblink.stream.session import EXPIRED_IN_A_ROW
from unblink.stream.transitions import State

BOUND_S = 200
POLICY = replace(bounded(BOUND_S), watch_list=False)
SYNCS = bounded(BOUND_S)


def liveness(policy: WatchPolicy = POLICY) -> Liveness:
    assert policy.liveness is not None
    return policy.liveness


L = liveness()


def listing(policy: WatchPolicy = POLICY, bookmarks: Bookmarks | None = None) -> Driver:
    driver = Driver(policy, bookmarks=bookmarks)
    driver.start()
    return driver


def watching(policy: WatchPolicy = POLICY, bookmarks: Bookmarks | None = None) -> Driver:
    """The watch is open from version 10, and has proven itself by an event of version 11 a second later."""
    driver = listing(policy, bookmarks)
    driver.answer()
    driver.head()
    driver.pass_ms(1000)
    driver.chunk(frame("ADDED", 11))
    return driver


def expire(driver: Driver) -> list[Command]:
    """The version is refused with 410 by as many watches as it takes to believe that; the commands of the last one."""
    commands: list[Command] = []
    for _ in range(EXPIRED_IN_A_ROW):
        if driver.session.state is State.WATCHING:
            commands = driver.chunk(error(410, "Expired"))
            continue
        unanswered = [number for number in driver.watches if number not in driver.heads]
        number = unanswered[-1] if unanswered else driver.tick_until(AskWatch, 2000).id
        driver.head(of=number)
        commands = driver.chunk(error(410, "Expired"), of=number)
    return commands


def probing(policy: WatchPolicy = POLICY, bookmarks: Bookmarks | None = None) -> Driver:
    driver = watching(policy, bookmarks)
    driver.tick_until(AskProbe, liveness(policy).silence_ms)
    return driver


def behind(bookmarks: Bookmarks | None = None) -> Driver:
    """The probe has seen version 20, the watch stays at 11, and the first replacement is asked for."""
    driver = probing(bookmarks=bookmarks)
    driver.probe(20)
    driver.tick_until(Stale, L.silence_ms + L.grace_ms)
    return driver


def unknown() -> Driver:
    """The probe failed, and the first replacement is asked for: nobody knows what the store's version is."""
    driver = probing()
    driver.probe(0, 503)
    return driver


# Silence and the probe


def test_silence_is_probed_on_a_fresh_connection_and_the_watch_stays_open() -> None:
    driver = watching()
    assert driver.pass_ms(L.silence_ms - 1) == []
    commands = driver.tick()
    assert kinds(commands) == [Doubted, AskProbe]  # AskProbe is always on a fresh connection
    assert only(Doubted, commands).silent_ms == L.silence_ms
    assert driver.stands(State.PROBING)
    assert len(driver.heads) == 1
    assert kinds(driver.chunk(frame("ADDED", 12)))[-1] is Proven


@pytest.mark.parametrize("alive", [frame("MODIFIED", 12), bookmark(12)])
def test_news_put_the_probe_off(alive: bytes) -> None:
    driver = watching()
    driver.pass_ms(L.silence_ms - 1)
    driver.chunk(alive)
    assert driver.pass_ms(L.silence_ms - 1) == []


def test_an_event_proves_the_view_as_of_now_and_a_bookmark_as_of_the_news_before_it() -> None:
    """A watch cache that stopped between two bookmarks still has something to say in the second."""
    driver = watching()
    driver.pass_ms(5000)
    driver.chunk(bookmark(12))
    assert driver.session.staleness_ms == 5000
    driver.pass_ms(7000)
    driver.chunk(bookmark(13))
    assert driver.session.staleness_ms == 7000
    driver.chunk(frame("MODIFIED", 14))
    assert driver.session.staleness_ms == 0


def test_what_a_watch_begins_with_may_be_from_long_ago() -> None:
    driver = watching()
    driver.pass_ms(5000)
    driver.end(CLEAN)
    driver.head()
    driver.chunk(frame("MODIFIED", 12))
    assert driver.session.staleness_ms == 5000
    driver.chunk(frame("MODIFIED", 13))
    assert driver.session.staleness_ms == 0


def test_a_target_reached_proves_the_view_as_of_the_probe() -> None:
    driver = probing()
    driver.pass_ms(100)
    driver.probe(20)
    driver.pass_ms(50)
    driver.chunk(bookmark(20))
    assert driver.session.staleness_ms == 150


@pytest.mark.parametrize("dead", [bookmark(11), frame("MODIFIED", 11), bookmark(10), b"", b"\n"])
def test_bytes_without_a_newer_version_are_no_proof(dead: bytes) -> None:
    """An apiserver that is cut off from its store goes on to send bookmarks, all of the same version."""
    driver = watching()
    driver.pass_ms(L.silence_ms - 1)
    assert driver.chunk(dead) == []
    assert AskProbe in kinds(driver.tick())


def test_a_probe_that_sees_the_version_held_is_proof_as_of_its_asking() -> None:
    driver = probing()
    driver.pass_ms(1000)
    assert kinds(driver.probe(11)) == [Proven]
    assert driver.stands(State.WATCHING)
    assert driver.session.staleness_ms == 1000
    # The next probe comes when silence has lasted again, counted from this proof.
    assert driver.pass_ms(L.silence_ms - 1001) == []
    assert AskProbe in kinds(driver.tick())


def test_a_watch_has_a_grace_to_reach_what_the_probe_saw() -> None:
    driver = probing()
    assert driver.probe(20) == []
    driver.pass_ms(L.grace_ms - 1)
    assert kinds(driver.chunk(frame("MODIFIED", 19))) == [Delivered], "not yet as far as the probe"
    assert driver.stands(State.PROBING)
    assert kinds(driver.chunk(frame("MODIFIED", 20))) == [Delivered, Proven]
    assert driver.stands(State.WATCHING)


def test_a_watch_that_does_not_reach_it_is_stale_and_a_replacement_is_opened_beside_it() -> None:
    driver = probing()
    driver.probe(20)
    assert driver.pass_ms(L.grace_ms - 1) == []
    commands = driver.tick()
    assert kinds(commands) == [Stale, AskWatch]
    assert "did not reach resourceVersion 20" in only(Stale, commands).why
    asked = only(AskWatch, commands)
    assert (asked.resource_version, asked.fresh, asked.send_initial_events) == ("11", True, False)
    assert asked.timeout_s == L.replacement_timeout_s
    assert len(driver.heads) == 1, "the old watch is still open"


def test_a_stale_watch_says_why() -> None:
    stale = only(Stale, [one for one in behind().all if isinstance(one, Stale)])
    assert (stale.behind, stale.why) == (True, "it did not reach resourceVersion 20")
    stale = only(Stale, [one for one in unknown().all if isinstance(one, Stale)])
    assert (stale.behind, stale.why) == (False, "the probe failed")
    driver = probing()
    stale = driver.tick_until(Stale, L.probe_ms)
    assert (stale.behind, stale.why) == (False, f"the probe had no answer for {L.probe_ms / 1000:g} s")


def test_a_probe_that_fails_or_is_late_opens_a_replacement_at_once() -> None:
    for how in ("refused", "late", "reset", "unreachable", "garbage"):
        driver = probing()
        match how:
            case "refused":
                commands = driver.probe(0, 500)
            case "late":
                assert driver.pass_ms(L.probe_ms - 1) == []
                commands = driver.tick()
                assert Close in kinds(commands)
                assert f"no answer for {L.probe_ms / 1000:g} s" in only(Stale, commands).why
            case "reset":
                commands = driver.end(RESET, of=driver.last(AskProbe))
            case "unreachable":
                commands = driver.unreachable(of=driver.last(AskProbe))
            case _:
                commands = driver.probe("")
        assert only(AskWatch, commands).fresh, how
        assert driver.stands(State.REPLACING)


def test_news_during_a_probe_are_proof_and_the_probe_is_dropped() -> None:
    driver = probing()
    probe = driver.last(AskProbe)
    commands = driver.chunk(frame("MODIFIED", 12))
    assert commands[0] == Close(probe)
    assert kinds(commands[1:]) == [Delivered, Proven]


@pytest.mark.parametrize("ending", [CLEAN, RESET, LOST])
def test_a_watch_that_ends_while_it_is_probed_is_watched_again_and_the_probe_is_dropped(ending: Ending) -> None:
    driver = probing()
    probe = driver.last(AskProbe)
    commands = driver.end(ending, of=driver.watches[0])
    assert kinds(commands) == [Ended, Close, AskWatch]
    assert only(Close, commands).id == probe
    assert list(driver.asked) == [only(AskWatch, commands).id]


def test_a_store_that_was_set_back_is_listed_anew() -> None:
    """A watch from a version to come is silent, and a probe that sees an older version does not prove it alive."""
    driver = probing()
    assert Ended in kinds(driver.probe(5))
    assert driver.stands(State.WAITING_TO_LIST)
    assert only(AskList, driver.tick()).resource_version == ""


def test_a_watch_just_opened_is_not_probed_before_its_first_bookmark_may_have_come() -> None:
    driver = watching()
    driver.pass_ms(L.silence_ms - 100)
    driver.end(CLEAN)
    driver.head()
    assert driver.pass_ms(2499) == []
    assert AskProbe in kinds(driver.tick())


# Replacements


def test_replacements_are_asked_for_one_by_one_up_to_the_limit() -> None:
    driver = behind()
    asked = [driver.last(AskWatch)]
    for _ in range(L.replacements_at_once - 1):
        start_ms = driver.clock.ms
        asked.append(driver.tick_until(AskWatch, L.hedge_ms).id)
        assert driver.clock.ms - start_ms == L.hedge_ms
    assert set(asked) < set(driver.asked)
    assert len(driver.watches) == 1 + L.replacements_at_once
    late = driver.tick()
    assert only(Close, late).id == asked[0], "no more until one of them failed"


def test_every_replacement_is_asked_for_from_what_is_held_and_on_a_fresh_connection() -> None:
    driver = behind()
    driver.chunk(frame("MODIFIED", 12), of=driver.watches[0])
    again = driver.tick_until(AskWatch, L.hedge_ms)
    assert (again.resource_version, again.fresh) == ("12", True)


def test_a_head_is_no_proof() -> None:
    driver = behind()
    assert driver.head() == []
    assert driver.stands(State.REPLACING)


def test_a_replacement_is_adopted_when_it_reaches_the_target_and_then_the_old_watch_is_closed() -> None:
    driver = behind()
    old, new = driver.watches
    driver.head(of=new)
    assert kinds(driver.chunk(frame("MODIFIED", 15), of=new)) == [Delivered]
    assert driver.stands(State.REPLACING)
    commands = driver.chunk(frame("MODIFIED", 21), of=new)
    assert kinds(commands) == [Ended, WatchStarted, Close, Delivered, Proven]
    assert only(Close, commands).id == old
    assert only(WatchStarted, commands) == WatchStarted("11", L.replacement_timeout_s)
    assert only(Ended, commands).ending.by is EndedBy.DEADLINE
    assert driver.watches == [new]
    assert driver.stands(State.WATCHING)


def test_what_several_watches_bring_is_delivered_once() -> None:
    driver = behind()
    old, new = driver.watches
    driver.head(of=new)
    delivered = [
        *driver.chunk(frame("MODIFIED", 12), of=old),
        *driver.chunk(frame("MODIFIED", 12), frame("MODIFIED", 13), of=new),
        *driver.chunk(frame("MODIFIED", 13), frame("MODIFIED", 14), of=old),
        *driver.chunk(frame("MODIFIED", 14), frame("MODIFIED", 20), of=new),
    ]
    versions = [one.metadata.resource_version for c in delivered if isinstance(c, Delivered) for one in c.frames]
    assert versions == ["12", "13", "14", "20"]
    assert driver.session.duplicates == 3


def test_opaque_versions_are_delivered_once_and_any_news_of_one_are_adopted() -> None:
    """They cannot be compared with what the probe saw, so there is nothing to wait for."""
    driver = listing()
    driver.answer(page("v10"))
    driver.head()
    driver.pass_ms(1000)
    driver.chunk(frame("ADDED", "v11"))
    driver.tick_until(AskProbe, L.silence_ms)
    driver.probe("v20")
    driver.tick_until(Stale, L.grace_ms + L.silence_ms)
    old, new = driver.watches
    driver.head(of=new)
    assert driver.chunk(frame("ADDED", "v11"), of=new) == [], "held already"
    commands = driver.chunk(frame("MODIFIED", "v12"), of=new)
    assert only(Close, commands).id == old
    assert [one.metadata.resource_version for one in only(Delivered, commands).frames] == ["v12"]
    assert driver.watches == [new]
    assert driver.session.proof_ms == 1000, "as of the news before: nobody knows whether v12 is as new as v20"
    driver.pass_ms(50)
    driver.chunk(frame("MODIFIED", "v13"))
    assert driver.session.staleness_ms == 0


def test_the_old_watch_may_prove_itself_after_all() -> None:
    driver = behind()
    old, new = driver.watches
    driver.head(of=new)
    commands = driver.chunk(frame("MODIFIED", 20), of=old)
    assert WatchStarted not in kinds(commands)
    assert Proven in kinds(commands)
    assert driver.watches == [old]


def test_a_replacement_that_fails_costs_nothing_but_itself() -> None:
    driver = behind()
    old, new = driver.watches
    assert only(Ended, driver.head(503, b"", of=new)).while_state is State.REPLACING
    driver.tick_until(AskWatch, L.hedge_ms)
    assert only(Ended, driver.unreachable()).while_state is State.REPLACING
    assert driver.watches == [old]
    assert driver.stands(State.REPLACING)


def test_the_old_watch_may_end_while_it_is_replaced() -> None:
    driver = behind()
    old, new = driver.watches
    assert kinds(driver.end(LOST, of=old)) == [Ended]
    driver.head(of=new)
    assert WatchStarted in kinds(driver.chunk(frame("MODIFIED", 20), of=new))


def test_a_busy_server_is_hedged_against_no_sooner_than_it_asks() -> None:
    driver = behind()
    driver.head(429, b"", 7.0)
    start_ms = driver.clock.ms
    driver.tick_until(AskWatch, 7000)
    assert driver.clock.ms - start_ms == 7000


def test_without_an_answer_the_probe_is_repeated_beside_the_replacements() -> None:
    driver = unknown()
    assert driver.tick_until(AskProbe, L.hedge_ms)
    driver.probe(20)
    driver.head()
    assert kinds(driver.chunk(frame("MODIFIED", 19))) == [Delivered]
    assert Proven in kinds(driver.chunk(frame("MODIFIED", 20)))


def test_news_of_any_version_prove_a_watch_while_no_probe_has_answered() -> None:
    driver = unknown()
    driver.head()
    assert Proven in kinds(driver.chunk(frame("MODIFIED", 12)))


def test_after_a_probe_that_sees_nothing_newer_any_head_will_do() -> None:
    driver = unknown()
    driver.end(LOST, of=driver.watches[0])
    driver.tick_until(AskProbe, L.hedge_ms)
    driver.probe(11)
    assert driver.stands(State.REPLACING), "there is no watch to go on with"
    asked = driver.tick_until(AskWatch, L.hedge_ms)
    driver.pass_ms(20)
    commands = driver.head(of=asked.id)
    assert kinds(commands)[0] is WatchStarted
    assert only(Proven, commands).by == "watch opened anew"
    assert driver.stands(State.WATCHING)
    assert driver.session.staleness_ms == 20, "as of the moment it was asked for"
    assert driver.watches == [asked.id]


def test_a_probe_that_sees_nothing_newer_ends_the_doubt_where_a_watch_is_open() -> None:
    driver = unknown()
    old, _ = driver.watches
    driver.tick_until(AskProbe, L.hedge_ms)
    assert Proven in kinds(driver.probe(11))
    assert driver.watches == [old]


def test_an_expired_version_ends_all_and_a_consistent_list_follows() -> None:
    driver = behind()
    expire(driver)
    assert driver.asked == {}
    assert only(AskList, driver.tick()).resource_version == ""


def test_where_no_replacement_proves_itself_a_consistent_list_settles_it() -> None:
    driver = behind()
    asked = driver.tick_until(AskList, L.verify_ms)
    assert (asked.resource_version, asked.fresh) == ("", True)
    assert list(driver.asked) == [asked.id], "all watches are closed"
    listed = only(Listed, driver.answer(page(20)))
    assert listed.reason == "relist"


# Bookmarks


def test_where_a_living_watch_had_no_bookmark_in_time_the_next_one_is_prompted() -> None:
    """The probe makes the watch cache move, in time for the bookmark that is due by itself."""
    driver = behind(bookmarks := Bookmarks())
    driver.head()
    driver.chunk(bookmark(20))
    assert bookmarks.need_prompting
    assert not bookmarks.are_rare
    driver.pass_ms(1000)
    driver.end(CLEAN)
    driver.head()
    heard_ms = driver.clock.ms - 1000
    driver.tick_until(AskProbe, L.prompt_period_ms)
    assert driver.clock.ms - heard_ms < L.silence_ms
    driver.probe(30)
    until_ms = heard_ms + L.silence_ms + L.grace_ms
    assert driver.pass_ms(until_ms - driver.clock.ms - 1) == [], "it has its time all the same"
    assert kinds(driver.chunk(bookmark(30))) == [Delivered, Proven]


def test_watches_are_short_once_even_that_does_not_help() -> None:
    bookmarks = Bookmarks(missed=1)
    driver = behind(bookmarks)
    driver.head()
    driver.chunk(bookmark(20))
    assert bookmarks.are_rare
    driver.pass_ms(1000)
    driver.end(CLEAN)
    asked = driver.asked[driver.last(AskWatch)]
    assert isinstance(asked, AskWatch)
    assert asked.timeout_s == L.short_timeout_s
    # Another watcher of the same resource on the same server knows it from the start.
    other = listing(bookmarks=bookmarks)
    other.answer()
    first = other.asked[other.last(AskWatch)]
    assert isinstance(first, AskWatch)
    assert first.timeout_s == L.short_timeout_s


def test_an_event_that_a_dead_watch_did_not_bring_says_nothing_of_bookmarks() -> None:
    driver = behind(bookmarks := Bookmarks())
    driver.head()
    driver.chunk(frame("MODIFIED", 20))
    assert not bookmarks.missed


def whole_watches(driver: Driver, count: int) -> None:
    """Replacements that are open for as long as was asked and bring nothing."""
    for number in range(count):
        if number:
            driver.tick_until(AskWatch, 10_000)
        driver.head()
        new = driver.last(AskWatch)
        asked = driver.asked[new]
        assert isinstance(asked, AskWatch)
        for other in driver.watches[1:]:
            if other != new:
                driver.end(LOST, of=other)
        driver.clock.ms += asked.timeout_s * 1000
        driver.end(CLEAN, of=new)


def test_a_server_whose_quiet_watches_bring_no_bookmark_is_learned_by_one_list() -> None:
    driver = behind(bookmarks := Bookmarks())
    whole_watches(driver, 2)
    driver.tick_until(AskList, L.verify_ms)
    driver.answer(page(20))
    assert bookmarks.never
    driver.head()
    # From now on the probe's answer and a head on a fresh connection must do, and no list is made.
    driver.tick_until(AskProbe, L.silence_ms)
    driver.probe(30)
    driver.tick_until(AskWatch, L.grace_ms)
    assert Proven in kinds(driver.head())
    assert not any(isinstance(asked, AskList) for asked in driver.asked.values())


def test_what_watches_taught_is_forgotten_with_the_list_that_they_led_to() -> None:
    """One more watch without a bookmark is not the second one of a doubt that is over."""
    driver = behind(bookmarks := Bookmarks())
    whole_watches(driver, 1)
    driver.tick_until(AskList, L.verify_ms)
    driver.answer(page(20))
    driver.head()
    driver.tick_until(AskProbe, L.silence_ms)
    driver.probe(30)
    driver.tick_until(Stale, L.grace_ms)
    whole_watches(driver, 1)
    driver.tick_until(AskList, L.verify_ms)
    driver.answer(page(30))
    assert not bookmarks.never


def test_a_bookmark_before_any_event_unlearns_it() -> None:
    driver = watching(bookmarks=(bookmarks := Bookmarks(never=True)))
    driver.end(CLEAN)
    driver.head()
    driver.chunk(bookmark(12))
    assert not bookmarks.never


@pytest.mark.parametrize("never", [True, False])
def test_a_head_must_do_where_bookmarks_never_come_once_a_late_probe_sees_more(never: bool) -> None:
    driver = probing(bookmarks=Bookmarks(never=never))
    driver.probe(0, 503)
    driver.tick_until(AskProbe, L.hedge_ms)
    driver.probe(20)
    assert (Proven in kinds(driver.head())) == never


def test_the_gap_between_two_bookmarks_of_one_watch_is_learned() -> None:
    driver = watching(bookmarks=(bookmarks := Bookmarks()))
    driver.chunk(bookmark(12))
    assert bookmarks.longest_gap_ms is None
    driver.pass_ms(7000)
    driver.chunk(bookmark(13))
    assert bookmarks.longest_gap_ms == 7000


def test_watches_that_end_at_once_teach_nothing_of_bookmarks() -> None:
    driver = behind(bookmarks := Bookmarks())
    for _ in range(2):
        driver.head()
        driver.end(CLEAN, of=driver.last(AskWatch))
        driver.tick_until(AskWatch, 2 * POLICY.backoff.limit_ms)
    driver.tick_until(AskList, L.verify_ms)
    driver.answer(page(20))
    assert not bookmarks.never


def test_a_list_that_brings_what_the_watches_did_not_says_that_they_are_deaf() -> None:
    driver = behind(bookmarks := Bookmarks())
    whole_watches(driver, 2)
    driver.tick_until(AskList, L.verify_ms)
    driver.answer(b'{"metadata":{"resourceVersion":"20"},"items":[{"metadata":{"name":"a","resourceVersion":"19"}}]}')
    assert not bookmarks.never


# The ends of watches


def test_a_clean_end_is_watched_again_at_once_and_on_the_same_connection() -> None:
    driver = watching()
    commands = driver.end(CLEAN)
    assert kinds(commands) == [Ended, AskWatch]
    asked = only(AskWatch, commands)
    assert (asked.resource_version, asked.fresh) == ("11", False)


@pytest.mark.parametrize("ending", [RESET, LOST])
def test_a_broken_watch_is_watched_again_at_once_on_a_fresh_connection(ending: Ending) -> None:
    driver = watching()
    asked = only(AskWatch, driver.end(ending))
    assert (asked.resource_version, asked.fresh) == ("11", True)


def test_a_watch_that_gets_no_head_is_hedged_and_the_first_head_is_taken() -> None:
    driver = watching()
    driver.end(CLEAN)
    first = driver.last(AskWatch)
    second = driver.tick_until(AskWatch, L.hedge_ms)
    assert second.fresh
    commands = driver.head(of=second.id)
    assert only(Close, commands).id == first
    assert kinds(commands)[-1] is WatchStarted
    assert driver.watches == [second.id]


def test_one_of_two_requests_for_a_watch_may_fail() -> None:
    driver = watching()
    driver.end(CLEAN)
    first = driver.last(AskWatch)
    second = driver.tick_until(AskWatch, L.hedge_ms)
    assert kinds(driver.end(RESET, of=first)) == [Ended]
    assert kinds(driver.head(of=second.id)) == [WatchStarted]


def test_very_short_watches_pause_and_do_not_list() -> None:
    driver = watching()
    driver.end(CLEAN)
    driver.head()
    driver.clock.ms += 999
    assert kinds(driver.end(CLEAN)) == [Ended]
    assert driver.stands(State.WAITING_TO_WATCH)
    assert driver.session.deadline_ms == driver.clock.ms + 800
    asked = only(AskWatch, driver.tick())
    assert (asked.resource_version, asked.fresh) == ("11", True)


def test_a_gateway_that_answers_for_a_dead_apiserver_is_asked_again_soon_and_then_with_pauses() -> None:
    driver = watching()
    driver.end(CLEAN)
    for _ in range(L.replacements_at_once - 1):
        assert kinds(driver.head(503, b"upstream connect error")) == [Ended]
        assert driver.stands(State.WATCH_REQUESTED)
        driver.tick_until(AskWatch, L.hedge_ms)
    driver.head(503, b"upstream connect error")
    assert driver.stands(State.WAITING_TO_WATCH)


@pytest.mark.parametrize("status", [401, 403, 500, 502, 503, 504])
def test_refusals_that_say_nothing_of_the_version_are_no_reason_to_list(status: int) -> None:
    driver = watching()
    driver.end(CLEAN)
    driver.head(status, b"upstream connect error")
    driver.tick_until(AskWatch, 30_000)
    assert not any(isinstance(asked, AskList) for asked in driver.asked.values())


def test_a_version_too_old_is_a_reason_to_list_without_one() -> None:
    driver = watching()
    driver.end(CLEAN)
    for _ in range(1, EXPIRED_IN_A_ROW):
        driver.head(410, b'{"code":410,"reason":"Expired"}')
        asked = driver.tick_until(AskWatch, 2000)
        assert (asked.resource_version, asked.fresh) == ("11", True)
    driver.head(410, b'{"code":410,"reason":"Expired"}')
    assert driver.tick_until(AskList, 2000).resource_version == ""


def test_progress_between_them_forgets_refused_versions() -> None:
    driver = watching()
    for version in range(12, 12 + 2 * EXPIRED_IN_A_ROW):
        driver.chunk(frame("MODIFIED", version), error(410, "Expired"))
        driver.head()
    assert not any(isinstance(command, AskList) for command in driver.all[2:])


def test_a_busy_servers_pause_is_kept() -> None:
    driver = watching()
    driver.end(CLEAN)
    driver.head(429, b"", 9.0)
    assert driver.pass_ms(8999) == []
    assert kinds(driver.tick()) == [AskWatch]


def test_garbage_is_watched_again_twice_and_then_listed() -> None:
    driver = watching()
    for _ in range(2):
        assert kinds(driver.chunk(b"garbage\n")) == [Close, Ended]
        driver.tick_until(AskWatch, 10_000)
        driver.head()
    driver.chunk(b"garbage\n")
    assert driver.tick_until(AskList, 10_000).resource_version == ""
    driver.answer(page(20))
    driver.head()
    driver.chunk(b"garbage\n")
    assert driver.tick_until(AskWatch, 10_000), "after the list the count begins anew"


def test_news_between_garbage_begin_the_count_anew() -> None:
    driver = watching()
    for number in range(5):
        driver.chunk(frame("MODIFIED", 12 + number), b"garbage\n")
        driver.tick_until(AskWatch, 20_000)
        driver.head()
    assert not any(isinstance(command, Listed) and command.reason == "relist" for command in driver.all)


# Deadlines of every phase


def test_a_page_that_does_not_come_is_asked_for_again_with_twice_the_time() -> None:
    driver = listing()
    waits = []
    for _ in range(7):
        start_ms = driver.clock.ms
        assert kinds(driver.tick()) == [Close, Ended]
        waits.append(driver.clock.ms - start_ms)
        driver.tick_until(AskList, 30_000)
    assert waits == [L.page_ms << min(number, 5) for number in range(7)]
    driver.answer()
    assert driver.stands(State.WATCH_REQUESTED)


def test_a_list_makes_the_next_one_begin_with_the_plain_time() -> None:
    driver = listing()
    driver.tick()
    driver.tick_until(AskList, 30_000)
    driver.answer()
    driver.head()
    expire(driver)
    driver.tick_until(AskList, 30_000)
    start_ms = driver.clock.ms
    driver.tick()
    assert driver.clock.ms - start_ms == L.page_ms


def test_a_head_that_does_not_come_is_given_up() -> None:
    driver = listing(SYNCS)
    commands = driver.tick()
    assert driver.clock.ms == L.head_ms
    assert kinds(commands) == [Close, Ended]
    assert "no answer of the watch" in only(Ended, commands).ending.detail


def test_a_watch_lasts_no_longer_than_it_was_asked_to() -> None:
    driver = watching()
    end_ms = POLICY.timeout_min_s * 1000 + L.body_margin_ms
    version = 12
    while driver.clock.ms < end_ms - 10_000:
        driver.pass_ms(5000)
        driver.chunk(frame("MODIFIED", version))
        version += 1
    commands: list[Command] = driver.tick()
    assert driver.clock.ms == end_ms
    assert kinds(commands) == [Close, Ended, AskWatch]
    assert "no end of the watch" in only(Ended, commands).ending.detail


def test_initial_events_may_pause_so_long_and_last_so_long() -> None:
    driver = listing(SYNCS)
    driver.head()
    driver.pass_ms(L.sync_ms - 1)
    driver.chunk(frame("ADDED", 3))
    assert driver.pass_ms(L.sync_ms - 1) == [], "the pause counts from the last event"
    assert kinds(driver.tick()) == [Close, Ended]
    driver = listing(SYNCS)
    driver.head()
    number = 1
    while driver.stands(State.SYNCING):
        driver.pass_ms(5000)
        if driver.stands(State.SYNCING):
            driver.chunk(frame("ADDED", number, f"a{number}"))
            number += 1
    assert driver.clock.ms == 6 * L.sync_ms


def test_every_state_that_waits_has_a_deadline() -> None:
    for driver in (
        listing(),
        listing(SYNCS),
        watching(),
        probing(),
        behind(),
        unknown(),
    ):
        due_ms = driver.session.deadline_ms
        assert due_ms is not None
        assert due_ms - driver.clock.ms <= L.max_staleness_ms


# Lists


def test_a_list_that_goes_back_is_asked_for_again_once() -> None:
    """Once that is a server that lags, twice the store was set back."""
    driver = watching()
    driver.chunk(frame("MODIFIED", 50))
    expire(driver)
    driver.tick_until(AskList, 2000)
    commands = driver.answer(page(40))
    assert kinds(commands) == [Ended]
    assert "resourceVersion 40, and 50 is held" in only(Ended, commands).ending.detail
    assert driver.tick_until(AskList, 5000).resource_version == ""
    assert only(Listed, driver.answer(page(40))).resource_version == "40"
    assert driver.session.resource_version == "40"


def test_only_a_consistent_list_is_a_proof_of_life() -> None:
    driver = listing()
    driver.answer()
    assert driver.session.proof_ms is None, "resourceVersion=0 is whatever the server has at hand"
    driver = listing(SYNCS)
    driver.head()
    driver.pass_ms(50)
    driver.chunk(sync_end())
    assert driver.session.proof_ms == 0, "as of the moment it was asked for"
    driver.chunk(error(400, "BadRequest"))
    driver.pass_ms(2000)
    assert driver.stands(State.SYNC_REQUESTED)
    driver.head()
    driver.chunk(sync_end(10))
    assert driver.session.proof_ms == 0, "from a resourceVersion any cache may answer that has come so far"


# WatchList and servers that do not know it


@pytest.mark.parametrize(("status", "remembered"), [(400, True), (422, True), (404, False)])
def test_a_refused_watch_list_is_a_list_at_once_and_the_servers_no_is_remembered(status: int, remembered: bool) -> None:
    driver = listing(SYNCS)
    commands = driver.head(status)
    assert kinds(commands) == [Ended, AskList]
    driver.answer()
    driver.head()
    expire(driver)
    assert kinds(driver.tick()) == [AskList if remembered else AskWatch]


def test_a_plain_bookmark_among_initial_events_says_that_they_have_no_end() -> None:
    driver = listing(SYNCS)
    driver.head()
    driver.chunk(frame("ADDED", 3))
    commands = driver.chunk(bookmark(12))
    assert kinds(commands) == [Close, Ended]
    assert driver.asked == {}
    assert "knows no WatchList" in only(Ended, commands).ending.detail
    assert only(AskList, driver.tick()).resource_version == "0"


def test_initial_events_that_do_not_end_within_a_watchs_time_are_listed_instead() -> None:
    driver = listing(bounded(10))
    driver.head()
    driver.chunk(frame("ADDED", 3))
    driver.pass_ms(4000)
    driver.end(CLEAN)
    driver.tick_until(AskList, 2000)


def test_initial_events_that_a_draining_server_cut_short_are_asked_for_again() -> None:
    driver = listing(SYNCS)
    driver.head()
    driver.chunk(frame("ADDED", 3))
    driver.pass_ms(2000)
    driver.end(CLEAN)
    assert driver.tick_until(AskWatch, 2000).send_initial_events


def test_initial_events_that_fall_silent_are_listed_instead() -> None:
    driver = listing(SYNCS)
    driver.head()
    driver.tick_until(AskList, L.sync_ms + 2000)
