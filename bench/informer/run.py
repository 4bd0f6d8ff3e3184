"""One measurement: a feeder and a client, each a process of its own, and what the client saw is checked."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.informer import pods

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600.0
"""How long one client may take in all; the official informer takes about a minute for the events of the full run."""


class Wrong(Exception):
    """A client did not do what it is measured for; the text says which, and what it saw."""


@dataclass(frozen=True)
class Client:
    """A client to measure: ``command`` is followed by the server's URL and the last resourceVersion."""

    name: str
    command: tuple[str, ...]
    coalesces: bool = False
    """Whether its handler may be called less often than there are events."""
    caches: bool = True
    """Whether it holds the pods' versions, so that they can be checked."""
    share: int = 1
    """A slow client is given this part of the events only, from their beginning."""


@dataclass(frozen=True)
class Speed:
    """What one repetition measured."""

    events_per_s: float
    calls: int
    events: int


@dataclass(frozen=True)
class Memory:
    """Resident bytes, as the process stands and after a collection where the client has one of its own."""

    standing_bytes: int
    collected_bytes: int | None


@dataclass(frozen=True)
class Many:
    """Several informers in one process."""

    informers: int
    synced_s: float
    resident_bytes: int
    connections: int


def speed(client: Client, count: int, changes: int, frames: Path | None) -> Speed:
    """Changes of ``count`` pods, from when the feeder begins to send until the client has handled the last.

    :raises Wrong: if the client failed, or did not see every event and hold every last version.
    """
    with feeder(count, changes, frames) as feed:
        last = str(pods.changed_version(count, changes - 1))
        with process(*client.command, feed.url, last) as running:
            running.expect(client.name, "synced")
            began_unix_s = feed.go()
            seen = json.loads(running.line(client.name))
    check(client, seen, count, changes)
    return Speed(changes / (seen["done_unix_s"] - began_unix_s), seen["calls"], seen["events"])


def check(client: Client, seen: dict[str, object], count: int, changes: int) -> None:
    """:raises Wrong: if the client did not see every event, or does not hold every last version."""
    wanted: dict[str, object] = {"events": changes, "last": str(pods.changed_version(count, changes - 1))}
    if client.caches:
        wanted["checksum"] = pods.checksum(count, changes)
    if not client.coalesces:
        wanted["calls"] = changes
    wrong = {name: (seen.get(name), value) for name, value in wanted.items() if seen.get(name) != value}
    if wrong:
        texts = (f"{name} is {got}, expected {value}" for name, (got, value) in wrong.items())
        raise Wrong(f"{client.name}: {', '.join(texts)}")


def memory(client: Client, count: int, frames: Path | None, *, collects: bool) -> Memory:
    """Of a client that holds ``count`` pods.

    :raises Wrong: if the client failed.
    """
    with feeder(count, 0, frames) as feed, process(*client.command, feed.url, "memory") as running:
        running.expect(client.name, "synced")
        standing = resident_bytes(running.child.pid)
        if not collects:
            return Memory(standing, None)
        running.say("collect")
        running.expect(client.name, "collected")
        return Memory(standing, resident_bytes(running.child.pid))


def many(command: tuple[str, ...], informers: int, count: int) -> Many:
    """So many informers of ``count`` pods each in one process, each with its watch.

    :raises Wrong: if they failed.
    """
    name = f"{informers} informers"
    with feeder(count, 0, None) as feed, process(*command, feed.url, str(informers)) as running:
        running.expect(name, "synced")
        took_s, held = running.line(name).split()
        if int(held) != informers * count:
            raise Wrong(f"{name} hold {held} pods, expected {informers * count}")
        connections = sum(str(fd.readlink()).startswith("socket:") for fd in _fds(running.child.pid))
        return Many(informers, float(took_s), resident_bytes(running.child.pid), connections)


def _fds(pid: int) -> Iterator[Path]:
    return Path(f"/proc/{pid}/fd").iterdir()


def resident_bytes(pid: int) -> int:
    """VmRSS of a process, proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Wrong(f"process {pid} ended before its memory was read")


class Process:
    """A child that talks in lines; killed when it takes longer than ``TIMEOUT_S``."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._timer = threading.Timer(TIMEOUT_S, self.child.kill)
        self._timer.daemon = True
        self._timer.start()
        self._errors: list[str] = []
        self._reading = threading.Thread(target=self._read_errors, daemon=True)
        self._reading.start()

    def _read_errors(self) -> None:
        assert self.child.stderr is not None
        self._errors.extend(self.child.stderr)

    def line(self, name: str) -> str:
        """:raises Wrong: if it ends instead."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline().strip()
        if not line:
            self.child.kill()
            self._reading.join()
            said = self._errors[-1].strip() if self._errors else "nothing on standard error"
            raise Wrong(f"{name} ended with {self.child.wait()}: {said}")
        return line

    def expect(self, name: str, wanted: str) -> None:
        """:raises Wrong: if it says something else, or ends."""
        line = self.line(name)
        if line != wanted:
            raise Wrong(f"{name} said {line!r}, expected {wanted!r}")

    def say(self, text: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()

    def end(self) -> None:
        self._timer.cancel()
        self.child.kill()
        self.child.wait()
        self._reading.join()
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def process(*command: str) -> Iterator[Process]:
    running = Process(command)
    try:
        yield running
    finally:
        running.end()


@dataclass(frozen=True)
class Feeder:
    """The feeder's process, seen from here."""

    running: Process
    url: str

    def go(self) -> float:
        """Have it send the changes; when it began, in seconds since the epoch."""
        self.running.say("go")
        return float(self.running.line("feeder"))


@contextmanager
def feeder(count: int, changes: int, frames: Path | None) -> Iterator[Feeder]:
    more = (str(frames),) if frames else ()
    with process(sys.executable, "-m", "bench.informer.feeder", str(count), str(changes), *more) as running:
        yield Feeder(running, f"http://127.0.0.1:{running.line('feeder')}")
