"""The folder of a run: named by date, locked while the run lives, `latest` beside it."""

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

RUN = "UNBLINK_LAB_RUN"
"""In the environment of every process of a run: its folder."""

LOCK, SECRETS, LATEST = ".running", "secrets", "latest"
LEAST_FREE_BYTES = 256 << 20


class NoRoom(Exception):
    """The run's folder cannot be made or written; the text says why."""


@contextlib.contextmanager
def run_folder(out: Path, scenario: str, started: datetime) -> Iterator[Path]:
    """A new folder below `out`, locked until the block ends; its secrets are gone then, however it ended.

    Raises:
        NoRoom: `out` cannot be written, or has less than 256 MB free.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
        if free < LEAST_FREE_BYTES:
            raise NoRoom(f"{out}: only {free >> 20} MB free, a run needs {LEAST_FREE_BYTES >> 20} MB")
        folder = _new(out.resolve(), f"{started:%Y-%m-%dT%H-%M-%SZ}-{scenario}")
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise NoRoom(f"{out}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = os.environ.get(RUN)
        os.environ[RUN] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ[RUN]
            else:
                os.environ[RUN] = before
            _remove_leftovers(folder)


def point_latest(folder: Path) -> None:
    """Make `latest` beside the folder a link to it, in one step."""
    link = folder.parent / f".{LATEST}-{folder.name}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / LATEST)


def clean(out: Path) -> list[str]:
    """Remove what runs below `out` left that were cut short (SIGKILL, a crash): processes, secrets, sockets, locks.

    Runs that are still going on are left alone; evidence stays. Returns what was removed, a line each.
    """
    removed = []
    for lock_path in sorted(out.glob(f"*/{LOCK}")):
        folder = lock_path.parent.resolve()
        with lock_path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            processes = list(_processes_of(folder))
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _remove_leftovers(folder)
        removed.append(f"{folder.name}: unfinished; {len(processes)} processes ended, secrets removed")
    return removed


def _new(out: Path, name: str) -> Path:
    for number in range(1, 100):
        folder = out / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise NoRoom(f"{out}: there are 99 runs called {name} already")


def _remove_leftovers(folder: Path) -> None:
    shutil.rmtree(folder / SECRETS, ignore_errors=True)
    for pattern in ("cells/*/*.sock", "cells/*/tls-keys.log"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # a run that got nowhere leaves no empty folder


def _processes_of(folder: Path) -> Iterator[int]:
    wanted = f"{RUN}={folder}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0"):
                yield int(environ.parent.name)
