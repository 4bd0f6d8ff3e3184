"""The faults at work: each begins and ends in one step, and each shows afterwards that it hit."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from unblink.faults import Fault
from unblink.gateway.envoy.config import APISERVER, APISERVER_UPGRADE
from unblink.lab.cell import OTHER, REPLACEMENT, VICTIM, LabError, Stage, endpoints_known
from unblink.lab.evidence.capture import seen
from unblink.lab.hosts.netfilter import drop_output
from unblink.lab.log import monotonic_s

DEAF_TIMEOUT_S = 2.0
LOOK_S = 0.5
IN_FLIGHT_S = 0.05
"""What was on its way when a drop began has left the router by then."""

Action = Callable[[Stage], Coroutine[None, None, None]]


class CannotShow(Exception):
    """This fault cannot be made where the lab runs now; the text says why. Its cells are unknown."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a fault is done. `prepare` has no effect yet, `begin` and `end` are one step each, `follow` is what happens
    in its wake (a new instance comes up), `proof` looks at the evidence and raises `CannotShow` when it has none."""

    prepare: Action
    begin: Action
    follow: Action
    end: Action
    proof: Callable[[Stage], str]


async def _nothing(_stage: Stage) -> None:
    return


async def _drop_on(stage: Stage) -> None:
    await stage.net.drop(True)


async def _drop_off(stage: Stage) -> None:
    await stage.net.drop(False)


def _between(peer: str, *directions: str) -> Action:
    """Prepare a drop between the apiserver that the fault hits and another host."""

    async def prepare(stage: Stage) -> None:
        other, victim = stage.net.hosts[peer].address, stage.net.hosts[VICTIM].address
        flows = {"to": (other, victim), "from": (victim, other)}
        await stage.net.prepare_drop([flows[direction] for direction in directions])

    return prepare


async def _vanish_prepare(stage: Stage) -> None:
    victim = stage.net.hosts[VICTIM].address
    await stage.net.prepare_drop([(victim, None), (None, victim)])


async def _replace(stage: Stage) -> None:
    """The process of the vanished host ends unheard, and its successor comes up under a new address."""
    stage.expected_to_end.add(VICTIM)
    stage.processes[VICTIM].send(signal.SIGKILL if stage.in_namespaces else signal.SIGSTOP)
    await stage.start_apiserver(REPLACEMENT)
    await _publish(stage, OTHER, REPLACEMENT)


async def _output_on(stage: Stage) -> None:
    await asyncio.to_thread(drop_output, stage.net.hosts["gateway"], stage.net.hosts[VICTIM].address, True)


async def _output_off(stage: Stage) -> None:
    await asyncio.to_thread(drop_output, stage.net.hosts["gateway"], stage.net.hosts[VICTIM].address, False)


def _signal(signum: signal.Signals) -> Action:
    async def send(stage: Stage) -> None:
        if signum is signal.SIGKILL:
            stage.expected_to_end.add(VICTIM)
        stage.processes[VICTIM].send(signum)

    return send


async def _restart_each(stage: Stage) -> None:
    """Gracefully: what is not ready is no endpoint, so it gets no new requests before it ends those that it has."""
    for name, stays in ((VICTIM, OTHER), (OTHER, VICTIM)):
        await _publish(stage, stays)
        stage.expected_to_end.add(name)
        stage.processes[name].send(signal.SIGTERM)
        stage.timeline.step("fault", "sigterm", name=name)
        await stage.processes[name].ended()
        await stage.start_apiserver(name)
        stage.expected_to_end.discard(name)
        stage.timeline.step("fault", "restarted", name=name)
        await _publish(stage, name, stays)


async def _publish(stage: Stage, *names: str) -> None:
    for cluster in (APISERVER, APISERVER_UPGRADE):
        stage.publish(cluster, *names)
        await endpoints_known(stage, cluster, *names)
    stage.timeline.step("fault", "endpoints", names=names)


async def _deafen(stage: Stage) -> None:
    if stage.servers.assets is not None:
        raise CannotShow("a kube-apiserver cannot be told to go deaf; a drop of its packets needs network namespaces")
    stage.processes[VICTIM].send(signal.SIGUSR1)
    journal = stage.journal(VICTIM)
    if not await journal.wait_for(lambda line: line["event"] in {"deaf", "deaf-failed"}, DEAF_TIMEOUT_S):
        raise LabError(f"cell {stage.cell.id}: {VICTIM} did not answer SIGUSR1")
    failed = [line["error"] for line in journal.lines() if line["event"] == "deaf-failed"]
    if failed:
        raise CannotShow(f"the apiserver could not go deaf: {failed[-1]}")


def _dropped_proof(peer: str, *directions: str) -> Callable[[Stage], str]:
    """Packets came to the router's one side and none left on its other side, in each direction that had any."""

    def proof(stage: Stage) -> str:
        assert stage.capture is not None
        other, victim = stage.net.hosts[peer].address, stage.net.hosts[VICTIM].address
        ways = {"to": (peer, other, VICTIM, victim), "from": (VICTIM, victim, peer, other)}
        came = 0
        for direction in directions:
            near, source, far, destination = ways[direction]
            since = stage.fault_s + IN_FLIGHT_S
            came += seen(stage.capture.packets, near, src=source, dst=destination, since=since, outgoing=False)
            if passed := seen(stage.capture.packets, far, src=source, dst=destination, since=since, outgoing=True):
                raise CannotShow(f"{passed} packets from {near} to {far} passed the router after the drop began")
        if not came:
            raise CannotShow("no packet reached the router after the drop began")
        return f"{came} packets came to the router and none left it"

    return proof


def _output_proof(stage: Stage) -> str:
    assert stage.capture is not None
    gateway, victim = stage.net.hosts["gateway"].address, stage.net.hosts[VICTIM].address
    since = stage.fault_s + IN_FLIGHT_S
    left = seen(stage.capture.packets, "gateway", src=gateway, dst=victim, since=since, outgoing=False)
    arrived = seen(stage.capture.packets, VICTIM, src=victim, dst=gateway, since=since, outgoing=False)
    if left:
        raise CannotShow(f"{left} packets of the gateway left it after the drop began")
    if not arrived:
        raise CannotShow("the apiserver sent nothing that the gateway had to answer")
    return f"{arrived} packets of the apiserver came to the router and the gateway answered none"


def _frozen_proof(stage: Stage) -> str:
    if not stage.processes[VICTIM].is_stopped():
        raise CannotShow("the process was not stopped")
    return "the kernel reports the process as stopped"


def _killed_proof(stage: Stage) -> str:
    code = stage.processes[VICTIM].returncode
    if code != -signal.SIGKILL:
        raise CannotShow(f"the process ended with {code}")
    return "the process ended by SIGKILL"


def _restarted_proof(stage: Stage) -> str:
    restarted = [step["name"] for step in stage.timeline.steps if step["event"] == "restarted"]
    if restarted != [VICTIM, OTHER]:
        raise CannotShow(f"restarted were only {restarted}")
    return "each apiserver ended by SIGTERM and came back"


def _deaf_proof(stage: Stage) -> str:
    deaf = [line for line in stage.journal(VICTIM).lines() if line["event"] == "deaf"]
    if not deaf or not deaf[-1]["sockets"]:
        raise CannotShow("no socket of the apiserver is deaf")
    return f"{deaf[-1]['sockets']} sockets of the apiserver are deaf by {deaf[-1]['by']}"


def _unavailable(what: str) -> Action:
    async def refuse(_stage: Stage) -> None:
        raise CannotShow(f"{what} needs network namespaces, which are forbidden here")

    return refuse


_both, _to, _from = ("gateway", "to", "from"), ("gateway", "to"), ("gateway", "from")
_store = ("store", "to", "from")

IN_NAMESPACES: dict[Fault, Work] = {
    Fault.DROP: Work(_between(*_both), _drop_on, _nothing, _drop_off, _dropped_proof(*_both)),
    Fault.DROP_TO_APISERVER: Work(_between(*_to), _drop_on, _nothing, _drop_off, _dropped_proof(*_to)),
    Fault.DROP_FROM_APISERVER: Work(_between(*_from), _drop_on, _nothing, _drop_off, _dropped_proof(*_from)),
    Fault.DROP_GATEWAY_OUTPUT: Work(_nothing, _output_on, _nothing, _output_off, _output_proof),
    Fault.FREEZE: Work(_nothing, _signal(signal.SIGSTOP), _nothing, _signal(signal.SIGCONT), _frozen_proof),
    Fault.KILL: Work(_nothing, _signal(signal.SIGKILL), _nothing, _nothing, _killed_proof),
    Fault.ROLLING_RESTART: Work(_nothing, _nothing, _restart_each, _nothing, _restarted_proof),
    Fault.HOST_VANISHES: Work(_vanish_prepare, _drop_on, _replace, _drop_off, _dropped_proof(*_both)),
    Fault.STORE_CUT: Work(_between(*_store), _drop_on, _nothing, _drop_off, _dropped_proof(*_store)),
}

_hear = _signal(signal.SIGUSR2)

ON_LOOPBACK: dict[Fault, Work] = IN_NAMESPACES | {
    Fault.DROP: Work(_nothing, _deafen, _nothing, _hear, _deaf_proof),
    Fault.DROP_TO_APISERVER: Work(_unavailable("a drop in one direction"), _nothing, _nothing, _nothing, _deaf_proof),
    Fault.DROP_FROM_APISERVER: Work(_unavailable("a drop in one direction"), _nothing, _nothing, _nothing, _deaf_proof),
    Fault.DROP_GATEWAY_OUTPUT: Work(_unavailable("netfilter"), _nothing, _nothing, _nothing, _deaf_proof),
    Fault.HOST_VANISHES: Work(_nothing, _deafen, _replace, _nothing, _deaf_proof),
    # What makes an apiserver deaf makes it deaf to its clients; its store is to be the only one it does not hear.
    Fault.STORE_CUT: Work(
        _unavailable("a drop between apiserver and store"), _nothing, _nothing, _nothing, _deaf_proof
    ),
}


async def observe(stage: Stage) -> None:
    """Break the chain and watch it for the cell's time. Sets the stage's `fault_s` and whether the fault hit."""
    work = (IN_NAMESPACES if stage.in_namespaces else ON_LOOPBACK)[stage.cell.fault]
    await work.prepare(stage)
    stage.fault_s = monotonic_s()
    await work.begin(stage)
    address = stage.net.hosts[VICTIM].address
    stage.timeline.step("fault", "on", at_s=stage.fault_s, fault=stage.cell.fault.value, address=address)
    follow = asyncio.create_task(work.follow(stage))
    try:
        while (left_s := stage.fault_s + stage.cell.observe_s - monotonic_s()) > 0:
            stage.say(f"observing: {left_s:.0f} s left")
            await asyncio.sleep(min(left_s, LOOK_S))
            stage.check_alive()
            if follow.done():
                follow.result()
        try:
            if not follow.done():
                raise CannotShow(
                    "the observation ended before the fault had run its course; give it a longer observe_s"
                )
            stage.fault_evidence = work.proof(stage)
            stage.fault_proven = True
        except CannotShow as reason:
            stage.fault_evidence = str(reason)
            stage.fault_proven = False
        stage.timeline.step("fault", "proof", proven=stage.fault_proven, evidence=stage.fault_evidence)
    finally:
        follow.cancel()


async def mend(stage: Stage) -> None:
    """End the fault, in one step."""
    work = (IN_NAMESPACES if stage.in_namespaces else ON_LOOPBACK)[stage.cell.fault]
    await work.end(stage)
    stage.timeline.step("fault", "off")
