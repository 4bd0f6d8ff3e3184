"""Credentials from a program that the kubeconfig names, as kubectl runs it.

Fields and protocol: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
What such a program prints is a secret: its standard output is in no error, and of its standard error only what is left
when everything that may be a secret is taken out.
"""

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import msgspec

from unblink.client.credentials import ClientCertificate, KubeconfigError, bearer_token, reason

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"

DEADLINE_S = 60.0
MAX_STDOUT_BYTES = 1024 * 1024
MAX_STDERR_BYTES = 64 * 1024
MAX_SHOWN_CHARACTERS = 500
REFRESH_BEFORE_S = 60.0
REFRESH_BEFORE_PART = 0.2
"""A credential is renewed when this part of its life is left, or REFRESH_BEFORE_S if that is later."""
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class ExecConfig:
    """One ``exec`` of a kubeconfig. ``command`` is resolved already; ``place`` names the file and the user."""

    place: str
    api_version: str
    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    interactive: bool = False
    """Whether it gets our standard input (interactiveMode Always)."""
    install_hint: str | None = None
    cluster: Mapping[str, object] | None = field(default=None, repr=False)
    """spec.cluster of KUBERNETES_EXEC_INFO, None without provideClusterInfo."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin gave. ``expires_at_s`` is in Unix seconds, None if it said nothing."""

    token: str | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None
    expires_at_s: float | None = None


class _Status(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None


class ExecPlugin:
    """A plugin and the credential that it gave last. For one event loop at a time.

    A run that was begun goes on when who waits for it gives up: it may be a login that a human is busy with.
    """

    def __init__(
        self,
        config: ExecConfig,
        run: Callable[[ExecConfig], Awaitable[Credential]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._run = run or run_plugin
        self._now = now
        self._credential: Credential | None = None
        self._refused = False
        self._due_at_s = -math.inf
        self._running: asyncio.Task[str | None] | None = None

    @property
    def credential(self) -> Credential:
        """The credential to use now.

        :raises KubeconfigError: before the first ``refresh``.
        """
        if self._credential is None:
            raise KubeconfigError(f"{self.config.place}: there is no credential before refresh() was awaited")
        return self._credential

    async def refresh(self) -> None:
        """Run the plugin if the credential is missing, was refused, or expires soon. Runs are shared.

        While the old one is still good nobody waits, and a failure is tried again later.

        :raises KubeconfigError: if there is no good credential.
        """
        if self._now() < self._due_at_s:
            return
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._renew())
        if self._is_good():
            return
        if (error := await asyncio.shield(self._running)) is not None:
            raise KubeconfigError(error)

    def forget(self) -> bool:
        """The server refused the credential: the next ``refresh`` gets another. False if there is none."""
        self._refused = True
        self._due_at_s = -math.inf
        return self._credential is not None

    def _is_good(self) -> bool:
        if self._credential is None or self._refused:
            return False
        return self._credential.expires_at_s is None or self._now() < self._credential.expires_at_s

    async def _renew(self) -> str | None:
        """One run; what went wrong, as a text: several may wait for it, or nobody."""
        try:
            self._credential = await self._run(self.config)
        except KubeconfigError as error:
            if self._is_good() and self._credential is not None and self._credential.expires_at_s is not None:
                self._due_at_s = (self._now() + self._credential.expires_at_s) / 2
            return str(error)
        self._refused = False
        self._due_at_s = math.inf
        if (expires_at_s := self._credential.expires_at_s) is not None:
            left_s = expires_at_s - self._now()
            self._due_at_s = expires_at_s - max(0.0, min(REFRESH_BEFORE_S, left_s * REFRESH_BEFORE_PART))
        return None


async def run_plugin(config: ExecConfig, deadline_s: float = DEADLINE_S) -> Credential:
    """Run the command once. What does not end in time is killed, with its children unless it has the terminal.

    :raises KubeconfigError: if it cannot be run, fails, takes too long, prints too much or no ExecCredential.
    """
    if config.interactive and not (sys.stdin and sys.stdin.isatty()):
        raise KubeconfigError(
            f"{config.place}: interactiveMode Always needs a terminal as standard input;"
            " run it in one, or give IfAvailable or Never"
        )
    ended = await _collect(config, deadline_s)
    if ended.returncode != 0:
        how = f"exit code {ended.returncode}" if ended.returncode >= 0 else _signal_name(-ended.returncode)
        said = _harmless(ended.stderr, _secrets(config, ended.stdout))
        raise KubeconfigError(f"{config.place}: {config.command!r} failed: {how}" + (f": {said}" if said else ""))
    return _parse(config, ended.stdout)


def exec_info(config: ExecConfig) -> str:
    """KUBERNETES_EXEC_INFO: an ExecCredential whose spec says what the plugin may do."""
    spec: dict[str, object] = {"interactive": config.interactive}
    if config.cluster is not None:
        spec["cluster"] = config.cluster
    return msgspec.json.encode({"apiVersion": config.api_version, "kind": "ExecCredential", "spec": spec}).decode()


@dataclass(frozen=True, slots=True)
class _Ended:
    returncode: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)


class _Output(asyncio.SubprocessProtocol):
    """Collects what a process prints, bounded: more standard output ends the wait, more standard error is dropped."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.complete = asyncio.Event()
        self.exited = asyncio.Event()

    @property
    def too_long(self) -> bool:
        return len(self.stdout) > MAX_STDOUT_BYTES

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept, limit = (self.stdout, MAX_STDOUT_BYTES) if fd == 1 else (self.stderr, MAX_STDERR_BYTES)
        kept += data[: limit + 1 - len(kept)]
        if self.too_long:
            self.complete.set()

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.complete.set()


async def _collect(config: ExecConfig, deadline_s: float) -> _Ended:
    try:
        transport, output = await asyncio.get_running_loop().subprocess_exec(
            _Output,
            config.command,
            *config.args,
            stdin=None if config.interactive else subprocess.DEVNULL,
            env={**os.environ, **dict(config.env), "KUBERNETES_EXEC_INFO": exec_info(config)},
            # A session of its own, so that its children end with it; one that reads the terminal must stay in ours.
            start_new_session=not config.interactive,
        )
    except (OSError, ValueError) as error:
        problem = "was not found" if isinstance(error, FileNotFoundError) else f"cannot be run: {reason(error)}"
        hint = f"; {_visible(config.install_hint)[:MAX_SHOWN_CHARACTERS]}" if config.install_hint else ""
        raise KubeconfigError(f"{config.place}: the command {config.command!r} {problem}{hint}") from None
    try:
        async with asyncio.timeout(deadline_s):
            await output.complete.wait()
    except TimeoutError:
        raise KubeconfigError(
            f"{config.place}: {config.command!r} did not end and close its output within {deadline_s:g} s"
        ) from None
    finally:
        if not config.interactive and (output.too_long or not output.complete.is_set()):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await output.exited.wait()
    if output.too_long:
        raise KubeconfigError(
            f"{config.place}: {config.command!r} printed more than {MAX_STDOUT_BYTES} bytes; expected an ExecCredential"
        )
    return _Ended(transport.get_returncode() or 0, bytes(output.stdout), bytes(output.stderr))


def _parse(config: ExecConfig, stdout: bytes) -> Credential:
    def wrong(text: str) -> KubeconfigError:
        return KubeconfigError(f"{config.place}: output of {config.command!r}: {text}")

    try:
        credential = msgspec.json.decode(stdout, type=_ExecCredential)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        detail = f": {error}" if isinstance(error, msgspec.ValidationError) else ""
        raise wrong(f"expected an ExecCredential in JSON{detail}") from None
    if credential.kind != "ExecCredential":
        raise wrong("kind: expected ExecCredential")
    if credential.api_version != config.api_version:
        found = f", found {credential.api_version}" if credential.api_version in (V1, V1BETA1) else ""
        raise wrong(f"apiVersion: expected {config.api_version} as in the kubeconfig{found}")
    status = credential.status
    if status is None:
        raise wrong("expected a status with token, or with clientCertificateData and clientKeyData")
    certificate, key = status.client_certificate_data or "", status.client_key_data or ""
    if bool(certificate) != bool(key):
        raise wrong("status: expected both clientCertificateData and clientKeyData, or none")
    if not certificate and not status.token:
        raise wrong("status: expected token, or clientCertificateData and clientKeyData")
    return Credential(
        bearer_token(status.token, f"{config.place}: output of {config.command!r}: status.token")
        if status.token
        else None,
        ClientCertificate(certificate.encode(), key.encode()) if certificate else None,
        status.expiration_timestamp.timestamp() if status.expiration_timestamp else None,
    )


def _secrets(config: ExecConfig, stdout: bytes) -> set[str]:
    """What must not be shown: values of variables and flags, and every word of a failed plugin's standard output."""
    flags = [
        value
        for before, argument in zip(("", *config.args), config.args, strict=False)
        for value in [argument.partition("=")[2], argument if before.startswith("-") and "=" not in before else ""]
    ]
    values = [value for _, value in config.env] + flags
    words = re.findall(r'[^\s"\\,{}\[\]]{8,}', stdout.decode(errors="replace"))
    return {line.strip() for value in values for line in value.splitlines() if len(line.strip()) >= 4} | set(words)


def _harmless(stderr: bytes, secrets: Iterable[str]) -> str:
    """The end of what a plugin complained about, on one line, without secrets and what looks like one."""
    text = stderr[:MAX_STDERR_BYTES].decode(errors="replace")
    if len(stderr) > MAX_STDERR_BYTES:
        text = re.sub(r"\S+\Z", "", text)  # a word that was cut could be the half of a secret
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = re.sub(r"[A-Za-z0-9+/=_.\-]{24,}", _hide_random, text)
    return _visible(text)[-MAX_SHOWN_CHARACTERS:]


def _hide_random(word: re.Match[str]) -> str:
    mixed = all(re.search(kind, word[0]) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return HIDDEN if mixed else word[0]


def _visible(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
