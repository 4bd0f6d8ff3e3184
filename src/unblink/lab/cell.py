"""One cell: its chain built from real parts, its fault, and what was measured. All files go into the cell's folder."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from unblink.bounds import predict
from unblink.chain import CLIENTS, Apiserver, Listener
from unblink.faults import Fault
from unblink.gateway.envoy import admin, process
from unblink.gateway.envoy.config import APISERVER, APISERVER_UPGRADE, bootstrap, write
from unblink.gateway.envoy.endpoints import write_endpoints
from unblink.lab import apiservers
from unblink.lab.evidence import sockets
from unblink.lab.evidence.capture import Capture, open_interface
from unblink.lab.evidence.timeline import Timeline
from unblink.lab.hosts import network
from unblink.lab.hosts.process import Process, start
from unblink.lab.journal import Journal
from unblink.lab.log import monotonic_s
from unblink.lab.scenario import Cell
from unblink.lab.secrets import SERVER_NAME, write_kubeconfig

VICTIM, OTHER, REPLACEMENT = "apiserver-1", "apiserver-2", "apiserver-3"
"""The apiserver that the fault hits, the one that it leaves alone, and the successor of one that is gone."""
SUBNETS = {"client": 1, "gateway": 2, "writer": 3, "store": 4, VICTIM: 11, OTHER: 12, REPLACEMENT: 13}
NAMESPACE, WATCHED, EXEC_POD = "lab", "canary", "exec-target"
START_TIMEOUT_S = 30.0
STEADY_EVENTS = 3
SOCKETS_PERIOD_S = 0.5
LASTS_S = 2.0
"""A watch that its own timeoutSeconds leaves this long is still there when the fault begins."""
ADMIN, PPROF, KEY_LOG = "admin.sock", "pprof.sock", "tls-keys.log"
INFRASTRUCTURE = ("store", "gateway", "writer", "exec", "poller")


class LabError(Exception):
    """The lab itself could not do its work; the text says which part, where, and how it ended."""


@dataclass(slots=True)
class Stage:
    """A running cell: what a fault may lay its hands on, and what the judge reads afterwards."""

    cell: Cell
    folder: Path
    net: network.Network
    servers: apiservers.Servers
    timeline: Timeline
    say: Callable[[str], None]
    apiservers: dict[str, Apiserver] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    capture: Capture | None = None
    sampling: asyncio.Task[None] | None = None
    expected_to_end: set[str] = field(default_factory=set)
    steady_s: float = 0.0
    fault_s: float = 0.0
    until_s: float = 0.0
    settled_s: float = 0.0
    fault_proven: bool | None = None
    fault_evidence: str = ""

    @property
    def in_namespaces(self) -> bool:
        return self.net.router is not None

    def journal(self, name: str) -> Journal:
        """What the process of this name has said so far."""
        return self.journals.setdefault(name, Journal(self.folder / f"{name}.jsonl"))

    def run(self, name: str, host: str, argv: list[str]) -> Process:
        """Start a process of the cell on one of its hosts."""
        made = start(self.net.hosts[host], name, argv, self.folder)
        self.processes[name] = made
        return made

    def publish(self, cluster: str, *names: str) -> None:
        """Tell the gateway which apiservers there are, as Istio would by EDS."""
        write_endpoints(self.folder / "endpoints", cluster, [self.apiservers[name] for name in names])

    async def start_apiserver(self, name: str) -> None:
        """Start an apiserver on its host, or start it again, and wait until it is ready."""
        at = self.apiservers.setdefault(name, Apiserver(name, self.net.hosts[name].address))
        self.processes[name] = started = apiservers.start_apiserver(
            self.net.hosts[name], at, self.net.hosts["store"], self.folder, self.servers
        )
        why = await apiservers.wait_ready(
            started,
            self.processes["store"],
            self.net.hosts["writer"],
            at,
            self.servers.secrets,
            self.servers.start_timeout_s,
        )
        if why:
            self.check_alive()
            raise self.failure(name, why)

    def failure(self, name: str, why: str) -> LabError:
        """What went wrong in the words of the process itself, where it said something."""
        fatal = [line["error"] for line in self.journal(name).lines() if line["event"] == "fatal"]
        errors = self.folder / f"{name}.err"
        said = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
        detail = fatal[-1:] or said[-1:]
        return LabError(f"cell {self.cell.id}: {why}" + (f": {detail[0]}" if detail else ""))

    def check_alive(self) -> None:
        """Raises LabError when a part that no fault was meant to end has ended, OSError when evidence is not kept."""
        if self.sampling is not None and self.sampling.done():
            self.sampling.result()
        for name, running in self.processes.items():
            part = name in INFRASTRUCTURE or name.startswith("apiserver")
            if part and running.returncode is not None and name not in self.expected_to_end:
                raise self.failure(name, f"{name} ended by itself with exit code {running.returncode}")


@asynccontextmanager
async def prepared(
    cell: Cell,
    number: int,
    folder: Path,
    servers: apiservers.Servers,
    peers: Mapping[str, Path],
    say: Callable[[str], None],
    *,
    loopback: bool,
) -> AsyncIterator[Stage]:
    """Build the cell up to the moment before its fault; take all of it down again at the end, however it comes.

    `number` tells cells apart on loopback. `peers` are the programs of clients that are not ours.

    Raises:
        LabError: a part did not come up.
    """
    async with AsyncExitStack() as down:
        say("network")
        net = network.on_loopback(SUBNETS, number) if loopback else await network.in_namespaces(SUBNETS)
        down.push_async_callback(net.close)
        stage = Stage(cell, folder, net, servers, Timeline(), say)
        down.push_async_callback(_stop_all, stage)
        await _evidence(stage, down)
        say("apiservers")
        await _start_servers(stage)
        say("gateway")
        await _start_gateway(stage)
        say("clients")
        await _start_clients(stage, peers)
        yield stage


async def _start_servers(stage: Stage) -> None:
    hosts, folder = stage.net.hosts, stage.folder
    stage.processes["store"] = apiservers.start_store(hosts["store"], folder, stage.servers)
    await asyncio.gather(*(stage.start_apiserver(name) for name in (VICTIM, OTHER)))
    pod = {
        "metadata": {"name": EXEC_POD},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    for path, body in (
        ("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}),
        (f"/api/v1/namespaces/{NAMESPACE}/pods", pod),
    ):
        status, answer = await apiservers.request(
            hosts["writer"], stage.apiservers[OTHER], stage.servers.secrets, "POST", path, body
        )
        if status not in {201, 409}:
            raise LabError(
                f"cell {stage.cell.id}: POST {path} answered {status}: {answer[:200].decode(errors='replace')}"
            )


async def _start_gateway(stage: Stage) -> None:
    host, folder, tls = stage.net.hosts["gateway"], stage.folder, stage.servers.secrets.tls
    secure, plain = (443, 80) if stage.in_namespaces else (8443, 8080)
    gateway = replace(
        stage.cell.gateway,
        hosts=(SERVER_NAME, host.address),
        listeners=(Listener(host.address, secure, tls), Listener(host.address, plain)),
        apiserver_ca=tls.ca,
        apiserver_sni=SERVER_NAME,
    )
    (folder / "endpoints").mkdir()
    stage.publish(APISERVER, VICTIM)
    stage.publish(APISERVER_UPGRADE, OTHER)
    config = bootstrap(
        gateway,
        endpoints=folder / "endpoints",
        admin=ADMIN,
        access_log=folder / "access.jsonl",
        key_log=folder / KEY_LOG,
        node_id=stage.cell.id,
    )
    write(folder / "envoy.json", config)
    running = stage.run("gateway", "gateway", process.argv(folder / "envoy.json", folder / "envoy.log"))
    deadline = monotonic_s() + START_TIMEOUT_S
    while not await _is_ready(folder / ADMIN):
        if running.returncode is not None or monotonic_s() > deadline:
            raise LabError(f"cell {stage.cell.id}: the gateway did not come up: {_last_error(folder / 'envoy.log')}")
        await asyncio.sleep(0.05)
    write_kubeconfig(folder / "kubeconfig", f"https://{host.address}:{secure}", stage.servers.secrets)
    direct = stage.apiservers[OTHER]
    write_kubeconfig(folder / "kubeconfig-direct", f"https://{direct.address}:{direct.port}", stage.servers.secrets)


async def _is_ready(admin_socket: Path) -> bool:
    with suppress(OSError):
        return await admin.ready(admin_socket)
    return False


def _last_error(envoy_log: Path) -> str:
    lines = envoy_log.read_text(errors="replace").splitlines() if envoy_log.exists() else []
    wrong = [line for line in lines if "[critical]" in line or "[error]" in line]
    return (wrong or lines or ["it said nothing"])[-1]


async def _start_clients(stage: Stage, peers: Mapping[str, Path]) -> None:
    def python(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", f"unblink.lab.clients.{module}", "--namespace", NAMESPACE, *arguments]

    watched = ["--resource", "configmaps", "--field-selector", f"metadata.name={WATCHED}"]
    staleness_ms = str(stage.cell.max_staleness_ms)
    commands = {
        "kubectl": python("kubectl_loop", "--kubeconfig", "kubeconfig", *watched),
        "reflector": python("reflector", "--kubeconfig", "kubeconfig", *watched),
        "informer": python("informer", "--kubeconfig", "kubeconfig", *watched, "--max-staleness-ms", staleness_ms),
    }
    if "client-go" in peers:
        shared = ["-kubeconfig", "kubeconfig", "-namespace", NAMESPACE, "-resource", "configmaps"]
        selector = ["-field-selector", f"metadata.name={WATCHED}"]
        commands["client-go"] = [str(peers["client-go"]), *shared, *selector, "-pprof", PPROF]
    period = str(stage.cell.event_period_ms)
    direct = ["--kubeconfig", "kubeconfig-direct", "--name", WATCHED, "--period-ms", period]
    stage.run("writer", "writer", python("writer", *direct))
    if stage.servers.assets is None:
        stage.run("exec", "client", python("exec_session", "--kubeconfig", "kubeconfig", "--pod", EXEC_POD))
    await _said(stage, "writer", "written")
    clients = [name for name in stage.cell.clients if name in commands]
    for name in clients:
        stage.run(name, "client", commands[name])
    if "exec" in stage.processes:
        await _said(stage, "exec", "opened")
    for name in clients:
        await _until(stage, name, _is_watch_event, STEADY_EVENTS, "watching")
    if stage.cell.busy_period_ms is not None:
        busy = ["--resource", "configmaps", "--name", WATCHED, "--period-ms", str(stage.cell.busy_period_ms)]
        stage.run("poller", "client", python("poller", "--kubeconfig", "kubeconfig", *busy))
        await _said(stage, "poller", "request")
    stage.steady_s = monotonic_s()
    stage.check_alive()


async def other_joins(stage: Stage) -> None:
    """Now there is another apiserver to turn to: until here it was away, as in a rolling restart.

    So every watch is on apiserver-1, and stays there until the fault: a client that ends its watches early has just
    begun one. The idle exec is on apiserver-2, which no fault touches.
    """
    for name in stage.cell.clients:
        if CLIENTS[name].max_staleness_ms is not None:
            await _until(stage, name, _lasts, 1, "a watch that lasts")
    stage.publish(APISERVER, VICTIM, OTHER)
    stage.publish(APISERVER_UPGRADE, OTHER, VICTIM)
    await endpoints_known(stage, APISERVER, VICTIM, OTHER)


def _lasts(line: dict[str, Any]) -> bool:
    return bool(line["event"] == "watch" and line["t"] + line["timeout_s"] > monotonic_s() + LASTS_S)


def _is_watch_event(line: dict[str, Any]) -> bool:
    return bool(line["event"] == "object" and line["source"] == "watch")


async def _said(stage: Stage, name: str, event: str) -> None:
    await _until(stage, name, lambda line: line["event"] == event, 1, event)


async def _until(stage: Stage, name: str, wanted: Callable[[dict[str, Any]], bool], count: int, what: str) -> None:
    deadline = monotonic_s() + START_TIMEOUT_S
    while not await stage.journal(name).wait_for(wanted, 0.2, count):
        code = stage.processes[name].returncode
        if code is not None:
            raise stage.failure(name, f"{name} ended by itself with exit code {code}")
        if monotonic_s() > deadline:
            raise stage.failure(name, f"{name} did not get to {what!r} within {START_TIMEOUT_S:.0f} s")


async def endpoints_known(stage: Stage, cluster: str, *names: str) -> None:
    """Wait until the gateway sends new requests of `cluster` to these apiservers alone, after `Stage.publish`."""
    wanted = {f"{stage.apiservers[name].address}:{stage.apiservers[name].port}" for name in names}
    deadline = monotonic_s() + START_TIMEOUT_S
    while {host.address for host in (await admin.clusters(stage.folder / ADMIN)).get(cluster, [])} != wanted:
        if monotonic_s() > deadline:
            raise LabError(f"cell {stage.cell.id}: the gateway did not take the new endpoints of {cluster}")
        await asyncio.sleep(0.05)


async def _evidence(stage: Stage, down: AsyncExitStack) -> None:
    watched = ("client", "gateway", VICTIM)
    if stage.net.router is not None:
        stage.capture = Capture()
        down.callback(stage.capture.close)
        with stage.net.router.entered():
            for name in _captured(stage.cell.fault):
                stage.capture.add(name, open_interface(name))
    tables = {}
    for name in watched:
        host = stage.net.hosts[name]
        with host.entered():
            tables[name] = sockets.Table(sockets.open_table(), () if stage.in_namespaces else (host.address,))
        down.callback(tables[name].diag.close)
    stream = (stage.folder / "sockets.jsonl").open("ab")
    down.callback(stream.close)
    stage.sampling = asyncio.create_task(sockets.watch(stream, tables, SOCKETS_PERIOD_S))
    down.callback(stage.sampling.cancel)


def _captured(fault: Fault) -> list[str]:
    """The hosts whose packets are evidence; the store's are where a fault is between it and an apiserver."""
    return [name for name in SUBNETS if name != "writer" and (name != "store" or fault is Fault.STORE_CUT)]


async def collect(stage: Stage) -> None:
    """At the end of the observation: the last word of the exec session, the goroutines, Envoy's stats; then stop."""
    stage.until_s = monotonic_s()
    await _settle(stage)
    stage.settled_s = monotonic_s()
    if "exec" in stage.processes:
        stage.expected_to_end.add("exec")
        await stage.processes["exec"].stop()
    if "client-go" in stage.processes:
        with suppress(OSError, admin.AdminError):
            dump = await admin.get(stage.folder / PPROF, "/debug/pprof/goroutine?debug=2")
            (stage.folder / "goroutines.txt").write_bytes(dump)
    with suppress(OSError, admin.AdminError):
        stats = await admin.stats(stage.folder / ADMIN)
        (stage.folder / "stats.json").write_bytes(msgspec.json.format(msgspec.json.encode(stats)))


async def _settle(stage: Stage) -> None:
    """Give each client with a bound of its own the time to hold what was written by now, for it may be in a gap."""
    written = [int(line["rv"]) for line in stage.journal("writer").lines() if line["event"] == "written"]

    def holds(line: dict[str, Any]) -> bool:
        return bool(line["event"] == "object" and line["type"] != "BOOKMARK" and int(line["rv"]) >= written[-1])

    for name in stage.cell.clients:
        chain = stage.cell.chain(name)
        if chain.client.max_staleness_ms is not None and name in stage.processes:
            bound_s = predict(chain, stage.cell.fault).bound_s
            assert bound_s is not None
            stage.say(f"waiting for {name}")
            await stage.journal(name).wait_for(holds, bound_s)


async def _stop_all(stage: Stage) -> None:
    stage.expected_to_end |= stage.processes.keys()
    order = ("exec", *stage.cell.clients, "poller", "writer", "gateway")
    for names in (order, [name for name in stage.processes if name.startswith("apiserver")], ["store"]):
        running = [stage.processes[name] for name in names if name in stage.processes]
        await asyncio.gather(*(one.stop(patience_s=2.0) for one in running if one.returncode is None))
    if stage.capture is not None:
        stage.capture.close()
        key_log = stage.folder / KEY_LOG
        keys = key_log.read_bytes() if key_log.exists() else b""
        stage.capture.write(stage.folder / "client-leg.pcapng", keys, ["client"])
        server_leg = ["gateway", *(name for name in SUBNETS if name.startswith("apiserver"))]
        stage.capture.write(stage.folder / "server-leg.pcapng", keys, server_leg)
        if "store" in _captured(stage.cell.fault):
            stage.capture.write(stage.folder / "store-leg.pcapng", interfaces=["store"])
    shutil.rmtree(stage.folder / ".kube", ignore_errors=True)
    for path in stage.folder.iterdir():
        if path.name in {KEY_LOG, ADMIN, PPROF} or (path.is_file() and path.stat().st_size == 0):
            path.unlink()
