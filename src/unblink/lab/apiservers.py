"""How the lab starts its store and apiservers, embedded or real, and asks them whether they are ready."""

import asyncio
import errno
import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unblink.chain import Apiserver
from unblink.lab.apiserver.config import ApiserverConfig, CustomResource, StoreConfig
from unblink.lab.hosts.network import Host
from unblink.lab.hosts.process import Process, start
from unblink.lab.secrets import SERVER_NAME, Secrets

ASSETS = "KUBEBUILDER_ASSETS"
PROGRAMS = ("kube-apiserver", "etcd")
STORE_PORT = 2379
REQUEST_TIMEOUT_S = 3.0
VERSION_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0
REAL_START_TIMEOUT_S = 120.0
"""A kube-apiserver is ready after 3 s of two free cores, and a run starts four at once, beside its other cells."""
WATCH_GRACE_MS = 2_000
"""How long open watches may go on after SIGTERM until all have ended cleanly."""


@dataclass(frozen=True, slots=True)
class Servers:
    """What all apiservers of a run share. ``assets`` holds kube-apiserver and etcd; None is the embedded one."""

    secrets: Secrets
    bookmark_period_ms: int
    custom_resources: tuple[CustomResource, ...] = ()
    assets: Path | None = None

    @property
    def start_timeout_s(self) -> float:
        """How long an apiserver may take until it is ready."""
        return START_TIMEOUT_S if self.assets is None else REAL_START_TIMEOUT_S


def assets() -> Path:
    """The folder that KUBEBUILDER_ASSETS names.

    Raises:
        LookupError: it is not set, or lacks one of the two programs.
    """
    folder = os.environ.get(ASSETS)
    if not folder:
        raise LookupError(
            f"--apiserver real needs {ASSETS} to name a folder with kube-apiserver and etcd; it is not set"
        )
    for program in PROGRAMS:
        if not os.access(Path(folder) / program, os.X_OK):
            raise LookupError(f"--apiserver real: {ASSETS}={folder} has no executable {program}")
    return Path(folder).resolve()


def assets_version(folder: Path) -> str:
    """What the two programs say that they are. Raises OSError where one cannot be run here."""
    return ", ".join(f"{program} {_version_of(folder / program)}" for program in PROGRAMS)


def _version_of(program: Path) -> str:
    try:
        said = subprocess.check_output([program, "--version"], text=True, timeout=VERSION_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        raise OSError(errno.ENOEXEC, "does not tell its version", str(program)) from error
    found = re.search(r"\d+\.\d+\.\d+\S*", said)
    return found[0] if found else "of an unknown version"


def start_store(host: Host, folder: Path, servers: Servers) -> Process:
    """The one store of a chain."""
    if servers.assets is None:
        config = StoreConfig(address=host.address, port=STORE_PORT)
        (folder / "store.json").write_bytes(msgspec.json.encode(config))
        return start(
            host, "store", [sys.executable, "-m", "unblink.lab.apiserver.store", "--config", "store.json"], folder
        )
    # Its data are not evidence: they lie with the secrets, which no end of the run leaves behind.
    data = servers.secrets.token_file.parent / f"etcd-{folder.name}"
    url = f"http://{host.address}:{STORE_PORT}"
    argv = [str(servers.assets / "etcd"), f"--data-dir={data}", f"--listen-client-urls={url}"]
    argv += [f"--advertise-client-urls={url}", f"--listen-peer-urls=http://{host.address}:2380", "--unsafe-no-fsync"]
    return start(host, "store", argv, folder)


def start_apiserver(host: Host, at: Apiserver, store: Host, folder: Path, servers: Servers) -> Process:
    """One apiserver instance on its host."""
    tls = servers.secrets.tls
    if servers.assets is None:
        config = ApiserverConfig(
            name=at.name,
            address=at.address,
            port=at.port,
            ca=str(tls.ca),
            certificate=str(tls.certificate),
            private_key=str(tls.private_key),
            token_file=str(servers.secrets.token_auth_file),
            store_address=store.address,
            store_port=STORE_PORT,
            watch_grace_ms=WATCH_GRACE_MS,
            bookmark_period_ms=servers.bookmark_period_ms,
            custom_resources=servers.custom_resources,
        )
        (folder / f"{at.name}.json").write_bytes(msgspec.json.encode(config))
        argv: Sequence[str] = [sys.executable, "-m", "unblink.lab.apiserver", "--config", f"{at.name}.json"]
        return start(host, at.name, argv, folder)
    # RBAC, for with AlwaysAllow a kube-apiserver refuses anonymous requests, and a health check of /readyz is one.
    flags = {
        "etcd-servers": f"http://{store.address}:{STORE_PORT}",
        "bind-address": at.address,
        "advertise-address": at.address,
        "secure-port": str(at.port),
        "tls-cert-file": str(tls.certificate),
        "tls-private-key-file": str(tls.private_key),
        "client-ca-file": str(tls.ca),
        "token-auth-file": str(servers.secrets.token_auth_file),
        "service-account-issuer": f"https://{SERVER_NAME}",
        "service-account-key-file": str(tls.private_key),
        "service-account-signing-key-file": str(tls.private_key),
        "service-cluster-ip-range": "10.0.0.0/24",
        "authorization-mode": "RBAC",
        "disable-admission-plugins": "ServiceAccount",
        "shutdown-watch-termination-grace-period": f"{WATCH_GRACE_MS}ms",
    }
    argv = [str(servers.assets / "kube-apiserver"), *(f"--{name}={value}" for name, value in flags.items())]
    return start(host, at.name, argv, folder)


async def wait_ready(
    process: Process, store: Process, source: Host, at: Apiserver, made: Secrets, timeout_s: float
) -> str | None:
    """Ask `at` from the host `source` for /readyz until it says ok; otherwise why it did not come up.

    Without its store it never does, so the end of that one is an answer too.
    """
    last = "no answer"
    try:
        async with asyncio.timeout(timeout_s):
            while process.returncode is None and store.returncode is None:
                try:
                    status, body = await request(source, at, made, "GET", "/readyz")
                    if status == http.client.OK:
                        return None
                    last = f"/readyz answered {status}: {body[:200].decode(errors='replace')}"
                except OSError as error:
                    last = str(error)
                await asyncio.sleep(0.1)
    except TimeoutError:
        return f"{at.name} was not ready within {timeout_s:.0f} s ({last})"
    ended = process if process.returncode is not None else store
    return f"{ended.name} ended by itself with exit code {ended.returncode}"


async def request(
    source: Host, at: Apiserver, made: Secrets, method: str, path: str, body: Mapping[str, object] | None = None
) -> tuple[int, bytes]:
    """One request of the lab's own, sent from a host of the chain. Status and body; raises OSError."""
    return await asyncio.to_thread(_request, source, at, made, method, path, body)


def _request(
    source: Host, at: Apiserver, made: Secrets, method: str, path: str, body: Mapping[str, object] | None
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(made.tls.ca))
    headers = {"Authorization": f"Bearer {made.token_file.read_text()}", "Content-Type": "application/json"}
    with source.entered():
        plain = socket.create_connection((at.address, at.port), timeout=REQUEST_TIMEOUT_S)
    connection = http.client.HTTPSConnection(SERVER_NAME, at.port)
    try:
        with plain:
            connection.sock = context.wrap_socket(plain, server_hostname=SERVER_NAME)
            connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
