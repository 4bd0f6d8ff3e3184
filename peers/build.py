"""Builds the Go peers into peers/*/bin, and says in one line for each what it did.

Without a Go toolchain, or where the modules cannot be fetched, a peer is left out and the exit code is 0: the lab and
the tests do without it and say so. A peer that does not compile is an error. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FETCH_TIMEOUT_S = 300
BINARIES = {"client-go": "client-go-informer"}


def main() -> int:
    peers = Path(__file__).resolve().parent
    return max(build(peers / folder, binary) for folder, binary in BINARIES.items())


def build(folder: Path, name: str) -> int:
    binary = folder / "bin" / name
    if up_to_date(binary, folder):
        say(name, "is up to date")
        return 0
    go = shutil.which("go")
    if go is None:
        say(name, "left out: there is no Go toolchain on PATH")
        return 0
    try:
        fetch = go_command(folder, go, "mod", "download", timeout_s=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        say(name, f"left out: its modules could not be fetched within {FETCH_TIMEOUT_S} s")
        return 0
    if fetch.returncode != 0:
        say(name, f"left out: its modules could not be fetched: {last_line(fetch.stderr)}")
        return 0
    built = go_command(folder, go, "build", "-trimpath", "-buildvcs=false", "-o", str(binary.relative_to(folder)), ".")
    if built.returncode != 0:
        say(name, f"does not build:\n{built.stderr}")
        return 1
    binary.touch()  # go leaves a binary alone that would come out the same
    say(name, "built")
    return 0


def up_to_date(binary: Path, folder: Path) -> bool:
    if not binary.is_file():
        return False
    sources = [*folder.glob("*.go"), folder / "go.mod", folder / "go.sum"]
    return all(source.stat().st_mtime <= binary.stat().st_mtime for source in sources)


def go_command(folder: Path, *command: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=timeout_s
    )


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "go said nothing"


def say(name: str, text: str) -> None:
    print(f"peers: {name} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
