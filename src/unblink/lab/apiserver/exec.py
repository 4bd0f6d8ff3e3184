"""Pod exec: a real child process of this apiserver behind a WebSocket session.

Channels of ``v5.channel.k8s.io`` (KEP-4006): the first byte of each message is 0 stdin, 1 stdout, 2 stderr, 3 error (a
Status), 4 resize, 255 close of the channel named by the next byte (v5 only). SPDY is not offered: kubectl asks for a
WebSocket first and needs SPDY only where that fails.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from unblink.lab.apiserver.asgi import App, Receive, Scope, Send, answer
from unblink.lab.apiserver.statuses import ApiError, bad_request, failure, forbidden

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32_768
OUTPUT_WAIT_S = 1.0  # for output of the ended process's own children
FindPod = Callable[[str, str], Awaitable[object]]  # by namespace and name; raises the ApiError of an absent pod
_PATH = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/exec")


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The query of PodExecOptions."""

    namespace: str
    pod: str
    command: tuple[str, ...]
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


class TerminalSize(msgspec.Struct, rename="pascal"):
    """A message of the resize channel."""

    width: int
    height: int


def parse(path: str, query: bytes) -> ExecRequest | None:
    """The exec request that path and query stand for; None where the path is not one of exec."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    flags = {name: values.get(name, ["false"])[0] in {"true", "1"} for name in ("stdin", "stdout", "stderr", "tty")}
    command = tuple(values.get("command", ()))
    return ExecRequest(namespace=unquote(match[1]), pod=unquote(match[2]), command=command, **flags)


def with_exec(app: App, find_pod: FindPod, *, enabled: bool) -> App:
    """``app`` with exec served beside it."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        request = parse(scope["path"], scope["query_string"])
        if request is None:
            if scope["type"] == "websocket":
                await answer(scope, send, bad_request("only exec is served over a WebSocket"))
            else:
                await app(scope, receive, send)
            return
        try:
            await _check(request, scope, find_pod, enabled=enabled)
        except ApiError as error:
            await answer(scope, send, error)
            return
        protocol = next(name for name in PROTOCOLS if name in scope["subprotocols"])
        await send({"type": "websocket.accept", "subprotocol": protocol})
        await _session(request, receive, send)

    return served


async def _check(request: ExecRequest, scope: Scope, find_pod: FindPod, *, enabled: bool) -> None:
    """:raises ApiError: what the request is refused with."""
    if scope["state"].get("user") is None:
        verb = "create" if scope["method"] == "POST" else "get"
        raise forbidden("system:anonymous", verb, "", "pods/exec", request.namespace, request.pod)
    await find_pod(request.namespace, request.pod)
    if not enabled:
        raise failure(403, "exec is switched off on this apiserver", "Forbidden")
    if scope["type"] != "websocket":
        raise bad_request("Upgrade request required")
    if not any(name in PROTOCOLS for name in scope["subprotocols"]):
        raise bad_request(f"none of the protocols {', '.join(PROTOCOLS)} was asked for")
    if not request.command:
        raise bad_request("you must specify at least 1 command")
    if not (request.stdin or request.stdout or request.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")


async def _session(request: ExecRequest, receive: Receive, send: Send) -> None:
    """Run the command until it or the session ends; what it started ends with the session."""
    process, ends = None, _Ends()
    pumps: list[asyncio.Task[None]] = []
    try:
        try:
            process = await _spawn(request, ends)
        except OSError as error:
            await _send_status(send, _not_started(request.command[0], error))
            return
        feeding = asyncio.create_task(_feed(receive, ends))
        outputs = [asyncio.create_task(_pump(fd, channel, send)) for channel, fd in ends.outputs.items()]
        pumps = [feeding, *outputs]
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({feeding, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            if outputs:
                await asyncio.wait(outputs, timeout=OUTPUT_WAIT_S)
            await _send_status(send, exit_status(ended.result()))
    finally:
        for task in pumps:
            task.cancel()
        ends.close()
        if process is not None:
            _kill_session(process.pid)
            await asyncio.shield(process.wait())


class _Ends:
    """Our ends of the child's pipes or terminal."""

    def __init__(self) -> None:
        self.stdin: int | None = None
        self.outputs: dict[int, int] = {}
        self.terminal: int | None = None

    def close_stdin(self) -> None:
        if self.stdin is not None:
            asyncio.get_running_loop().remove_writer(self.stdin)
            os.close(self.stdin)
            self.stdin = None

    def close(self) -> None:
        self.close_stdin()
        for fd in self.outputs.values():
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self.outputs.clear()
        self.terminal = None


def _kill_session(leader: int) -> None:
    """SIGKILL every process of the session: an interactive shell gives each of its jobs a process group of its own."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


async def _spawn(request: ExecRequest, ends: _Ends) -> asyncio.subprocess.Process:
    """Start the command in a session of its own. :raises OSError: it cannot be started."""
    theirs: list[int] = []
    options: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.DEVNULL}
    options["stderr"] = asyncio.subprocess.DEVNULL
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOSTNAME": request.pod, "HOME": "/"}
    try:
        if request.tty:
            ours, child = pty.openpty()
            theirs.append(child)
            ends.outputs[STDOUT] = ends.terminal = ours
            ends.stdin = os.dup(ours)
            options.update(stdin=child, stdout=child, stderr=child)
            options["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            environment["TERM"] = "xterm"
        else:
            if request.stdin:
                child, ends.stdin = os.pipe()
                theirs.append(child)
                options["stdin"] = child
            for channel, name, wanted in (
                (STDOUT, "stdout", request.stdout),
                (STDERR, "stderr", request.stderr),
            ):
                if wanted:
                    ends.outputs[channel], child = os.pipe()
                    theirs.append(child)
                    options[name] = child
        for fd in (ends.stdin, *ends.outputs.values()):
            if fd is not None:
                os.set_blocking(fd, False)
        return await asyncio.create_subprocess_exec(
            *request.command, env=environment, cwd="/", start_new_session=True, **options
        )
    finally:
        for fd in theirs:
            os.close(fd)


async def _feed(receive: Receive, ends: _Ends) -> None:
    """Carry the client's messages to the process until the client leaves."""
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] != "websocket.receive" or not message["bytes"]:
            continue
        channel, data = message["bytes"][0], message["bytes"][1:]
        if channel == STDIN and ends.stdin is not None:
            try:
                await _write_all(ends.stdin, data)
            except OSError as error:
                if error.errno not in {errno.EPIPE, errno.EIO}:
                    raise
                ends.close_stdin()
        elif channel == CLOSE and data[:1] == b"\0" and ends.terminal is None:
            ends.close_stdin()
        elif channel == RESIZE and ends.terminal is not None:
            with contextlib.suppress(msgspec.DecodeError, struct.error):
                size = msgspec.json.decode(data, type=TerminalSize)
                fcntl.ioctl(ends.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))


async def _pump(fd: int, channel: int, send: Send) -> None:
    """Carry one output of the process to the client until it ends."""
    async for data in _chunks(fd):
        await send({"type": "websocket.send", "bytes": bytes([channel]) + data})


async def _chunks(fd: int) -> AsyncIterator[bytes]:
    while True:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            await _event(fd, asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader)
            continue
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal says that its last user has gone
                raise
            return
        if not data:
            return
        yield data


async def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            await _event(fd, asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer)


async def _event(fd: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    """Wait until ``fd`` can be read or written."""
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


async def _send_status(send: Send, status: dict[str, Any]) -> None:
    await send({"type": "websocket.send", "bytes": bytes([ERROR]) + msgspec.json.encode(status)})


def exit_status(code: int) -> dict[str, Any]:
    """Status of the error channel, in the kubelet's words, for a return code (negative: ended by that signal)."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    code = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _not_started(program: str, error: OSError) -> dict[str, Any]:
    message = f'Internal error occurred: error executing command in container: exec: "{program}": {error.strerror}'
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }
