"""The catalogue of faults: what breaks in a chain, by the name that scenarios, bounds and reports use."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """One way in which the apiserver that serves the watch, or the path to it, breaks."""

    DROP = "drop"
    DROP_TO_APISERVER = "drop-to-apiserver"
    DROP_FROM_APISERVER = "drop-from-apiserver"
    DROP_GATEWAY_OUTPUT = "drop-gateway-output"
    FREEZE = "freeze"
    KILL = "kill"
    ROLLING_RESTART = "rolling-restart"
    HOST_VANISHES = "host-vanishes"
    STORE_CUT = "store-cut"


@dataclass(frozen=True, slots=True)
class FaultInfo:
    """What a fault is, and which evidence TCP gives of it: a party that is told needs no detector."""

    fault: Fault
    summary: str
    gateway_is_told: bool
    kernel_answers: bool


CATALOGUE: dict[Fault, FaultInfo] = {
    info.fault: info
    for info in (
        FaultInfo(Fault.DROP, "the router drops every packet between gateway and apiserver", False, False),
        FaultInfo(
            Fault.DROP_TO_APISERVER, "the router drops gateway -> apiserver; the other way still works", False, False
        ),
        FaultInfo(
            Fault.DROP_FROM_APISERVER, "the router drops apiserver -> gateway; the other way still works", False, False
        ),
        FaultInfo(
            Fault.DROP_GATEWAY_OUTPUT, "netfilter on the gateway drops its own packets to the apiserver", False, False
        ),
        FaultInfo(
            Fault.FREEZE, "the apiserver process is stopped (SIGSTOP); its kernel goes on answering", False, True
        ),
        FaultInfo(Fault.KILL, "the apiserver process is killed (SIGKILL); its kernel closes its sockets", True, True),
        FaultInfo(Fault.ROLLING_RESTART, "each apiserver in turn ends gracefully (SIGTERM) and comes back", True, True),
        FaultInfo(
            Fault.HOST_VANISHES,
            "a rolling restart in which the host goes without FIN or RST, and a new instance has a new address",
            False,
            False,
        ),
        FaultInfo(
            Fault.STORE_CUT, "the router drops every packet between the apiserver and its store; both live", False, True
        ),
    )
}
