import asyncio
import json
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from unblink.client import exec_plugin
from unblink.client.credentials import ClientCertificate, KubeconfigError
from unblink.client.exec_plugin import V1, V1BETA1, Credential, ExecConfig, ExecPlugin, exec_info, run_plugin

EPOCH_2030_S = 1893456000.0


def plugin(folder: Path, body: str, **config: Any) -> ExecConfig:
    """A plugin that runs this Python text."""
    script = folder / "plugin"
    script.write_text(f"#!{sys.executable} -S\nimport json, os, sys\n" + textwrap.dedent(body))
    script.chmod(0o700)
    return ExecConfig(**{"place": "config: users[u].user.exec", "api_version": V1, "command": str(script)} | config)


def says(status: object, api_version: str = V1, kind: str = "ExecCredential") -> str:
    text = json.dumps({"apiVersion": api_version, "kind": kind, "status": status})
    return f"print({text!r})"


def ran(config: ExecConfig, deadline_s: float = 30) -> Credential:
    return asyncio.run(run_plugin(config, deadline_s))


def refused(config: ExecConfig, deadline_s: float = 30) -> str:
    with pytest.raises(KubeconfigError) as caught:
        ran(config, deadline_s)
    assert str(caught.value).startswith("config: users[u].user.exec: ")
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_a_token_and_when_it_expires(tmp_path: Path) -> None:
    config = plugin(tmp_path, says({"token": "t", "expirationTimestamp": "2030-01-01T01:00:00+01:00"}))
    assert ran(config) == Credential("t", None, EPOCH_2030_S)


def test_a_certificate_in_the_older_version(tmp_path: Path) -> None:
    status = {"clientCertificateData": "C", "clientKeyData": "K", "token": None}
    config = plugin(tmp_path, says(status, V1BETA1), api_version=V1BETA1)
    assert ran(config) == Credential(None, ClientCertificate(b"C", b"K"), None)


def test_the_plugin_is_told_what_it_may_do_and_gets_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    config = plugin(
        tmp_path,
        f"""
        told = [sys.argv[1:], os.environ["OURS"], os.environ["THEIRS"], sys.stdin.read()]
        told.append(json.loads(os.environ["KUBERNETES_EXEC_INFO"]))
        open(sys.argv[0] + ".told", "w").write(json.dumps(told))
        {says({"token": "t"})}
        """,
        args=("a", "--b=c"),
        env=(("THEIRS", "2"), ("KUBERNETES_EXEC_INFO", "no")),
        cluster={"server": "https://a", "config": {"x": [1]}},
    )
    ran(config)
    assert json.loads((tmp_path / "plugin.told").read_text()) == [
        ["a", "--b=c"],
        "1",
        "2",
        "",
        {
            "apiVersion": V1,
            "kind": "ExecCredential",
            "spec": {"interactive": False, "cluster": {"server": "https://a", "config": {"x": [1]}}},
        },
    ]


def test_without_a_cluster_the_plugin_is_told_nothing_of_it() -> None:
    told = json.loads(exec_info(ExecConfig("p", V1BETA1, "c", interactive=True)))
    assert told == {"apiVersion": V1BETA1, "kind": "ExecCredential", "spec": {"interactive": True}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('hush')", "expected an ExecCredential in JSON$"),
        ("pass", "expected an ExecCredential in JSON$"),
        ("sys.stdout.buffer.write(b'\\xff\"hush')", "expected an ExecCredential in JSON$"),
        (says({"token": 5}), r"in JSON: Expected `str \| null`, got `int` - at `\$.status.token`"),
        (says({"token": "hush", "expirationTimestamp": "hush"}), r"in JSON: Invalid RFC3339 .*expirationTimestamp`"),
        (says({"token": "hush", "expirationTimestamp": "2030-01-01T00:00:00"}), r"at `\$.status.expirationTimestamp`"),
        (says({"token": "hush"}, V1BETA1), f"apiVersion: expected {V1} as in the kubeconfig, found {V1BETA1}$"),
        (says({"token": "hush"}, "hush"), f"apiVersion: expected {V1} as in the kubeconfig$"),
        (says({"token": "hush"}, kind="hush"), "kind: expected ExecCredential"),
        (says(None), "expected a status with token"),
        (says({}), "status: expected token, or clientCertificateData and clientKeyData"),
        (says({"clientKeyData": "hush", "token": "hush"}), "expected both clientCertificateData and clientKeyData"),
        (says({"token": "hush\r\nhush"}), "status.token: expected a token of visible ASCII"),
        ("print('hush' * 1000000)", "printed more than 1048576 bytes; expected an ExecCredential"),
        ("sys.exit(3)", "failed: exit code 3$"),
        ("os.kill(os.getpid(), 9)", "failed: SIGKILL$"),
    ],
)
def test_what_is_no_credential_is_said_without_it(tmp_path: Path, body: str, message: str) -> None:
    import re

    assert re.search(message, refused(plugin(tmp_path, body)))


def test_a_failed_plugin_is_quoted_without_its_secrets(tmp_path: Path) -> None:
    body = """
    token = "hush-token"
    print(json.dumps({"status": {"token": token}}))
    print("\\x1b[31mcannot log in\\nwith", token, os.environ["PASSWORD"], *sys.argv[1:], file=sys.stderr)
    print("nor with eyJhbGciOiJSUzI1NiIsImtpZCI6I.hushA1b2.c3 to cluster one", file=sys.stderr)
    sys.exit(1)
    """
    args = ("get", "--secret=hush-flag", "--key", "hush-key", "-v")
    said = refused(plugin(tmp_path, body, args=args, env=(("PASSWORD", "hush-password"),)))
    assert said.endswith(
        "failed: exit code 1: [31mcannot log in with *** *** get --secret=*** --key *** -v nor with *** to cluster one"
    )


def test_of_a_long_complaint_the_end_is_quoted(tmp_path: Path) -> None:
    said = refused(plugin(tmp_path, "sys.stderr.write('x' * 100000 + ' ' + 'y ' * 300 + 'at last'); sys.exit(1)"))
    assert len(said) < 1000
    said = refused(plugin(tmp_path, "sys.stderr.write('y ' * 30000 + 'at last'); sys.exit(1)"))
    assert said.endswith("y y at last")


def test_a_word_that_the_limit_cut_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_plugin, "MAX_STDERR_BYTES", 12)
    config = plugin(tmp_path, "sys.stderr.write('one hush-hush-password'); sys.exit(1)")
    assert refused(config).endswith("failed: exit code 1: one")


def test_a_command_that_is_not_there_is_said_with_how_to_get_it(tmp_path: Path) -> None:
    config = ExecConfig("config: users[u].user.exec", V1, "no-such-plugin", install_hint="get it\n\x1b[2Jthere")
    assert refused(config).endswith("the command 'no-such-plugin' was not found; get it [2Jthere")
    (tmp_path / "plain").write_text("x")
    config = ExecConfig("config: users[u].user.exec", V1, str(tmp_path / "plain"))
    assert refused(config).endswith("cannot be run: Permission denied")


def test_a_plugin_that_needs_a_terminal_is_refused_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = plugin(tmp_path, says({"token": "t"}), interactive=True)
    monkeypatch.setattr(sys, "stdin", None)
    assert "interactiveMode Always needs a terminal" in refused(config)


def test_a_plugin_with_a_terminal_reads_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    before = os.dup(0)
    try:
        os.dup2(theirs, 0)
        with os.fdopen(os.dup(theirs)) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            os.write(ours, b"typed\n")
            body = "token = input()\n" + says({"token": "TOKEN"}).replace("TOKEN", "' + token + '")
            assert ran(plugin(tmp_path, body, interactive=True)).token == "typed"
    finally:
        os.dup2(before, 0)
        for descriptor in (before, ours, theirs):
            os.close(descriptor)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


FORKS = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = os.getpid(), os.fork()
if pids[1]:
    open(sys.argv[0] + ".new", "w").write(json.dumps(pids))
    os.rename(sys.argv[0] + ".new", sys.argv[0] + ".pids")
signal.pause()
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_plugin_has_a_deadline(tmp_path: Path) -> None:
    assert refused(plugin(tmp_path, FORKS), deadline_s=0.2).endswith("did not end and close its output within 0.2 s")


def test_a_run_and_its_children_end_with_the_loop(tmp_path: Path) -> None:
    pids = tmp_path / "plugin.pids"

    async def begin() -> None:
        waiting = asyncio.create_task(ExecPlugin(plugin(tmp_path, FORKS)).refresh())
        await until(pids.exists)
        waiting.cancel()

    asyncio.run(begin())
    asyncio.run(until(lambda: all(map(is_gone, json.loads(pids.read_text())))))


def test_what_a_good_plugin_leaves_running_is_left_alone(tmp_path: Path) -> None:
    body = f"""
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    pid = os.fork()
    if pid == 0:
        os.close(1); os.close(2)
        signal.sigwait([signal.SIGUSR1])
        open(sys.argv[0] + ".answer", "w").close()
        os._exit(0)
    open(sys.argv[0] + ".pid", "w").write(str(pid))
    {says({"token": "t"})}
    """
    assert ran(plugin(tmp_path, body)).token == "t"
    os.kill(int((tmp_path / "plugin.pid").read_text()), signal.SIGUSR1)
    asyncio.run(until((tmp_path / "plugin.answer").exists))


class Runs:
    """Stands for the plugin: each run waits for its outcome."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting: list[asyncio.Future[Credential]] = []
        self.plugin = ExecPlugin(ExecConfig("place", V1, "c"), self.run, lambda: self.now_s)

    def run(self, config: ExecConfig) -> Awaitable[Credential]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    async def begun(self, count: int) -> None:
        await until(lambda: len(self.waiting) == count)

    async def settle(self, outcome: Credential | str) -> None:
        """End the run that was begun last."""
        if isinstance(outcome, str):
            self.waiting[-1].set_exception(KubeconfigError(outcome))
        else:
            self.waiting[-1].set_result(outcome)
        running = self.plugin._running
        assert running is not None
        await running

    async def give(self, outcome: Credential) -> None:
        waiter = asyncio.create_task(self.plugin.refresh())
        await self.begun(len(self.waiting) + 1)
        await self.settle(outcome)
        await waiter


def simulated(test: Callable[[Runs], Awaitable[None]]) -> None:
    async def run() -> None:
        await test(Runs())

    asyncio.run(run())


def test_those_who_wait_share_one_run_and_its_failure() -> None:
    async def test(runs: Runs) -> None:
        waiters = [asyncio.create_task(runs.plugin.refresh()) for _ in range(5)]
        await runs.begun(1)
        await runs.settle("no")
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [str(error) for error in results] == ["no"] * 5
        assert len({id(error) for error in results}) == 5
        assert len(runs.waiting) == 1
        with pytest.raises(KubeconfigError, match=r"no credential before refresh"):
            _ = runs.plugin.credential
        await runs.give(Credential("t"))
        assert runs.plugin.credential.token == "t"

    simulated(test)


def test_who_gives_up_does_not_stop_the_run() -> None:
    async def test(runs: Runs) -> None:
        waiter = asyncio.create_task(runs.plugin.refresh())
        await runs.begun(1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await runs.settle(Credential("t"))
        await runs.plugin.refresh()
        assert (runs.plugin.credential.token, len(runs.waiting)) == ("t", 1)

    simulated(test)


def test_without_an_expiry_it_is_kept_until_it_is_refused() -> None:
    async def test(runs: Runs) -> None:
        assert not runs.plugin.forget()
        await runs.give(Credential("a"))
        runs.now_s = 1e12
        await runs.plugin.refresh()
        assert len(runs.waiting) == 1
        assert runs.plugin.forget()
        await runs.give(Credential("b"))
        assert runs.plugin.credential.token == "b"

    simulated(test)


@pytest.mark.parametrize(("expires_s", "due_s"), [(3600.0, 3540.0), (100.0, 80.0)])
def test_it_is_renewed_before_it_expires_and_nobody_waits(expires_s: float, due_s: float) -> None:
    async def test(runs: Runs) -> None:
        await runs.give(Credential("a", expires_at_s=expires_s))
        runs.now_s = due_s - 1
        await runs.plugin.refresh()
        assert len(runs.waiting) == 1
        runs.now_s = due_s
        await runs.plugin.refresh()
        assert runs.plugin.credential.token == "a"
        await runs.begun(2)
        await runs.settle(Credential("b"))
        assert runs.plugin.credential.token == "b"

    simulated(test)


def test_a_failed_renewal_is_tried_again_later_while_the_old_one_is_good() -> None:
    async def test(runs: Runs) -> None:
        await runs.give(Credential("a", expires_at_s=100))
        runs.now_s = 80
        await runs.plugin.refresh()
        await runs.begun(2)
        await runs.settle("no")
        runs.now_s = 89
        await runs.plugin.refresh()
        assert len(runs.waiting) == 2
        runs.now_s = 90
        await runs.plugin.refresh()
        await runs.begun(3)
        await runs.settle("no")
        runs.now_s = 100
        waiter = asyncio.create_task(runs.plugin.refresh())
        await runs.begun(4)
        await runs.settle("no longer")
        with pytest.raises(KubeconfigError, match="no longer"):
            await waiter

    simulated(test)


def test_a_credential_that_came_expired_is_used_once() -> None:
    async def test(runs: Runs) -> None:
        runs.now_s = 10
        await runs.give(Credential("a", expires_at_s=5))
        assert runs.plugin.credential.token == "a"
        await runs.give(Credential("b", expires_at_s=5))
        assert runs.plugin.credential.token == "b"

    simulated(test)


def test_secrets_are_in_no_repr() -> None:
    config = ExecConfig("p", V1, "c", ("hush",), (("A", "hush"),), cluster={"a": "hush"})
    credential = Credential("hush", ClientCertificate(b"hush", b"hush"))
    assert "hush" not in repr((config, credential, ExecPlugin(config)))
