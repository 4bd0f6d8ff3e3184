"""A cell's stage without its processes, for what reads a stage."""

from pathlib import Path

from unblink.chain import Apiserver, Gateway, TlsFiles
from unblink.faults import Fault
from unblink.lab import apiservers
from unblink.lab.cell import SUBNETS, Stage
from unblink.lab.evidence.timeline import Timeline
from unblink.lab.hosts import network
from unblink.lab.scenario import Cell
from unblink.lab.secrets import Secrets

NOWHERE = Path("nowhere")


def made(folder: Path, *, gateway: Gateway | None = None, fault: Fault = Fault.DROP, observe_s: float = 20.0) -> Stage:
    """Two apiservers on loopback addresses, of which nothing runs."""
    clients = ("kubectl", "reflector", "client-go")
    cell = Cell("made", "none", fault, gateway or Gateway(), clients, observe_s, event_period_ms=500)
    servers = apiservers.Servers(Secrets(TlsFiles(NOWHERE, NOWHERE, NOWHERE), NOWHERE, NOWHERE), 60_000)
    stage = Stage(cell, folder, network.on_loopback(SUBNETS, 1), servers, Timeline(), lambda _state: None)
    for name in ("apiserver-1", "apiserver-2"):
        stage.apiservers[name] = Apiserver(name, stage.net.hosts[name].address)
    return stage
