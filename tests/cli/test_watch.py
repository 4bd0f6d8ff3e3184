"""`unblink watch` as its user meets it, over the embedded apiserver."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.embedded import Cluster, cluster, pod

from unblink.cli import main

LIMIT_S = 20.0
PODS = "/api/v1/namespaces/lab/pods"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as one:
        one.ask("POST", PODS, pod("web-0", app="web"))
        one.ask("POST", PODS, pod("db-0", app="db"))
        yield one


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unblink", "watch", *arguments]


def environment(kubeconfig: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    return {**kept, "KUBECONFIG": str(kubeconfig)}


class Watching:
    """A watch that goes on: what it has written by now."""

    def __init__(self, of: Cluster, *arguments: str) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            command(*arguments),
            env=environment(of.kubeconfig),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._threads = [
            threading.Thread(target=_collect, args=(self.process.stdout, self.lines)),
            threading.Thread(target=_collect, args=(self.process.stderr, self.errors)),
        ]
        for thread in self._threads:
            thread.start()

    def until(self, condition: Callable[["Watching"], object]) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not condition(self):
            assert time.monotonic() < deadline_s, (self.lines, self.errors)
            assert self.process.poll() is None, (self.lines, self.errors)
            time.sleep(0.01)

    def end(self) -> int:
        """Interrupt it, as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended; its exit code."""
        code = self.process.wait(LIMIT_S)
        for thread in self._threads:
            thread.join(LIMIT_S)
        return code


def watched(of: Cluster, *arguments: str, lines: int) -> Watching:
    """A watch that was interrupted when it was fresh and had written this many lines."""
    watching = Watching(of, *arguments)
    try:
        watching.until(lambda one: len(one.lines) >= lines and any("fresh" in line for line in one.errors))
    finally:
        code = watching.end()
    assert code == 130
    return watching


def _collect(pipe: Any, lines: list[str]) -> None:
    with pipe:
        for line in pipe:
            lines.append(line)  # noqa: PERF402  # each as it comes


def test_a_table_of_what_there_is_and_a_word_on_how_fresh_it_is(running: Cluster) -> None:
    done = watched(running, "po", "-l", "app=web", lines=2)
    assert re.fullmatch(
        r"NAME    READY   STATUS    RESTARTS   AGE\nweb-0   0/1     Pending   0          \d+s\n", "".join(done.lines)
    )
    assert re.fullmatch(
        r"unblink: fresh: every change older than \d\.\d s is here \(\w+ at resourceVersion \d+, .*\)\n",
        done.errors[-1],
    )


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["pods", "-A", "-o", "name"], ["pod/db-0", "pod/web-0"]),
        (["pods", "-n", "default", "-o", "name"], []),
        (["pods", "--field-selector", "metadata.name=db-0", "-o", "name"], ["pod/db-0"]),
        (["ns", "--field-selector", "metadata.name=lab", "-o", "name"], ["namespace/lab"]),
        (["pods", "--watch-only", "-o", "name"], []),
    ],
)
def test_what_is_selected_is_shown(running: Cluster, arguments: list[str], out: list[str]) -> None:
    done = watched(running, *arguments, lines=len(out))
    assert [line.rstrip() for line in done.lines] == out


def test_all_namespaces_have_a_column_and_cluster_scoped_objects_have_none(running: Cluster) -> None:
    assert watched(running, "pods", "-A", lines=3).lines[0].startswith("NAMESPACE   NAME ")
    assert watched(running, "ns", "-A", lines=2).lines[0].startswith("NAME ")


def test_it_ends_by_itself_where_that_was_asked_for(running: Cluster) -> None:
    watching = Watching(running, "pods", "--timeout", "0.5")
    assert watching.ended() == 0


def test_changes_come_as_json_until_it_is_interrupted(running: Cluster) -> None:
    watching = Watching(running, "pods", "-o", "json", "--watch-only", "-l", "app=changing")
    try:
        watching.until(lambda one: any("fresh" in line for line in one.errors))
        running.ask("POST", PODS, pod("changing", app="changing"))
        running.ask("PATCH", f"{PODS}/changing", {"metadata": {"annotations": {"a": "b"}}})
        running.ask("DELETE", f"{PODS}/changing")
        watching.until(lambda one: len(one.lines) == 3)
    finally:
        code = watching.end()
    assert code == 130
    events = [json.loads(line) for line in watching.lines]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event["object"]["kind"] for event in events} == {"Pod"}
    assert events[1]["object"]["metadata"]["annotations"] == {"a": "b"}
    assert "Traceback" not in "".join(watching.errors)


def test_a_dead_server_makes_it_stale_and_its_return_makes_it_fresh(tmp_path: Path) -> None:
    with cluster(tmp_path) as one:
        watching = Watching(one, "pods", "-o", "name", "--max-staleness", "10")
        try:
            watching.until(lambda watching: any("fresh" in line for line in watching.errors))
            one.stop_apiserver()
            watching.until(lambda watching: "STALE" in watching.errors[-1])
            one.start_apiserver()
            one.ask("POST", PODS, pod("later"))
            watching.until(lambda watching: watching.lines == ["pod/later\n"])
            watching.until(lambda watching: "fresh" in watching.errors[-1])
        finally:
            watching.end()
    assert [line.split()[1] for line in watching.errors] == ["fresh:", "STALE:", "fresh:"]
    assert "refused" in watching.errors[1]


def test_on_a_terminal_the_state_stands_in_one_line_that_is_gone_at_the_end(running: Cluster) -> None:
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        command("pods", "-l", "app=web"),
        env={**environment(running.kubeconfig), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    said = b""
    interrupted = False
    try:
        while piece := os.read(outer, 65536):
            said += piece
            if not interrupted and b"web-0" in said and b"fresh" in said.partition(b"web-0")[2]:
                process.send_signal(signal.SIGINT)
                interrupted = True
    except OSError:
        pass  # Linux says EIO where the last process of a terminal has gone
    finally:
        os.close(outer)
    assert process.wait(LIMIT_S) == 130
    text = said.decode()
    assert "\r\x1b[2KNAME " in text
    assert "\x1b[32mfresh: every change older than" in text
    assert text.endswith("\r\x1b[2K")
    assert text.count("\n") == 2


def test_it_ends_quietly_when_nobody_reads(running: Cluster) -> None:
    process = subprocess.Popen(
        command("pods", "-o", "json", "-l", "app=pipe"),
        env=environment(running.kubeconfig),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert "fresh" in process.stderr.readline()
        process.stdout.close()
        running.ask("POST", PODS, pod("pipe", app="pipe"))
        assert process.wait(LIMIT_S) == 141
        assert process.stderr.read() == ""


def test_output_that_cannot_be_written_is_said(running: Cluster) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("pods", "-o", "name"),
            env=environment(running.kubeconfig),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "unblink: standard output: No space left on device"


def refused(of: Cluster, *arguments: str, kubeconfig: Path | None = None) -> str:
    """What a watch that cannot be says; every line is ours, and the exit code is 2."""
    chosen = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    watching = Watching(of, *arguments, *chosen)
    assert (watching.ended(), watching.lines) == (2, []), watching.errors
    lines = [line.rstrip() for line in watching.errors if not line.startswith("unblink: syncing")]
    assert all(line.startswith("unblink: ") for line in lines)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["podz"], "the server has no resource 'podz'; did you mean pods?"),
        (["pods", "-l", "a b c"], "unable to parse requirement"),
        (["pods", "--field-selector", "no.such=1"], "400 BadRequest: field label not supported"),
        (["pods", "--max-staleness", "1"], "max_staleness: expected at least 10 s, found 1"),
        (["pods", "--context", "nonesuch"], "nonesuch"),
        (["pods", "--kubeconfig", "nonesuch"], "nonesuch"),
    ],
)
def test_what_cannot_be_watched_is_said_with_what_would_be_right(
    running: Cluster, arguments: list[str], said: str
) -> None:
    assert said in refused(running, *arguments)


def test_who_is_not_known_or_not_allowed_is_told_so(running: Cluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    content = running.kubeconfig.read_text()
    kubeconfig.write_text(content.replace("tokenFile:", "token: wrong-token #"))
    said = refused(running, "pods", kubeconfig=kubeconfig)
    assert "401 Unauthorized" in said
    assert "check the kubeconfig's user" in said
    assert "wrong-token" not in said
    kubeconfig.write_text(re.sub(r"tokenFile: .*", "{}", content))
    said = refused(running, "pods", kubeconfig=kubeconfig)
    assert "403" in said
    assert "list and watch" in said


def test_no_server_is_said_by_its_address(running: Cluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", running.kubeconfig.read_text()))
    assert "127.0.0.1 port 1: TCP connection: Connection refused" in refused(running, "pods", kubeconfig=kubeconfig)


def test_contradicting_options_are_a_usage_error() -> None:
    done = CliRunner().invoke(main, ["watch", "pods", "-A", "-n", "lab"], prog_name="unblink")
    assert done.exit_code == 2
    assert "exclude each other" in done.stderr


def test_help_needs_no_library_of_the_client() -> None:
    program = (
        "import sys; from unblink.cli import main; main(['watch', '--help'], standalone_mode=False);"
        "print(sorted({'h2', 'httptools', 'prometheus_client', 'unblink.client.view'} & sys.modules.keys()),"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
