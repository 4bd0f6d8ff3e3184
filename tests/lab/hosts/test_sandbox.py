"""The process tree in namespaces of its own, and that nothing outlives it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unblink.lab.hosts import sandbox

pytestmark = pytest.mark.needs_namespaces


def netns() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


def test_the_first_process_of_its_own_namespaces(tmp_path: Path) -> None:
    before = netns()

    def main() -> int:
        (tmp_path / "seen").write_text(f"{os.getpid()} {netns()} {os.environ[sandbox.OUTER_NETNS]}")
        return 7

    assert sandbox.run(main) == 7
    pid, own, outer = (tmp_path / "seen").read_text().split()
    assert pid == "1"
    assert int(own) != before
    assert int(outer) == before
    assert netns() == before


def test_a_failure_is_an_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ValueError("as the test wants it")

    assert sandbox.run(main) == 1
    assert "as the test wants it" in capfd.readouterr().err


def processes_with(mark: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


PROGRAM = """
import subprocess, sys, time
from unblink.lab.hosts import sandbox
def main():
    try:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("up", flush=True)
        time.sleep(600)
    finally:
        print("cleaned", flush=True)
    return 0
sys.exit(sandbox.run(main))
"""


@pytest.mark.parametrize(
    ("signum", "code", "said"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM, "cleaned"),
        (signal.SIGINT, 128 + signal.SIGINT, "cleaned"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_nothing_outlives_it(signum: signal.Signals, code: int, said: str) -> None:
    mark = f"UNBLINK_TEST_MARK={os.urandom(8).hex()}"
    name, _, value = mark.partition("=")
    lab = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, name: value}, stdout=subprocess.PIPE, text=True
    )
    assert lab.stdout is not None
    with lab.stdout:
        assert lab.stdout.readline() == "up\n"
        assert len(list(processes_with(mark))) == 4
        lab.send_signal(signum)
        assert lab.wait(10) == code
        assert lab.stdout.read().strip() == said
    deadline = time.monotonic() + 5
    while list(processes_with(mark)):
        assert time.monotonic() < deadline, "a process of the lab outlived it"
        os.sched_yield()


def test_where_namespaces_are_forbidden(tmp_path: Path) -> None:
    """Inside, the limit of user namespaces is ours to set to none; without capabilities no other way is left."""

    def main() -> int:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        Path("/proc/sys/user/max_net_namespaces").write_text("0")
        (tmp_path / "why").write_text(sandbox.why_forbidden() or "")
        try:
            sandbox.run(lambda: 0)
        except sandbox.NamespacesForbidden as error:
            (tmp_path / "refused").write_text(str(error))
        return 0

    assert sandbox.run(main) == 0
    assert (tmp_path / "why").read_text().startswith("unshare(2): ")
    assert (tmp_path / "refused").read_text() == (tmp_path / "why").read_text()
