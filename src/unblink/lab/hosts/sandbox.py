"""One process tree in namespaces of its own: what a run makes cannot outlive it.

The function given to `run` is process 1 of a new PID namespace, in a new network and mount namespace,
as an ordinary user in a new user namespace (user_namespaces(7)). When it ends, the kernel ends every
process below it (pid_namespaces(7)), and with the last process its network namespaces go. It ends itself
when its parent does (PR_SET_PDEATHSIG, prctl(2)), so that SIGKILL of the lab leaves nothing.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
OUTER_NETNS = "UNBLINK_LAB_OUTER_NETNS"

_libc = ctypes.CDLL(None, use_errno=True)


class NamespacesForbidden(Exception):
    """This machine or container does not let us make namespaces; the text says which call was refused."""


def why_forbidden() -> str | None:
    """Try to make the lab's namespaces in a child process; the refusal as text, or None when they can be made."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            _unshare_all()
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        except NamespacesForbidden as error:
            os.write(write_end, str(error).encode())
        except OSError as error:
            os.write(write_end, f"net.ipv4.ip_forward: {error.strerror}".encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        reason = pipe.read().decode()
    os.waitpid(pid, 0)
    return reason or None


def run(main: Callable[[], int]) -> int:
    """Run `main` inside new namespaces and return its exit status (128 + N when signal N ended it).

    SIGINT and SIGTERM that reach this process are passed on, so that `main` cleans up before it ends.

    Raises:
        NamespacesForbidden: the kernel refused; nothing was started.
    """
    if reason := why_forbidden():
        raise NamespacesForbidden(reason)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    return _wait_passing_signals(_fork(lambda: _outer(main, parent)))


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent (process `parent`, by its own count) ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() not in {parent, 0}:
        os._exit(128 + signal.SIGKILL)


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def setns(namespace: int, flags: int) -> None:
    """setns(2): the calling thread joins the namespace of an open file. Raises OSError."""
    if _libc.setns(namespace, flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _outer(main: Callable[[], int], parent: int) -> int:
    os.environ[OUTER_NETNS] = str(Path("/proc/self/ns/net").stat().st_ino)
    os.setsid()  # Ctrl-C on the terminal reaches the lab once, passed on by its parent
    _unshare_all()
    end_with_parent(parent)
    return _wait_passing_signals(_fork(lambda: _first_process(main)))


def _first_process(main: Callable[[], int]) -> int:
    end_with_parent(0)
    signal.signal(signal.SIGTERM, _raise_exit)
    return main()


def _raise_exit(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _fork(body: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = body()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait_passing_signals(pid: int) -> int:
    passed = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda signum, _frame: os.kill(pid, signum)) for number in passed}
    try:
        _, status = os.waitpid(pid, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _unshare_all() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    except OSError as user_error:
        try:
            unshare(CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS)
        except OSError:
            raise NamespacesForbidden(f"unshare(2): {user_error.strerror}") from None
