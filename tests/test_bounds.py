"""The bound of each detector for each fault: the rows of the facts, then what must hold for any chain."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink import bounds
from unblink.bounds import After, Never, predict
from unblink.chain import CLIENTS, Chain, Gateway, HealthCheck, Http2Ping, TcpKeepalive, Upstream
from unblink.faults import Fault

KEEPALIVE = TcpKeepalive(time_s=10, interval_s=3, probes=3)
PING = Http2Ping(interval_ms=5000, timeout_ms=3000)
HEALTH = HealthCheck(path="/readyz", interval_ms=2000, timeout_ms=1000, unhealthy_threshold=2)
SILENT = [fault for fault in Fault if fault not in {Fault.KILL, Fault.ROLLING_RESTART}]


def chain(busy_period_ms: int | None = None, **settings: Any) -> Chain:
    of_upstream = {key: settings.pop(key) for key in list(settings) if key in Upstream.__slots__}
    return Chain(
        CLIENTS["reflector"], Gateway(upstream=Upstream(**of_upstream), **settings), busy_period_ms=busy_period_ms
    )


def detection_s(detector: str, chain_: Chain, fault: Fault) -> float | None:
    verdict = bounds.DETECTORS[detector](chain_, fault)
    return verdict.seconds if isinstance(verdict, After) else None


@pytest.mark.parametrize(
    ("detector", "settings", "busy_ms", "fault", "seconds"),
    [
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.DROP, 19),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.HOST_VANISHES, 19),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.DROP_FROM_APISERVER, 19),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.DROP_TO_APISERVER, 57),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.DROP_GATEWAY_OUTPUT, 57),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, 1000, Fault.DROP, None),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.FREEZE, None),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE, "http2_ping": PING}, None, Fault.DROP, None),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE, "tcp_user_timeout_ms": 10_000}, None, Fault.DROP, 13),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE, "tcp_user_timeout_ms": 30_000}, None, Fault.DROP, 31),
        ("tcp-keepalive", {}, None, Fault.DROP, None),
        ("tcp-user-timeout", {"tcp_user_timeout_ms": 10_000}, None, Fault.DROP, None),
        ("tcp-user-timeout", {"tcp_user_timeout_ms": 10_000}, 1000, Fault.DROP, 21),
        ("tcp-user-timeout", {"tcp_user_timeout_ms": 10_000}, 1000, Fault.FREEZE, None),
        ("http2-ping", {"http2_ping": PING}, None, Fault.DROP, 8.75),
        ("http2-ping", {"http2_ping": PING}, 1000, Fault.DROP_TO_APISERVER, 8.75),
        ("http2-ping", {"http2_ping": PING}, None, Fault.FREEZE, 8.75),
        ("http2-ping", {"http2_ping": PING}, None, Fault.ROLLING_RESTART, None),
        ("http2-ping", {"http2_ping": PING}, None, Fault.STORE_CUT, None),
        ("tcp-keepalive", {"tcp_keepalive": KEEPALIVE}, None, Fault.STORE_CUT, None),
        ("tcp-user-timeout", {"tcp_user_timeout_ms": 10_000}, 1000, Fault.STORE_CUT, None),
        ("health-check", {"health_check": HEALTH}, None, Fault.STORE_CUT, None),
        ("tcp-close", {}, None, Fault.STORE_CUT, None),
        ("watch-idle-timeout", {"watch_idle_timeout_ms": 20_000}, None, Fault.STORE_CUT, 20),
        ("stream-idle-timeout", {"stream_idle_timeout_ms": 20_000}, None, Fault.DROP, 20),
        ("watch-idle-timeout", {"watch_idle_timeout_ms": 20_000}, None, Fault.FREEZE, 20),
        ("health-check", {"health_check": HEALTH}, None, Fault.DROP, None),
        ("health-check", {"health_check": HEALTH}, None, Fault.FREEZE, None),
        ("tcp-close", {}, None, Fault.KILL, 0),
        ("tcp-close", {}, None, Fault.DROP, None),
    ],
)
def test_a_detector_against_a_fault(
    detector: str, settings: dict[str, Any], busy_ms: int | None, fault: Fault, seconds: float | None
) -> None:
    assert detection_s(detector, chain(busy_ms, **settings), fault) == pytest.approx(seconds)


@pytest.mark.parametrize("fault", SILENT)
def test_without_a_detector_a_silent_fault_is_never_noticed(fault: Fault) -> None:
    predicted = predict(chain(), fault)
    assert (predicted.recovers, predicted.bound_s, predicted.ended_by) == (False, None, None)


def test_the_bound_is_the_sum_of_its_parts() -> None:
    predicted = predict(chain(http2_ping=PING), Fault.DROP)
    assert predicted.ended_by == "http2-ping"
    assert predicted.bound_s == pytest.approx(sum(seconds for _, seconds in predicted.parts_s))
    detector, seconds = predicted.parts_s[0]
    assert detector == "http2-ping"
    assert seconds == pytest.approx(8.75)


def test_a_stream_detector_leaves_no_bound_and_the_dead_connection() -> None:
    predicted = predict(chain(stream_idle_timeout_ms=4000), Fault.DROP)
    assert (predicted.recovers, predicted.bound_s, predicted.exec_survives) == (None, None, False)
    assert predicted.ended_within_s == pytest.approx(5.0)
    assert "stays in the pool" in predicted.why


def test_with_a_connection_detector_behind_it_a_stream_detector_has_a_bound() -> None:
    assert predict(chain(watch_idle_timeout_ms=4000), Fault.DROP).recovers is None
    predicted = predict(chain(watch_idle_timeout_ms=4000, http2_ping=PING), Fault.DROP)
    assert predicted.ended_by == "watch-idle-timeout"
    assert predicted.bound_s == predict(chain(http2_ping=PING), Fault.DROP).bound_s


@pytest.mark.parametrize("fault", list(Fault))
def test_only_a_global_idle_timeout_and_a_full_restart_cut_exec(fault: Fault) -> None:
    restarted = fault is Fault.ROLLING_RESTART
    assert predict(chain(http2_ping=PING, watch_idle_timeout_ms=1000), fault).exec_survives is not restarted
    assert predict(chain(stream_idle_timeout_ms=1000), fault).exec_survives is False


EVERYTHING: dict[str, Any] = {
    "tcp_keepalive": KEEPALIVE,
    "tcp_user_timeout_ms": 10_000,
    "http2_ping": PING,
    "health_check": HEALTH,
}


def test_no_detector_of_the_gateway_sees_a_live_apiserver_whose_events_stopped() -> None:
    blind = predict(chain(1000, **EVERYTHING), Fault.STORE_CUT)
    assert (blind.recovers, blind.bound_s) == (False, None)
    assert "answers PINGs" in blind.why
    by_chance = predict(chain(watch_idle_timeout_ms=4000, **EVERYTHING), Fault.STORE_CUT)
    assert (by_chance.recovers, by_chance.bound_s) == (None, None)


def informed(**settings: Any) -> Chain:
    return replace(chain(**settings), client=replace(CLIENTS["informer"], max_staleness_ms=20_000))


@pytest.mark.parametrize("fault", SILENT)
def test_proof_of_life_bounds_every_silent_fault_without_any_help(fault: Fault) -> None:
    predicted = predict(informed(), fault)
    assert (predicted.ended_by, predicted.bound_s) == ("proof-of-life", 21.5)
    assert predicted.parts_s == (("proof-of-life", 20.0), ("time between two events", 0.5), ("scheduling", 1.0))
    assert predicted.recovers
    assert predicted.lossless


def test_where_a_detector_of_the_gateway_is_sooner_it_gives_the_bound() -> None:
    told = predict(informed(), Fault.KILL)
    assert (told.ended_by, told.bound_s) == ("tcp-close", 4.1)
    assert told.detectors == {"tcp-close", "proof-of-life"}
    pinged = predict(informed(http2_ping=PING), Fault.DROP)
    assert (pinged.ended_by, pinged.bound_s) == ("http2-ping", 12.85)
    slow = predict(informed(http2_ping=replace(PING, interval_ms=60_000)), Fault.DROP)
    assert (slow.ended_by, slow.bound_s) == ("proof-of-life", 21.5)


def test_proof_of_life_bounds_what_an_idle_timeout_leaves_to_chance() -> None:
    predicted = predict(informed(watch_idle_timeout_ms=4000), Fault.DROP)
    assert (predicted.recovers, predicted.ended_by, predicted.bound_s) == (True, "watch-idle-timeout", 21.5)
    assert "pool" not in predicted.why


@pytest.mark.parametrize("fault", list(Fault))
def test_a_relist_is_for_a_resource_version_that_is_no_longer_good(fault: Fault) -> None:
    recovery = {client: predict(replace(chain(), client=CLIENTS[client]), fault).recovery for client in CLIENTS}
    assert recovery["informer"] == ("relist" if fault is Fault.HOST_VANISHES else "re-watch")
    assert (recovery["reflector"] == "re-watch") is (fault is Fault.ROLLING_RESTART)
    assert recovery["kubectl"] != "re-watch"


keepalives = st.builds(TcpKeepalive, st.integers(1, 600), st.integers(1, 75), st.integers(1, 9))
pings = st.builds(Http2Ping, st.integers(100, 60_000), st.integers(100, 20_000))
upstreams = st.builds(
    Upstream,
    tcp_keepalive=st.none() | keepalives,
    tcp_user_timeout_ms=st.none() | st.integers(1, 900_000),
    http2_ping=st.none() | pings,
    health_check=st.none() | st.just(HEALTH),
)
chains = st.builds(
    Chain,
    st.sampled_from(list(CLIENTS.values())),
    st.builds(Gateway, upstream=upstreams, stream_idle_timeout_ms=st.none() | st.integers(1, 900_000)),
    busy_period_ms=st.none() | st.integers(50, 60_000),
)


@given(chains, st.sampled_from(list(Fault)))
def test_a_bound_is_finite_and_of_a_detector_that_notices(any_chain: Chain, fault: Fault) -> None:
    predicted = predict(any_chain, fault)
    if predicted.recovers is not False:
        assert predicted.ended_by in predicted.detectors
        assert all(isinstance(bounds.DETECTORS[name](any_chain, fault), After) for name in predicted.detectors)
    else:
        assert all(isinstance(detector(any_chain, fault), Never) for detector in bounds.DETECTORS.values())
    if predicted.bound_s is not None:
        assert math.isfinite(predicted.bound_s)
        assert predicted.bound_s > 0


@given(chains, st.sampled_from([fault for fault in Fault if fault is not Fault.STORE_CUT]), pings)
def test_a_ping_never_makes_a_bound_worse_than_its_own(any_chain: Chain, fault: Fault, ping: Http2Ping) -> None:
    gateway = any_chain.gateway
    with_ping = replace(any_chain, gateway=replace(gateway, upstream=replace(gateway.upstream, http2_ping=ping)))
    alone = replace(any_chain, gateway=Gateway(upstream=Upstream(http2_ping=ping)))
    both, ping_s = predict(with_ping, fault).bound_s, predict(alone, fault).bound_s
    assert both is not None
    assert ping_s is not None
    assert both <= ping_s
