"""The clients to measure: ours from this environment, client-go built here, each Python peer in its own environment."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.informer.feeder import json_lines
from bench.informer.run import ROOT, Client

ENVIRONMENTS = ROOT / "bench" / ".envs"
GO = ROOT / "peers" / "bench-informer"
INSTALL_TIMEOUT_S = 600
SLOW_SHARE = 20
"""The Python peers take a millisecond and more for an event; all events would keep the run for ten minutes."""

CLIENT_GO_JSON = "client-go typed, JSON"
CLIENT_GO_PROTOBUF = "client-go typed, protobuf"
CLIENT_GO_METADATA = "client-go metadata, protobuf"
OFFICIAL = "kubernetes SharedInformer"
OURS, OURS_FULL, OURS_METADATA = "unblink", "unblink, full decode", "unblink, metadata only"
RAW, MSGSPEC = "raw read", "msgspec loop"

PYTHON_PEERS = {
    OFFICIAL: ("official", "kubernetes==37.0.2"),
    "kubernetes_asyncio Watch": ("asyncio_watch", "kubernetes_asyncio==36.1.0"),
    "lightkube watch": ("lightkube_watch", "lightkube==1.0.1"),
}


@dataclass(frozen=True)
class LeftOut:
    """A peer that cannot be measured here, and why."""

    name: str
    why: str


def ours(mode: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "bench.informer.clients.ours", mode)


def our_clients() -> list[Client]:
    return [
        Client(OURS, ours("json"), coalesces=True),
        Client(OURS_FULL, ours("full")),
        Client(OURS_METADATA, ours("metadata"), coalesces=True),
    ]


def ceilings() -> list[Client]:
    """What Python can do with the same bytes and no client."""
    return [
        Client(MSGSPEC, (sys.executable, "-m", "bench.informer.clients.bare", "msgspec")),
        Client(RAW, (sys.executable, "-m", "bench.informer.clients.bare", "raw"), caches=False),
    ]


def client_go() -> tuple[list[Client], Path | None, list[LeftOut]]:
    """client-go's informers, and the file of the protobuf templates that the feeder needs for them."""
    program = GO / "bin" / "bench-informer"
    names = {CLIENT_GO_JSON: "json", CLIENT_GO_PROTOBUF: "protobuf", CLIENT_GO_METADATA: "metadata"}
    go = shutil.which("go")
    if go is None:
        return [], None, [LeftOut(name, "there is no Go toolchain on PATH") for name in names]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    build = (go, "build", "-trimpath", "-buildvcs=false", "-o", str(program.relative_to(GO)), ".")
    try:
        _run(build, cwd=GO, environment=environment)
    except _Failed as failure:
        return [], None, [LeftOut(name, f"bench-informer does not build: {failure}") for name in names]
    frames = program.with_name("templates.bin")
    frames.write_bytes(subprocess.run((program, "encode"), input=json_lines(), check=True, capture_output=True).stdout)
    return [Client(name, (str(program), mode)) for name, mode in names.items()], frames, []


def python_peers() -> tuple[list[Client], list[LeftOut]]:
    """The Python clients, installed where they are not yet."""
    made: list[Client] = []
    left_out: list[LeftOut] = []
    for name, (module, requirement) in PYTHON_PEERS.items():
        try:
            python = environment(requirement)
        except _Failed as failure:
            left_out.append(LeftOut(name, f"{requirement} cannot be installed: {failure}"))
        else:
            made.append(Client(name, (str(python), "-m", f"bench.informer.clients.{module}"), share=SLOW_SHARE))
    return made, left_out


def environment(requirement: str) -> Path:
    """The interpreter of the environment that has just this; a stamp says that it is complete."""
    folder = ENVIRONMENTS / requirement.replace("==", "-")
    python, stamp = folder / "bin" / "python", folder / "complete"
    if not stamp.is_file():
        print(f"bench: installing {requirement}", file=sys.stderr)
        _run((sys.executable, "-m", "venv", "--clear", str(folder)))
        _run((str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement))
        stamp.touch()
    return python


class _Failed(Exception):
    """The last line that a program said."""


def _run(command: tuple[str, ...], cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Failed(str(error)) from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise _Failed(lines[-1] if lines else f"exit code {done.returncode}")
