"""A process of a lab host: started in the host's network, ended by its id, its output in a file."""

import asyncio
import functools
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unblink.lab.hosts.network import Host
from unblink.lab.hosts.sandbox import OUTER_NETNS, end_with_parent

NETNS = "UNBLINK_LAB_NETNS"


@dataclass(slots=True)
class Process:
    """One running process of a host; `log` holds its standard output, `errors` its standard error."""

    name: str
    host: Host
    log: Path
    errors: Path
    _popen: subprocess.Popen[bytes]
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None while it runs."""
        return self._popen.returncode

    def send(self, signum: signal.Signals) -> None:
        """Send a signal, unless the process has ended already."""
        self._popen.send_signal(signum)

    def is_stopped(self) -> bool:
        """Whether the kernel reports it as stopped by a signal (waitid(2), WSTOPPED)."""
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        return found is not None and found.si_pid == self.pid

    async def ended(self) -> int:
        """Wait until it has ended; its return code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def stop(self, patience_s: float = 5.0) -> int:
        """SIGTERM (and SIGCONT, should it be frozen), then SIGKILL when it goes on for longer; its return code."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        try:
            async with asyncio.timeout(patience_s):
                return await self.ended()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.ended()


def start(host: Host, name: str, argv: Sequence[str], folder: Path) -> Process:
    """Start `argv` on `host` with `folder` as its working directory and NAME.jsonl there as its standard output.

    It leads a session of its own, so that a terminal's Ctrl-C is the lab's business alone, and dies with the lab.

    Raises:
        OSError: the program is not there, or the disk is full.
    """
    log, errors = folder / f"{name}.jsonl", folder / f"{name}.err"
    with host.entered(), log.open("ab") as out, errors.open("ab") as err:
        netns = str(Path("/proc/thread-self/ns/net").stat().st_ino)
        variables = {**os.environ, NETNS: netns, "HOME": str(folder)}
        variables.setdefault(OUTER_NETNS, netns)
        popen = subprocess.Popen(
            argv,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=functools.partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - the lab has no threads that hold locks here
        )
    process = Process(name, host, log, errors, popen)
    _watch(process)
    return process


def _watch(process: Process) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process._popen.wait()
        process._ended.set()

    loop.add_reader(pidfd, reap)
