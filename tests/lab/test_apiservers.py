"""How servers are started and asked: their command lines, and the words for one that does not come up."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from unblink.chain import Apiserver
from unblink.lab import apiservers, secrets
from unblink.lab.apiserver.config import ApiserverConfig, StoreConfig
from unblink.lab.apiservers import Servers, assets, assets_version, request, wait_ready
from unblink.lab.hosts.network import Host
from unblink.lab.hosts.process import start

HERE = Host("here", "127.0.0.1")
STORE, HOST = Host("store", "127.0.4.10"), Host("apiserver-1", "127.0.11.10")
AT = Apiserver("apiserver-1", HOST.address)


def program(folder: Path, name: str, script: str = "exit 0") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


class TestAssets:
    def test_are_the_folder_that_the_environment_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("kube-apiserver", "etcd"):
            program(tmp_path / "bin", name)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", "bin")
        assert assets() == tmp_path / "bin"

    @pytest.mark.parametrize("value", [None, ""])
    def test_have_to_be_named(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
        if value is not None:
            monkeypatch.setenv("KUBEBUILDER_ASSETS", value)
        with pytest.raises(LookupError, match=r"needs KUBEBUILDER_ASSETS to name a folder .* it is not set"):
            assets()

    @pytest.mark.parametrize("missing", ["kube-apiserver", "etcd"])
    def test_have_to_be_both_there_and_executable(
        self, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
        for name in {"kube-apiserver", "etcd"} - {missing}:
            program(tmp_path, name)
        with pytest.raises(LookupError, match=f"KUBEBUILDER_ASSETS={tmp_path} has no executable {missing}"):
            assets()
        (tmp_path / missing).write_text("not executable")
        with pytest.raises(LookupError, match=f"no executable {missing}"):
            assets()

    def test_say_their_versions(self, tmp_path: Path) -> None:
        program(tmp_path, "kube-apiserver", 'test "$*" = --version && echo Kubernetes v1.36.2')
        program(tmp_path, "etcd", "echo etcd Version: 3.6.16; echo Git SHA: 1; echo Go Version: go1.26.8")
        assert assets_version(tmp_path) == "kube-apiserver 1.36.2, etcd 3.6.16"
        program(tmp_path, "etcd", "echo a build of my own")
        assert assets_version(tmp_path) == "kube-apiserver 1.36.2, etcd of an unknown version"


@dataclass
class Started:
    """The command lines that would have been run, by the name of their process."""

    argv: dict[str, list[str]] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)

    def flags(self, name: str) -> dict[str, str]:
        pairs = (argument.removeprefix("--").partition("=") for argument in self.argv[name][1:])
        return {key: value for key, _, value in pairs}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    noted = Started()

    def note(host: Host, name: str, argv: list[str], _folder: Path) -> None:
        noted.argv[name], noted.hosts[name] = list(argv), host

    monkeypatch.setattr(apiservers, "start", note)
    return noted


def test_the_embedded_ones_get_a_file(tmp_path: Path, started: Started) -> None:
    servers = Servers(secrets.make(tmp_path / "secrets"), bookmark_period_ms=7_000)
    apiservers.start_store(STORE, tmp_path, servers)
    apiservers.start_apiserver(HOST, AT, STORE, tmp_path, servers)
    store = msgspec.json.decode((tmp_path / "store.json").read_bytes(), type=StoreConfig)
    config = msgspec.json.decode((tmp_path / "apiserver-1.json").read_bytes(), type=ApiserverConfig)
    assert (store.address, store.port) == (config.store_address, config.store_port)
    assert (config.address, config.port, config.bookmark_period_ms) == (HOST.address, 6443, 7_000)
    assert started.argv["store"][1:] == ["-m", "unblink.lab.apiserver.store", "--config", "store.json"]
    assert started.argv["apiserver-1"][1:] == ["-m", "unblink.lab.apiserver", "--config", "apiserver-1.json"]
    assert started.hosts == {"store": STORE, "apiserver-1": HOST}


def test_the_real_ones_get_flags(tmp_path: Path, started: Started) -> None:
    made = secrets.make(tmp_path / "secrets")
    servers = Servers(made, bookmark_period_ms=60_000, assets=tmp_path / "bin")
    apiservers.start_store(STORE, tmp_path, servers)
    apiservers.start_apiserver(HOST, AT, STORE, tmp_path, servers)
    assert started.argv["store"][0] == str(tmp_path / "bin/etcd")
    assert started.argv["apiserver-1"][0] == str(tmp_path / "bin/kube-apiserver")
    etcd, apiserver = started.flags("store"), started.flags("apiserver-1")
    assert apiserver["etcd-servers"] == etcd["listen-client-urls"] == etcd["advertise-client-urls"]
    assert (apiserver["bind-address"], apiserver["secure-port"]) == (HOST.address, "6443")
    assert (apiserver["tls-cert-file"], apiserver["token-auth-file"]) == (
        str(made.tls.certificate),
        str(made.token_auth_file),
    )
    assert apiserver["shutdown-watch-termination-grace-period"] == "2000ms"
    assert servers.start_timeout_s > Servers(made, bookmark_period_ms=60_000).start_timeout_s
    assert not any(made.token_file.read_text() in argument for argv in started.argv.values() for argument in argv)


def test_the_data_of_each_etcd_go_with_the_secrets(tmp_path: Path, started: Started) -> None:
    servers = Servers(secrets.make(tmp_path / "secrets"), bookmark_period_ms=60_000, assets=tmp_path)
    folders = []
    for cell in ("a", "b"):
        apiservers.start_store(STORE, tmp_path / "cells" / cell, servers)
        folders.append(Path(started.flags("store")["data-dir"]))
    assert folders == [tmp_path / "secrets" / "etcd-a", tmp_path / "secrets" / "etcd-b"]


@dataclass
class Server:
    """A TLS server on loopback that gives its answers in turn, the last one again and again."""

    at: Apiserver
    made: secrets.Secrets
    answers: list[tuple[int, bytes]]
    requests: list[tuple[str, str, str | None, bytes]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = secrets.make(tmp_path / "secrets")
    answers, requests = [(200, b"ok")], list[tuple[str, str, str | None, bytes]]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            requests.append((self.command, self.path, self.headers["Authorization"], body))
            status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if status == 0:
                self.wfile.write(answer)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.tls.certificate, made.tls.private_key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(Apiserver("apiserver-1", "127.0.0.1", listening.server_port), made, answers, requests)
        listening.shutdown()
        thread.join()


class TestRequest:
    def test_brings_the_token_and_the_body(self, server: Server) -> None:
        server.answers[:] = [(201, b"made")]
        answer = asyncio.run(request(HERE, server.at, server.made, "POST", "/api/v1/namespaces", {"a": 1}))
        assert answer == (201, b"made")
        bearer = f"Bearer {server.made.token_file.read_text()}"
        assert server.requests == [("POST", "/api/v1/namespaces", bearer, b'{"a":1}')]

    def test_has_no_body_where_none_is_given(self, server: Server) -> None:
        assert asyncio.run(request(HERE, server.at, server.made, "GET", "/readyz")) == (200, b"ok")
        assert server.requests[0][3] == b""

    def test_sends_its_token_to_nobody_else(self, server: Server, tmp_path: Path) -> None:
        other = secrets.make(tmp_path / "of another run")
        with pytest.raises(ssl.SSLCertVerificationError):
            asyncio.run(request(HERE, server.at, other, "GET", "/readyz"))
        assert server.requests == []

    def test_names_what_is_not_http(self, server: Server) -> None:
        server.answers[:] = [(0, b"no http\r\n\r\n")]
        with pytest.raises(OSError, match="BadStatusLine"):
            asyncio.run(request(HERE, server.at, server.made, "GET", "/readyz"))


class TestWaitReady:
    async def outcome(
        self, tmp_path: Path, server: Server, at: Apiserver, argv: list[str], timeout_s: float, store: str = "sleep 60"
    ) -> str:
        process = start(HERE, at.name, argv, tmp_path)
        beside = start(HERE, "store", store.split(), tmp_path)
        try:
            return await wait_ready(process, beside, HERE, at, server.made, timeout_s) or "ready"
        finally:
            await asyncio.gather(process.stop(), beside.stop())

    def test_goes_on_until_readyz_says_ok(self, tmp_path: Path, server: Server) -> None:
        server.answers[:] = [(500, b"[-]etcd failed"), (403, b"forbidden"), (200, b"ok")]
        assert asyncio.run(self.outcome(tmp_path, server, server.at, ["sleep", "60"], 10)) == "ready"
        assert [path for _, path, _, _ in server.requests] == ["/readyz"] * 3

    def test_tells_how_the_process_ended(self, tmp_path: Path, server: Server) -> None:
        server.answers[:] = [(500, b"not yet")]
        argv = ["sh", "-c", "exit 3"]
        why = asyncio.run(self.outcome(tmp_path, server, server.at, argv, 10))
        assert why == "apiserver-1 ended by itself with exit code 3"

    def test_does_not_wait_without_a_store(self, tmp_path: Path, server: Server) -> None:
        server.answers[:] = [(500, b"[-]etcd failed")]
        why = asyncio.run(self.outcome(tmp_path, server, server.at, ["sleep", "60"], 10, store="false"))
        assert why == "store ended by itself with exit code 1"

    def test_tells_the_last_answer(self, tmp_path: Path, server: Server) -> None:
        server.answers[:] = [(500, b"[-]etcd failed")]
        why = asyncio.run(self.outcome(tmp_path, server, server.at, ["sleep", "60"], 1))
        assert why == "apiserver-1 was not ready within 1 s (/readyz answered 500: [-]etcd failed)"

    def test_tells_why_nobody_answered(self, tmp_path: Path, server: Server) -> None:
        nobody = Apiserver("apiserver-1", "127.0.0.9", server.at.port)
        why = asyncio.run(self.outcome(tmp_path, server, nobody, ["sleep", "60"], 1))
        assert why == "apiserver-1 was not ready within 1 s ([Errno 111] Connection refused)"
