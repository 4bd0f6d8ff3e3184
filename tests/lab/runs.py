"""Start `unblink lab` as its user does, and read what it found."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from unblink.lab import folder
from unblink.lab.result import CellResult, Result


@dataclass(frozen=True)
class Run:
    """A finished run: its exit code, what it printed, its folder."""

    code: int
    out: str
    errors: str
    place: Path

    @property
    def result(self) -> Result:
        return msgspec.json.decode((self.place / "result.json").read_bytes(), type=Result)

    def rows(self, cell: str) -> list[CellResult]:
        return [row for row in self.result.cells if row.id == cell]

    def lines(self, cell: str, name: str) -> list[dict[str, Any]]:
        """The JSON lines of one file of a cell."""
        text = (self.place / "cells" / cell / name).read_bytes()
        return [msgspec.json.decode(line) for line in text.splitlines()]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unblink", "lab", *arguments]


def start(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A run that goes on in the background; its progress comes on stderr."""
    argv = command("run", "--out", str(out), *arguments)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(out: Path, *arguments: str) -> Run:
    argv = command("run", "--out", str(out), *arguments)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    return Run(done.returncode, done.stdout, done.stderr, (out / "latest").resolve())


def processes(out: Path) -> list[int]:
    """Processes that any run below `out` left, zombies of foreign parents excepted."""
    mark, found = f"{folder.RUN}={out.resolve()}".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def write(path: Path, *cells: str, clients: str = "[reflector]", observe_s: float = 10) -> str:
    """A scenario of a few cells, given as YAML flow mappings; its path."""
    lines = [
        "description: of a test",
        f"clients: {clients}",
        "event_period_ms: 200",
        f"observe_s: {observe_s}",
        "cells:",
    ]
    path.write_text("\n".join([*lines, *(f"  - {cell}" for cell in cells)]) + "\n")
    return str(path)


PING = "{upstream: {http2_ping: {interval_ms: 1000, timeout_ms: 500}}}"
QUICK = f"{{id: ping, cure: HTTP/2 PING, fault: drop, gateway: {PING}}}"
