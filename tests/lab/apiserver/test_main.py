"""The process itself, over a real store process: its lines, its signals, and the real kubectl."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.apiserver.peers import Files, Http2Client, run

TOKEN = "token-that-is-secret"
LIMIT_S = 20.0
KUBECTL = Path(sys.executable).with_name("kubectl")
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A process of the lab, with the lines that it wrote so far."""

    def __init__(self, folder: Path, name: str, module: str, config: dict[str, Any]) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        self.output = folder / f"{name}.jsonl"
        command = [sys.executable, "-m", module, "--config", str(path)]
        with self.output.open("w") as out, (folder / f"{name}.err").open("w") as err:
            self.process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, start_new_session=True)
        self.errors = folder / f"{name}.err"

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def until(self, event: str) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_S
        while not (found := self.events(event)):
            assert time.monotonic() < deadline, f"no {event}: {self.output.read_text()} {self.errors.read_text()}"
            assert self.process.poll() is None or self.events(event), self.errors.read_text()
            time.sleep(0.02)
        return found[0]

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(LIMIT_S)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, files: Files) -> Iterator[Start]:
    """Start an apiserver with these settings beside the usual ones."""
    processes: list[Process] = []
    (tmp_path / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')

    def started(**settings: Any) -> Process:
        config = {
            "name": "apiserver-1",
            "address": "127.0.0.1",
            "port": 0,
            "ca": str(files.ca),
            "certificate": str(files.certificate),
            "private_key": str(files.private_key),
            "token_file": "tokens.csv",
            "store_address": "127.0.0.1",
            "store_port": 1,
            "watch_grace_ms": 200,
        }
        processes.append(Process(tmp_path, "apiserver", "unblink.lab.apiserver", config | settings))
        return processes[-1]

    yield started
    for each in processes:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.fixture
def store_port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    store = Process(tmp_path, "store", "unblink.lab.apiserver.store", {"address": "127.0.0.1", "port": port})
    store.until("ready")
    yield port
    store.end()


class Kubectl:
    def __init__(self, folder: Path, files: Files, port: int) -> None:
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(files.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "current-context": "x",
        }
        self.config = folder / "kubeconfig.json"
        self.config.write_text(json.dumps(config))
        self.environment = {"KUBECONFIG": str(self.config), "HOME": str(folder), "PATH": os.environ["PATH"]}

    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [KUBECTL, *arguments], input=stdin, capture_output=True, env=self.environment, timeout=LIMIT_S, check=False
        )

    def in_terminal(self, *arguments: str) -> tuple[int, bytes]:
        """Exit code and the first nine bytes of output."""
        ours, theirs = os.openpty()
        try:
            process = subprocess.Popen(
                [KUBECTL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment
            )
            return process.wait(LIMIT_S), os.read(ours, 9)
        finally:
            os.close(ours)
            os.close(theirs)


def test_kubectl_exec(tmp_path: Path, files: Files, start: Start, store_port: int) -> None:
    apiserver = start(store_port=store_port)
    kubectl = Kubectl(tmp_path, files, apiserver.until("ready")["port"])
    deadline = time.monotonic() + LIMIT_S
    while kubectl("get", "--raw", "/readyz").returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    created = kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(POD).encode())
    assert created.returncode == 0, created
    assert kubectl("exec", "p", "--", "echo", "hi").stdout == b"hi\n"
    failed = kubectl("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (failed.returncode, failed.stdout) == (3, b"out\n")
    assert failed.stderr == b"err\ncommand terminated with exit code 3\n"
    assert kubectl("exec", "-i", "p", "--", "cat", stdin=b"in\n" * 100_000).stdout == b"in\n" * 100_000
    assert kubectl.in_terminal("exec", "-it", "p", "--", "sh", "-c", "tty; exit 7") == (7, b"/dev/pts/")
    absent = kubectl("exec", "q", "--", "true")
    assert (absent.returncode, b'pods "q" not found' in absent.stderr) == (1, True)
    assert apiserver.end() == 0
    assert TOKEN not in apiserver.output.read_text() and not apiserver.errors.read_text()


def test_without_its_store_it_keeps_trying_and_is_not_ready(tmp_path: Path, files: Files, start: Start) -> None:
    port = free_port()
    apiserver = start(store_port=port)
    kubectl = Kubectl(tmp_path, files, apiserver.until("ready")["port"])
    assert apiserver.until("store-unreachable")["port"] == port
    assert kubectl("get", "--raw", "/readyz").returncode == 1
    store = Process(tmp_path, "store", "unblink.lab.apiserver.store", {"address": "127.0.0.1", "port": port})
    try:
        apiserver.until("store-reached")
        assert kubectl("get", "--raw", "/readyz").stdout == b"ok"
        assert apiserver.end() == 0
    finally:
        store.end()


def test_sigterm_fails_readyz_serves_on_and_ends_the_watch_cleanly(
    tmp_path: Path, files: Files, start: Start, store_port: int
) -> None:
    apiserver = start(store_port=store_port, shutdown_delay_ms=1500, watch_grace_ms=300)
    port = apiserver.until("ready")["port"]
    bearer = [("authorization", f"Bearer {TOKEN}")]

    async def scenario() -> None:
        async with Http2Client.open(port, files) as client:
            status, number = "", 1
            while status != "200":
                client.request(number, "/readyz")
                status = (await client.response(number)).headers[":status"]
                number += 2
            watch = number + 2
            client.request(watch, "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0", headers=bearer)
            await client.until(lambda frame: frame.stream_id == watch)
            apiserver.process.terminate()
            apiserver.until("draining")
            client.request(watch + 2, "/readyz")
            assert (await client.response(watch + 2)).headers[":status"] == "500"
            client.request(watch + 4, "/api/v1/namespaces", headers=bearer)
            assert (await client.response(watch + 4)).headers[":status"] == "200"
            end = await client.response(watch)
            assert end.reset is None and end.goaway is not None and end.goaway.last_stream_id == watch + 4

    run(scenario())
    assert apiserver.process.wait(LIMIT_S) == 0
    goaway, draining = apiserver.events("goaway")[0]["t"], apiserver.events("draining")[0]["t"]
    assert 1.5 <= goaway - draining < 3


def test_a_second_sigterm_ends_at_once(start: Start, store_port: int) -> None:
    apiserver = start(store_port=store_port, shutdown_delay_ms=600_000)
    apiserver.until("ready")
    apiserver.process.terminate()
    apiserver.until("draining")
    assert apiserver.end() == 0
    assert not apiserver.events("goaway")


def test_signals_make_it_deaf_and_let_it_hear(start: Start, files: Files) -> None:
    apiserver = start()
    port = apiserver.until("ready")["port"]
    apiserver.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + LIMIT_S
    while not (deaf := apiserver.events("deaf")) and not apiserver.events("deaf-failed"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if deaf:
        with pytest.raises(TimeoutError), socket.create_connection(("127.0.0.1", port), timeout=0.3):
            pass
    apiserver.process.send_signal(signal.SIGUSR2)
    apiserver.until("hearing")
    socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
    assert apiserver.end() == 0


def test_what_it_cannot_serve_with_is_one_fatal_line_and_exit_code_2(
    tmp_path: Path, files: Files, start: Start
) -> None:
    (tmp_path / "bad.csv").write_text(f"{TOKEN}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases: list[tuple[dict[str, Any], str]] = [
            ({"port": port}, f"cannot listen on 127.0.0.1 port {port}: Address already in use"),
            ({"address": "192.0.2.1"}, "cannot listen on 192.0.2.1 port 0: Cannot assign requested address"),
            ({"port": 99_999}, "cannot listen on 127.0.0.1 port 99999"),
            ({"ca": "nothing.pem"}, "nothing.pem"),
            ({"private_key": str(files.ca)}, str(files.ca)),
            ({"token_file": "bad.csv"}, "bad.csv: line 1"),
            ({"token_file": "none.csv"}, "none.csv"),
            ({"nonsense": 1}, "nonsense"),
        ]
        for settings, words in cases:
            refused = start(**settings)
            assert refused.process.wait(LIMIT_S) == 2
            lines = [json.loads(line) for line in refused.output.read_text().splitlines()]
            assert [line["event"] for line in lines] == ["fatal"]
            assert words in lines[0]["error"] and TOKEN not in lines[0]["error"]
            assert not refused.errors.read_text()
