"""The client-go peer as the lab runs it; its own Go tests hold it to client-go's policy."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PEER = Path(__file__).resolve().parents[2] / "peers" / "client-go"
BINARY = PEER / "bin" / "client-go-informer"

pytestmark = pytest.mark.needs_go

UNUSED = "https://127.0.0.1:1"  # nobody listens on tcpmux
IN_THE_LABS_NETWORK = "https://198.18.0.1:6443"


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "lab", "cluster": {"server": server}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
                "users": [{"name": "lab", "user": {"token": "t"}}],
                "current-context": "lab",
            }
        )
    )
    return path


def test_its_own_tests_pass_and_vet_finds_nothing() -> None:
    """With the flags of the build, so that what the build compiled is not compiled again."""
    done = subprocess.run(
        ["go", "test", "-trimpath", "-buildvcs=false", "-vet=all", "./..."],
        cwd=PEER,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def informer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The peer on a server that is not there, with pprof on a unix socket, after its first line."""
    config = str(kubeconfig(tmp_path, UNUSED))
    command = [str(BINARY), "-kubeconfig", config, "-namespace", "lab", "-pprof", "pprof.sock"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        yield child
        child.kill()


def test_it_says_what_it_does_on_the_clock_of_the_machine(informer: subprocess.Popen[str], tmp_path: Path) -> None:
    assert informer.stdout is not None
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    lines = [json.loads(informer.stdout.readline()) for _ in range(2)]
    assert [line["event"] for line in lines] == ["ready", "ended"]
    assert lines[1]["by"] == "refused"
    assert before - 30 < lines[0]["t"] <= lines[1]["t"] <= time.clock_gettime(time.CLOCK_MONOTONIC)
    assert (tmp_path / "pprof.sock").is_socket()

    alive = next(line for text in informer.stdout if (line := json.loads(text))["event"] == "alive")
    assert alive["watch_age_s"] is None
    informer.send_signal(signal.SIGTERM)
    assert informer.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("server", "arguments", "error"),
    [
        (IN_THE_LABS_NETWORK, (), "not one of the lab's"),
        (UNUSED, ("-resource", "deployments.apps"), "give the version too"),
        (UNUSED, ("-pprof", "no/such/folder/pprof.sock"), "no such file or directory"),
    ],
)
def test_it_says_why_it_cannot_begin(tmp_path: Path, server: str, arguments: tuple[str, ...], error: str) -> None:
    done = subprocess.run(
        [BINARY, "-kubeconfig", kubeconfig(tmp_path, server), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    line = json.loads(done.stdout)
    assert line["event"] == "fatal"
    assert error in line["error"]
