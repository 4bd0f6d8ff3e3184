"""Predict how long a watch can be blind: `predict(chain, fault)`, the bound and the detector that gives it.

Each detector is one function that reads like its rows in docs/lab.md: seconds from the fault until the gateway
knows of it, or a `Never` that says why it cannot. Sources: tcp(7), Linux net/ipv4/tcp_timer.c, Envoy's
``core.v3.KeepaliveSettings``, ``TcpKeepalive`` and ``HttpConnectionManager.stream_idle_timeout``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from unblink.chain import Chain
from unblink.faults import CATALOGUE, Fault

SCHEDULING_S = 1.0
"""What a loaded machine of two cores may add to timers, process starts and handshakes."""

PING_JITTER = 0.15
"""Envoy's default ``interval_jitter`` of ``connection_keepalive``."""

TCP_RETRIES2_S = 924.6
"""The least time until 15 unanswered retransmissions end a connection (Linux, Documentation/networking/ip-sysctl)."""

GRACEFUL_END_S = 1.0
"""A drained apiserver delivers events until it ends its watches cleanly; this is for the end itself."""

LEFT_IN_POOL = "; its connection stays in the pool, and each new request may meet the same apiserver again"

APISERVER_RETRANSMITS = frozenset({Fault.DROP_TO_APISERVER, Fault.DROP_GATEWAY_OUTPUT})
"""Faults in which the apiserver's own retransmissions still arrive, each of them setting the idle clock back to 0."""

ANSWERS_PINGS = {
    Fault.ROLLING_RESTART: "a drained apiserver answers PINGs until it ends",
    Fault.STORE_CUT: "an apiserver without its store answers PINGs",
}

BEGINS_ANEW = frozenset({Fault.HOST_VANISHES})
"""Faults with a new instance, whose watch cache begins with its own list: a resourceVersion from before the fault is
expired there (k8s.io/apiserver, storage/cacher/watch_cache.go: "too old resource version")."""


@dataclass(frozen=True, slots=True)
class Never:
    """A detector that will not notice this fault, and why."""

    why: str


OFF = Never("off")


@dataclass(frozen=True, slots=True)
class After:
    """A detector that notices at most ``seconds`` after the fault."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a cell of this chain and fault must show.

    ``recovers`` of None is chance: the watch is ended, but each next request of its client may be put on the same dead
    connection. ``bound_s`` is the worst blind time in seconds, None where there is no bound: by chance, or because the
    watch is blind until the connection's very end (``TCP_RETRIES2_S`` or for ever). ``parts_s`` names what adds up to
    the bound. ``ended_by`` is the detector with the shortest time, which ends the watch within ``ended_within_s`` of
    the fault; ``detectors`` are all that notice: any of them may be first, for their times are upper bounds. Where
    ``lossless``, nothing comes twice and nothing is lost but what a relist skips.
    """

    recovers: bool | None
    bound_s: float | None
    ended_by: str | None
    ended_within_s: float | None
    detectors: frozenset[str]
    recovery: str
    exec_survives: bool
    parts_s: tuple[tuple[str, float], ...]
    why: str
    lossless: bool = False


def predict(chain: Chain, fault: Fault) -> Prediction:
    """The bound for one fault of the apiserver that serves the watch; an exec beside it is served by another one."""
    exec_survives = chain.gateway.stream_idle_timeout_ms is None and fault is not Fault.ROLLING_RESTART
    verdicts = {name: detector(chain, fault) for name, detector in DETECTORS.items()}
    found = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, After)}
    if not found:
        blind_to_it = [f"{name}: {verdict.why}" for name, verdict in verdicts.items() if verdict != OFF]
        why = "; ".join([*blind_to_it, "no other detector is on"])
        return Prediction(False, None, None, None, frozenset(), "none", exec_survives, (), why)
    first = min(found, key=lambda name: found[name].seconds)
    ways = [_parts(chain, name, found[name].seconds) for name in found if name not in STREAM_DETECTORS]
    parts = min(ways, key=_sum) if ways else _parts(chain, first, found[first].seconds)
    resumes = chain.client.resumes_after_reset
    if fault is Fault.ROLLING_RESTART:
        resumes = resumes or chain.client.resumes_after_clean_end
    return Prediction(
        recovers=True if ways else None,
        bound_s=_sum(parts) if ways else None,
        ended_by=first,
        ended_within_s=found[first].seconds + SCHEDULING_S,
        detectors=frozenset(found),
        recovery="re-watch" if resumes and fault not in BEGINS_ANEW else "relist",
        exec_survives=exec_survives,
        parts_s=parts,
        why=found[first].why + ("" if ways else LEFT_IN_POOL),
        lossless=chain.client.resumes_after_reset,
    )


def _parts(chain: Chain, detector: str, seconds: float) -> tuple[tuple[str, float], ...]:
    """What adds up until an event is held again. Proof of life is asked of the replacement too, within its time."""
    recovery = (
        ("client's wait before it tries again", chain.client.retry_after_reset_ms / 1000),
        (
            "connect timeout where the next requests meet the dead apiserver",
            chain.client.requests_until_state * chain.gateway.upstream.connect_timeout_ms / 1000,
        ),
    )
    return (
        (detector, seconds),
        *(() if detector == PROOF_OF_LIFE else recovery),
        ("time between two events", chain.event_period_ms / 1000),
        ("scheduling", SCHEDULING_S),
    )


def _sum(parts: tuple[tuple[str, float], ...]) -> float:
    return round(sum(seconds for _, seconds in parts), 3)


def tcp_keepalive(chain: Chain, fault: Fault) -> After | Never:
    """Idle connection: T + I*P; with a user timeout U: T + I*max(1, ceil((U-T)/I)), for then the count is ignored."""
    keepalive, user_timeout_ms = chain.gateway.upstream.tcp_keepalive, chain.gateway.upstream.tcp_user_timeout_ms
    if keepalive is None:
        return OFF
    if CATALOGUE[fault].kernel_answers:
        return Never("the kernel of the apiserver's host answers the probes")
    if chain.busy_period_ms is not None:
        return Never("unacknowledged data of other requests keeps the probes from being sent")
    if chain.gateway.upstream.http2_ping is not None:
        return Never("an unanswered PING is unacknowledged data, which keeps the probes from being sent")
    if user_timeout_ms is None:
        idle_s: float = keepalive.detects_after_s
    else:
        probes = max(1, math.ceil((user_timeout_ms / 1000 - keepalive.time_s) / keepalive.interval_s))
        idle_s = keepalive.time_s + keepalive.interval_s * probes
    if fault in APISERVER_RETRANSMITS:
        # The gaps between retransmissions double, so the first gap longer than D begins at most 2 D after the fault.
        return After(3 * idle_s, "retransmissions of the apiserver set the idle clock back for a while")
    return After(idle_s, "probes of the idle connection stay unanswered")


def tcp_user_timeout(chain: Chain, fault: Fault) -> After | Never:
    """Unacknowledged data: about U after it was sent. An idle connection has none."""
    user_timeout_ms = chain.gateway.upstream.tcp_user_timeout_ms
    ping = chain.gateway.upstream.http2_ping
    if user_timeout_ms is None:
        return OFF
    if CATALOGUE[fault].kernel_answers:
        return Never("the kernel of the apiserver's host acknowledges all data")
    sent_after_ms = [
        period
        for period in (chain.busy_period_ms, ping.interval_ms * (1 + PING_JITTER) if ping else None)
        if period is not None
    ]
    if not sent_after_ms:
        return Never("an idle connection has no unacknowledged data")
    # The timer is looked at when a retransmission is due, and the last gap before U may be as long as U again.
    return After((min(sent_after_ms) + 2 * user_timeout_ms) / 1000, "data sent since the fault stays unacknowledged")


def http2_ping(chain: Chain, fault: Fault) -> After | Never:
    """Interval with its jitter, and the timeout. The process has to answer, so a frozen one is noticed too."""
    ping = chain.gateway.upstream.http2_ping
    if ping is None:
        return OFF
    if fault in ANSWERS_PINGS:
        return Never(ANSWERS_PINGS[fault])
    return After((ping.interval_ms * (1 + PING_JITTER) + ping.timeout_ms) / 1000, "a PING stays unanswered")


def stream_idle_timeout(chain: Chain, _fault: Fault) -> After | Never:
    """The time without a byte on any stream, exec sessions too."""
    timeout_ms = chain.gateway.stream_idle_timeout_ms
    return OFF if timeout_ms is None else After(timeout_ms / 1000, "the stream was idle for too long")


def watch_idle_timeout(chain: Chain, _fault: Fault) -> After | Never:
    """The idle timeout of the route that only watches take."""
    timeout_ms = chain.gateway.watch_idle_timeout_ms
    return OFF if timeout_ms is None else After(timeout_ms / 1000, "the watch was idle for too long")


def health_check(chain: Chain, _fault: Fault) -> Never:
    """It keeps new requests away; Envoy closes connections on it for tcp_proxy alone, never HTTP streams."""
    return OFF if chain.gateway.upstream.health_check is None else Never("HTTP streams of an unhealthy host go on")


def client_deadline(chain: Chain, _fault: Fault) -> After | Never:
    """A limit of the client's own on a silent watch."""
    deadline_ms = chain.client.deadline_ms
    return OFF if deadline_ms is None else After(deadline_ms / 1000, "the client's own deadline passed")


def proof_of_life(chain: Chain, _fault: Fault) -> After | Never:
    """The client's bound on the age of its view: bytes prove nothing, a resourceVersion that keeps up does."""
    max_staleness_ms = chain.client.max_staleness_ms
    return OFF if max_staleness_ms is None else After(max_staleness_ms / 1000, "the watch gave no proof of life")


def tcp_close(_chain: Chain, fault: Fault) -> After | Never:
    """The kernel of the apiserver's host closes the connection of a process that ended."""
    if CATALOGUE[fault].gateway_is_told:
        return After(GRACEFUL_END_S if fault is Fault.ROLLING_RESTART else 0.0, "the connection was closed")
    return Never("no FIN or RST arrives")


PROOF_OF_LIFE = "proof-of-life"

DETECTORS: dict[str, Callable[[Chain, Fault], After | Never]] = {
    "tcp-close": tcp_close,
    "tcp-keepalive": tcp_keepalive,
    "tcp-user-timeout": tcp_user_timeout,
    "http2-ping": http2_ping,
    "stream-idle-timeout": stream_idle_timeout,
    "watch-idle-timeout": watch_idle_timeout,
    "health-check": health_check,
    "client-deadline": client_deadline,
    PROOF_OF_LIFE: proof_of_life,
}

STREAM_DETECTORS = frozenset({"stream-idle-timeout", "watch-idle-timeout", "client-deadline"})
"""These end the stream and leave its connection in the gateway's pool."""
