"""The faults at work: each has its way in both modes, begins and ends in one step, and proves that it hit."""

import asyncio
import dataclasses
import signal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab import stages

from unblink.faults import CATALOGUE, Fault
from unblink.lab import breaking
from unblink.lab.breaking import IN_NAMESPACES, ON_LOOPBACK, CannotShow, Work
from unblink.lab.cell import VICTIM, LabError, Stage
from unblink.lab.evidence.capture import Packet
from unblink.lab.hosts.network import Host, Network

GATEWAY_IP, VICTIM_IP, WRITER_IP, STORE_IP = "127.1.2.10", "127.1.11.10", "127.1.3.10", "127.1.4.10"
FAULT_S = 100.0
DROPS = {
    Fault.DROP: ("to", "from"),
    Fault.DROP_TO_APISERVER: ("to",),
    Fault.DROP_FROM_APISERVER: ("from",),
    Fault.HOST_VANISHES: ("to", "from"),
    Fault.STORE_CUT: ("to", "from"),
}


class Captured:
    """What a cell's capture remembers."""

    def __init__(self, *packets: Packet) -> None:
        self.packets = list(packets)


class Acted(Network):
    """A network on which nothing happens but a note of what was asked for."""

    done: list[tuple[object, ...]]

    async def prepare_drop(self, flows: Any) -> None:
        self.done.append(("prepare", *flows))

    async def drop(self, on: bool) -> None:
        self.done.append(("drop", on))


class Signalled:
    """A process that only notes the signals that it gets."""

    def __init__(self, done: list[tuple[object, ...]], returncode: int | None = None, stopped: bool = False) -> None:
        self.done, self.returncode, self.stopped = done, returncode, stopped

    def send(self, signum: signal.Signals) -> None:
        self.done.append(("signal", signum.name))

    def is_stopped(self) -> bool:
        return self.stopped


def packet(interface: str, outgoing: bool, src: str, dst: str, after_s: float = 1.0) -> Packet:
    return Packet(FAULT_S + after_s, interface, outgoing, src, 1, dst, 2, 16, 0, 0)


def at_the_router(direction: str, side: str, after_s: float = 1.0, fault: Fault = Fault.DROP) -> Packet:
    """A packet that the fault is to drop as the router sees it: where it comes in, or where it leaves."""
    peer = ("store", STORE_IP) if fault is Fault.STORE_CUT else ("gateway", GATEWAY_IP)
    victim = (VICTIM, VICTIM_IP)
    (near, src), (far, dst) = (peer, victim) if direction == "to" else (victim, peer)
    return packet(near if side == "in" else far, side == "out", src, dst, after_s)


def broken(folder: Path, fault: Fault, *packets: Packet) -> Stage:
    stage = stages.made(folder, fault=fault)
    stage.fault_s = FAULT_S
    stage.capture = cast(Any, Captured(*packets))
    return stage


def acting(folder: Path, fault: Fault, *, loopback: bool) -> tuple[Stage, list[tuple[object, ...]]]:
    """A stage on which every act is noted in the list."""
    done: list[tuple[object, ...]] = []
    stage = stages.made(folder, fault=fault)
    stage.net = net = Acted(stage.net.hosts, None if loopback else Host("router", "127.1.0.1"))
    net.done = done
    for name in ("apiserver-1", "apiserver-2"):
        stage.processes[name] = cast(Any, Signalled(done))
    deaf = {"t": 1.0, "event": "deaf", "sockets": 3, "by": "SO_ATTACH_FILTER"}
    (folder / f"{VICTIM}.jsonl").write_bytes(msgspec.json.encode(deaf) + b"\n")
    return stage, done


@pytest.mark.parametrize("table", [IN_NAMESPACES, ON_LOOPBACK])
def test_every_fault_has_its_way(table: dict[Fault, Work]) -> None:
    assert table.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("loopback", [False, True])
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_begins_and_ends_in_one_step(
    tmp_path: Path, fault: Fault, loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, done = acting(tmp_path, fault, loopback=loopback)
    monkeypatch.setattr(breaking, "drop_output", lambda host, _to, on: done.append(("output", host.name, on)))
    work = (ON_LOOPBACK if loopback else IN_NAMESPACES)[fault]
    refused = loopback and fault in {
        Fault.DROP_TO_APISERVER,
        Fault.DROP_FROM_APISERVER,
        Fault.DROP_GATEWAY_OUTPUT,
        Fault.STORE_CUT,
    }

    async def go() -> tuple[int, int, int]:
        await work.prepare(stage)
        prepared = len(done)
        await work.begin(stage)
        begun = len(done)
        await work.end(stage)
        return prepared, begun - prepared, len(done) - begun

    if refused:
        with pytest.raises(CannotShow, match="needs network namespaces"):
            asyncio.run(go())
        assert done == []
        return
    prepared, begin_steps, end_steps = asyncio.run(go())
    assert [act[0] for act in done[:prepared]] == ["prepare"] * (not loopback and fault in DROPS)
    assert begin_steps == (0 if fault is Fault.ROLLING_RESTART else 1)
    final = {Fault.KILL, Fault.ROLLING_RESTART} | ({Fault.HOST_VANISHES} if loopback else set())
    assert end_steps == (0 if fault in final else 1)


@pytest.mark.parametrize(
    ("fault", "flows"),
    [
        (Fault.DROP, {(GATEWAY_IP, VICTIM_IP), (VICTIM_IP, GATEWAY_IP)}),
        (Fault.DROP_TO_APISERVER, {(GATEWAY_IP, VICTIM_IP)}),
        (Fault.DROP_FROM_APISERVER, {(VICTIM_IP, GATEWAY_IP)}),
        (Fault.HOST_VANISHES, {(VICTIM_IP, None), (None, VICTIM_IP)}),
        (Fault.STORE_CUT, {(STORE_IP, VICTIM_IP), (VICTIM_IP, STORE_IP)}),
    ],
)
def test_a_drop_takes_the_flows_of_its_name_and_no_other(
    tmp_path: Path, fault: Fault, flows: set[tuple[str | None, str | None]]
) -> None:
    stage, done = acting(tmp_path, fault, loopback=False)
    asyncio.run(IN_NAMESPACES[fault].prepare(stage))
    ((_, *prepared),) = done
    assert set(prepared) == flows
    assert len(prepared) == len(flows)


@pytest.mark.parametrize("fault", DROPS)
def test_a_drop_is_proven_by_packets_that_came_and_did_not_leave(tmp_path: Path, fault: Fault) -> None:
    came = [at_the_router(direction, "in", fault=fault) for direction in DROPS[fault]]
    early = [at_the_router(direction, "out", breaking.IN_FLIGHT_S / 2, fault) for direction in DROPS[fault]]
    others = [packet("gateway", True, WRITER_IP, GATEWAY_IP), packet(VICTIM, True, WRITER_IP, VICTIM_IP)]
    proof = IN_NAMESPACES[fault].proof
    assert proof(broken(tmp_path, fault, *came, *early, *others)).startswith(f"{len(came)} packets came")
    with pytest.raises(CannotShow, match="no packet reached the router"):
        proof(broken(tmp_path, fault, *early, *others))
    for direction in DROPS[fault]:
        with pytest.raises(CannotShow, match=r"1 packets from .* passed the router"):
            proof(broken(tmp_path, fault, *came, at_the_router(direction, "out", fault=fault)))


def test_a_store_that_is_cut_off_leaves_the_watch_and_the_other_apiserver_alone(tmp_path: Path) -> None:
    dropped = at_the_router("from", "in", fault=Fault.STORE_CUT)
    watch = [at_the_router(direction, side) for direction in ("to", "from") for side in ("in", "out")]
    other = [packet("store", True, "127.1.12.10", STORE_IP), packet("apiserver-2", True, STORE_IP, "127.1.12.10")]
    proof = IN_NAMESPACES[Fault.STORE_CUT].proof
    assert proof(broken(tmp_path, Fault.STORE_CUT, dropped, *watch, *other)).startswith("1 packets came")
    with pytest.raises(CannotShow, match="no packet reached the router"):
        proof(broken(tmp_path, Fault.STORE_CUT, *watch, *other))


@pytest.mark.parametrize(
    ("fault", "open_direction"), [(Fault.DROP_TO_APISERVER, "from"), (Fault.DROP_FROM_APISERVER, "to")]
)
def test_a_drop_in_one_direction_leaves_the_other_alone(tmp_path: Path, fault: Fault, open_direction: str) -> None:
    dropped = at_the_router(DROPS[fault][0], "in")
    passing = [at_the_router(open_direction, side) for side in ("in", "out")]
    proof = IN_NAMESPACES[fault].proof
    assert proof(broken(tmp_path, fault, dropped, *passing)).startswith("1 packets came")
    with pytest.raises(CannotShow, match="no packet reached the router"):
        proof(broken(tmp_path, fault, *passing))


places = st.tuples(st.sampled_from(["to", "from"]), st.sampled_from(["in", "out"]), st.floats(-5, 5))


@given(st.lists(places, max_size=8))
def test_no_proof_without_a_lost_packet_or_with_a_passed_one(
    tmp_path_factory: pytest.TempPathFactory, log: list[tuple[str, str, float]]
) -> None:
    stage = broken(tmp_path_factory.getbasetemp(), Fault.DROP, *(at_the_router(*place) for place in log))
    after = [side for _, side, after_s in log if FAULT_S + after_s >= FAULT_S + breaking.IN_FLIGHT_S]
    proven = "in" in after and "out" not in after
    try:
        IN_NAMESPACES[Fault.DROP].proof(stage)
    except CannotShow:
        assert not proven
    else:
        assert proven


def test_a_drop_in_the_gateways_own_output_is_proven_by_its_silence(tmp_path: Path) -> None:
    fault = Fault.DROP_GATEWAY_OUTPUT
    proof = IN_NAMESPACES[fault].proof
    arrived = at_the_router("from", "in")
    assert "the gateway answered none" in proof(broken(tmp_path, fault, arrived))
    with pytest.raises(CannotShow, match="left it after the drop began"):
        proof(broken(tmp_path, fault, arrived, at_the_router("to", "in")))
    with pytest.raises(CannotShow, match="sent nothing"):
        proof(broken(tmp_path, fault, at_the_router("from", "in", after_s=-1.0)))


def test_a_frozen_and_a_killed_process_are_proven_by_the_kernel(tmp_path: Path) -> None:
    stage = stages.made(tmp_path)
    for stopped, returncode in ((True, -signal.SIGKILL), (False, 0), (False, None)):
        stage.processes[VICTIM] = cast(Any, Signalled([], returncode, stopped))
        for fault, proven in ((Fault.FREEZE, stopped), (Fault.KILL, returncode == -signal.SIGKILL)):
            proof = IN_NAMESPACES[fault].proof
            if proven:
                assert "process" in proof(stage)
            else:
                with pytest.raises(CannotShow, match="process"):
                    proof(stage)


@pytest.mark.parametrize("restarted", [[], ["apiserver-1"], ["apiserver-1", "apiserver-2"]])
def test_a_rolling_restart_is_proven_by_both_coming_back(tmp_path: Path, restarted: list[str]) -> None:
    stage = stages.made(tmp_path)
    for name in restarted:
        stage.timeline.step("fault", "restarted", name=name)
    proof = IN_NAMESPACES[Fault.ROLLING_RESTART].proof
    if len(restarted) == 2:
        assert "came back" in proof(stage)
    else:
        with pytest.raises(CannotShow, match="restarted were only"):
            proof(stage)


def deafening(folder: Path, line: dict[str, object], *, real: bool = False) -> Stage:
    stage, _ = acting(folder, Fault.DROP, loopback=True)
    (folder / f"{VICTIM}.jsonl").write_bytes(msgspec.json.encode({"t": 1.0, **line}) + b"\n")
    if real:
        stage.servers = dataclasses.replace(stage.servers, assets=Path("assets"))
    return stage


def test_a_deaf_apiserver_is_proven_by_its_sockets(tmp_path: Path) -> None:
    proof = ON_LOOPBACK[Fault.DROP].proof
    some = deafening(tmp_path, {"event": "deaf", "sockets": 3, "by": "IP_MINTTL"})
    assert proof(some) == "3 sockets of the apiserver are deaf by IP_MINTTL"
    with pytest.raises(CannotShow, match="no socket"):
        proof(deafening(tmp_path, {"event": "deaf", "sockets": 0, "by": "IP_MINTTL"}))
    with pytest.raises(CannotShow, match="no socket"):
        proof(deafening(tmp_path, {"event": "ready"}))


def test_an_apiserver_that_cannot_go_deaf_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = ON_LOOPBACK[Fault.DROP].begin
    with pytest.raises(CannotShow, match="could not go deaf: Operation not permitted"):
        asyncio.run(begin(deafening(tmp_path, {"event": "deaf-failed", "error": "Operation not permitted"})))
    monkeypatch.setattr(breaking, "DEAF_TIMEOUT_S", 0.0)
    with pytest.raises(LabError, match="did not answer SIGUSR1"):
        asyncio.run(begin(deafening(tmp_path, {"event": "ready"})))
    with pytest.raises(CannotShow, match="kube-apiserver cannot be told to go deaf"):
        asyncio.run(begin(deafening(tmp_path, {"event": "ready"}, real=True)))


def scripted(monkeypatch: pytest.MonkeyPatch, fail: dict[str, Exception]) -> list[str]:
    """A fault whose steps only note that they were taken, or fail."""
    taken: list[str] = []

    def step(name: str) -> breaking.Action:
        async def act(_stage: Stage) -> None:
            taken.append(name)
            if name in fail:
                raise fail[name]

        return act

    def proof(_stage: Stage) -> str:
        if "proof" in fail:
            raise fail["proof"]
        return "seen"

    steps = {name: step(name) for name in ("prepare", "begin", "follow", "end")}
    monkeypatch.setitem(ON_LOOPBACK, Fault.DROP, Work(proof=proof, **steps))
    return taken


def test_the_order_of_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = scripted(monkeypatch, {})
    stage = stages.made(tmp_path, observe_s=0.05)

    async def go() -> None:
        await breaking.observe(stage)
        await breaking.mend(stage)

    asyncio.run(go())
    assert taken == ["prepare", "begin", "follow", "end"]
    assert (stage.fault_proven, stage.fault_evidence) == (True, "seen")
    assert [step["event"] for step in stage.timeline.steps] == ["start", "on", "proof", "off"]


def test_a_fault_that_did_not_hit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"proof": CannotShow("nothing was seen")})
    stage = stages.made(tmp_path, observe_s=0.05)
    asyncio.run(breaking.observe(stage))
    assert (stage.fault_proven, stage.fault_evidence) == (False, "nothing was seen")


@pytest.mark.parametrize("step", ["prepare", "begin", "follow"])
@pytest.mark.parametrize("error", [CannotShow("not here"), LabError("broken")])
def test_a_step_that_fails_ends_the_observation_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    scripted(monkeypatch, {step: error})
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(asyncio.wait_for(breaking.observe(stages.made(tmp_path, observe_s=60.0)), 5))


def test_the_victim_of_a_kill_is_expected_to_end(tmp_path: Path) -> None:
    for fault, expected in ((Fault.KILL, {VICTIM}), (Fault.FREEZE, set())):
        stage, done = acting(tmp_path, fault, loopback=False)
        asyncio.run(IN_NAMESPACES[fault].begin(stage))
        assert stage.expected_to_end == expected
        assert len(done) == 1
