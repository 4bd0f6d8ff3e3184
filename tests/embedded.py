"""The embedded apiserver and its store as processes on loopback, for tests of programs that need a cluster."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unblink.lab import secrets

LIMIT_S = 20.0
HOST = "127.0.0.1"


@dataclass
class Cluster:
    """One apiserver over one store. The kubeconfig's context has the namespace ``lab``."""

    folder: Path
    kubeconfig: Path
    made: secrets.Secrets
    store_port: int
    port: int
    _processes: dict[str, "subprocess.Popen[str]"]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request that succeeds; the JSON of its answer."""
        import ssl

        context = ssl.create_default_context(cafile=str(self.made.tls.ca))
        context.check_hostname = False
        connection = http.client.HTTPSConnection(HOST, self.port, context=context, timeout=LIMIT_S)
        headers = {"authorization": f"Bearer {self.made.token_file.read_text()}", "content-type": "application/json"}
        if method == "PATCH":
            headers["content-type"] = "application/merge-patch+json"
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status in (200, 201), answer
        return json.loads(answer)

    def stop_apiserver(self) -> None:
        """End the apiserver at once, as a machine that is switched off does."""
        self._processes["apiserver"].kill()
        self._processes["apiserver"].wait(LIMIT_S)

    def start_apiserver(self) -> None:
        """Start it, on the port that it had before if it ran."""
        tls = self.made.tls
        config = {
            "name": "apiserver",
            "address": HOST,
            "port": self.port,
            "ca": str(tls.ca),
            "certificate": str(tls.certificate),
            "private_key": str(tls.private_key),
            "token_file": str(self.made.token_auth_file),
            "store_address": HOST,
            "store_port": self.store_port,
            "bookmark_period_ms": 1000,
        }
        self.port = self._start("apiserver", "unblink.lab.apiserver", config)
        self._until_ready()

    def start_store(self) -> None:
        """Start the store."""
        self.store_port = self._start("store", "unblink.lab.apiserver.store", {"address": HOST, "port": 0})

    def end(self) -> None:
        """End both."""
        for process in self._processes.values():
            process.kill()
            process.wait(LIMIT_S)
            assert process.stdout is not None
            process.stdout.close()

    def _start(self, name: str, module: str, config: Mapping[str, Any]) -> int:
        """The port on which it is ready."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", module, "--config", str(path)]
        with (self.folder / f"{name}.err").open("a") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        if before := self._processes.get(name):
            assert before.stdout is not None
            before.stdout.close()
        self._processes[name] = process
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if said["event"] == "ready":
                return int(said["port"])
        raise AssertionError((self.folder / f"{name}.err").read_text())

    def _until_ready(self) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            try:
                self.ask("GET", "/api/v1/namespaces")
            except (OSError, AssertionError):
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            else:
                return


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster with an empty store."""
    made = secrets.make(folder / "secrets")
    running = Cluster(folder, folder / "kubeconfig", made, 0, 0, {})
    try:
        running.start_store()
        running.start_apiserver()
        secrets.write_kubeconfig(running.kubeconfig, f"https://{HOST}:{running.port}", made)
        yield running
    finally:
        running.end()


def pod(name: str, namespace: str = "lab", **labels: str) -> dict[str, Any]:
    """A pod that nobody runs."""
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    spec = {"containers": [{"name": "c", "image": "c:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
