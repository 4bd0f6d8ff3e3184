"""A store and an embedded apiserver as processes on loopback, and the lab's clients as processes beside them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme

from unblink.client.kubeconfig import load
from unblink.client.transport import connect

PATIENCE_S = 20.0
T = TypeVar("T")


class Process:
    """A process of ours, its JSON lines and its end."""

    def __init__(self, module: str, *arguments: str, folder: Path, log: Path, **environment: str) -> None:
        self.log = log
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        complete = self.log.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

    def wait_for(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait until it has said a thing often enough."""
        return self.wait_until(lambda: found if len(found := self.said(event, **fields)) >= count else None)

    def wait_until(self, condition: Callable[[], T | None]) -> T:
        until = time.monotonic() + PATIENCE_S
        while (result := condition()) is None:
            assert time.monotonic() < until, (self.lines[-9:], self.log.with_suffix(".err").read_text())
            assert self.popen.poll() is None, (self.lines, self.log.with_suffix(".err").read_text())
            time.sleep(0.02)
        return result

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(PATIENCE_S)
        finally:
            self.popen.kill()
            self.popen.wait()


@dataclass
class Rig:
    """The folder that processes run in, and all that were started there."""

    folder: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, module: str, *arguments: str, **environment: str) -> Process:
        log = self.folder / f"{len(self.processes)}.jsonl"
        started = Process(module, *arguments, folder=self.folder, log=log, **environment)
        self.processes.append(started)
        return started

    def client(self, name: str, *arguments: str, **environment: str) -> Process:
        """Start a lab client against the kubeconfig in the folder."""
        flags = ("--kubeconfig", "kubeconfig", "--namespace", "default")
        return self.start(f"unblink.lab.clients.{name}", *flags, *arguments, **environment)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An empty folder to run processes in; none outlives the test."""
    made = Rig(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(rig: Rig) -> Process:
    """A store and one apiserver, with ``kubeconfig`` in the rig's folder; the apiserver's process."""
    authority = trustme.CA()
    certificate = authority.issue_cert("kubernetes", "127.0.0.1")
    (rig.folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (rig.folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (rig.folder / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    (rig.folder / "tokens.csv").write_text('test-token,admin,admin,"system:masters"\n')
    (rig.folder / "token").write_text("test-token\n")
    (rig.folder / "store.json").write_text(json.dumps({"address": "127.0.0.1", "port": 0}))
    store = rig.start("unblink.lab.apiserver.store", "--config", "store.json")
    port = store.wait_for("ready")[0]["port"]
    config = {
        "name": "apiserver-1",
        "address": "127.0.0.1",
        "port": 0,
        "ca": "ca.crt",
        "certificate": "tls.crt",
        "private_key": "tls.key",
        "token_file": "tokens.csv",
        "store_address": "127.0.0.1",
        "store_port": port,
        "watch_grace_ms": 100,
    }
    (rig.folder / "apiserver.json").write_text(json.dumps(config))
    apiserver = rig.start("unblink.lab.apiserver", "--config", "apiserver.json")
    write_kubeconfig(rig, f"https://127.0.0.1:{apiserver.wait_for('ready')[0]['port']}")
    # It says ready before it has read its store once, and answers 429 until then.
    apiserver.wait_until(lambda: ask(rig, "GET", "/readyz") == 200 or None)
    return apiserver


def ask(rig: Rig, method: str, path: str, body: object = None) -> int:
    """One request to the server of the rig's kubeconfig; the status."""

    async def run() -> int:
        async with await connect(load(rig.folder / "kubeconfig")) as connection:
            content = b"" if body is None else json.dumps(body).encode()
            response = await connection.request(method, path, {"content-type": "application/json"}, content)
            await response.body(100_000)
            return response.status

    return asyncio.run(run())


def write_kubeconfig(rig: Rig, server: str) -> None:
    """Point the rig's kubeconfig to a server."""
    (rig.folder / "kubeconfig").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
        "contexts: [{name: lab, context: {cluster: lab, user: lab}}]\n"
        f"clusters: [{{name: lab, cluster: {{server: '{server}', certificate-authority: ca.crt,"
        " tls-server-name: kubernetes}}]\n"
        "users: [{name: lab, user: {tokenFile: token}}]\n"
    )
