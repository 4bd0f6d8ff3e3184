"""Real Envoys in front of real upstream processes, on loopback."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from unblink.chain import Apiserver, Gateway, Listener, TlsFiles
from unblink.gateway.envoy import access_log, admin, config, endpoints, process

T = TypeVar("T")
HOST = "gateway.example"


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """One certificate for the gateway (gateway.example) and for the apiservers (kubernetes)."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    pair = authority.issue_cert("kubernetes", HOST)
    files = TlsFiles(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    pair.private_key_and_cert_chain_pem.write_to_path(str(files.certificate))
    pair.private_key_pem.write_to_path(str(files.private_key))
    return files


def until(condition: Callable[[], T], within_s: float = 10) -> T:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Running:
    """One Envoy and its folder; its listeners are plain and TLS, in this order."""

    folder: Path
    process: subprocess.Popen[bytes]
    ports: tuple[int, int]
    until = staticmethod(until)

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    def move_to(self, *apiservers: Apiserver) -> None:
        for cluster in config.CLUSTERS:
            endpoints.write_endpoints(self.folder / "eds", cluster, apiservers)

    def stats(self) -> dict[str, int]:
        return asyncio.run(admin.stats(self.admin))

    def rows(self) -> list[access_log.Row]:
        return access_log.read(self.folder / "access.jsonl")

    def ended(self, path: str) -> access_log.Row:
        """The last row of the stream with this path."""
        return self.until(lambda: [row for row in self.rows() if row.path == path and row.type == "DownstreamEnd"])[0]

    def watch_of_age(self, at_least_ms: int) -> access_log.Row:
        """The only open watch, once the log shows it at this age."""
        rows = self.until(
            lambda: [row for row in access_log.open_watches(self.rows()) if row.duration_ms >= at_least_ms]
        )
        (row,) = rows
        return row


class Http2Client:
    """One HTTP/2 connection to a gateway: TLS where a CA is given, else with prior knowledge."""

    def __init__(self, port: int, ca: Path | None = None, key_log: Path | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        if ca is not None:
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2"])
            if key_log is not None:
                context.keylog_filename = str(key_log)
            self.socket = context.wrap_socket(self.socket, server_hostname=HOST)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.seen: list[h2.events.Event] = []

    def close(self) -> None:
        self.socket.close()

    def get(self, path: str, host: str = HOST) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "https"), (":path", path), (":authority", host)]
        self.h2.send_headers(stream, [*head, ("authorization", "Bearer the-token")], end_stream=True)
        self.socket.sendall(self.h2.data_to_send())
        return stream

    def wait(self, stream: int, *kinds: type[h2.events.Event], within_s: float = 10) -> h2.events.Event:
        """The first event of ``kinds`` on the stream."""
        deadline = time.monotonic() + within_s
        while True:
            for event in self.seen:
                if isinstance(event, kinds) and getattr(event, "stream_id", None) == stream:
                    return event
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.socket.recv(65536)
            assert data, "the gateway closed the connection"
            self.seen += self.h2.receive_data(data)
            self.socket.sendall(self.h2.data_to_send())

    def answer(self, path: str, host: str = HOST) -> tuple[int, str]:
        """Status and body of a request that ends."""
        stream = self.get(path, host)
        self.wait(stream, h2.events.StreamEnded)
        head = self.wait(stream, h2.events.ResponseReceived)
        assert isinstance(head, h2.events.ResponseReceived)
        body = b"".join(
            event.data or b""
            for event in self.seen
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream
        )
        return int(dict(head.headers)[b":status"]), body.decode().strip()


@dataclass
class Bench:
    """Starts what a test needs, and ends it after the test."""

    folder: Path
    tls: TlsFiles
    cleanup: ExitStack

    def _start(self, argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
        started = self.cleanup.enter_context(
            subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        self.cleanup.callback(started.kill)
        return started

    def apiserver(self, name: str) -> tuple[Apiserver, subprocess.Popen[bytes]]:
        """An upstream that writes its TLS secrets to NAME.keys."""
        upstream = Path(__file__).with_name("upstream.py")
        started = self._start([sys.executable, str(upstream), name, str(self.tls.certificate)], self.folder)
        assert started.stdout
        return Apiserver(name, "127.0.0.1", int(started.stdout.readline())), started

    def envoy(self, gateway: Gateway, *apiservers: Apiserver, key_log: bool = False, name: str = "gateway") -> Running:
        folder = self.folder / name
        (folder / "eds").mkdir(parents=True)
        gateway = replace(
            gateway,
            hosts=(HOST,),
            apiserver_ca=gateway.apiserver_ca or self.tls.ca,
            listeners=(Listener("127.0.0.1", 0), Listener("127.0.0.1", 0, self.tls)),
        )
        bootstrap = config.bootstrap(
            gateway,
            endpoints=folder / "eds",
            admin="admin.sock",
            access_log=folder / "access.jsonl",
            key_log=folder / "keys.log" if key_log else None,
            node_id=name,
        )
        config.write(folder / "envoy.json", bootstrap)
        for cluster in config.CLUSTERS:
            endpoints.write_endpoints(folder / "eds", cluster, apiservers)
        started = self._start(process.argv(folder / "envoy.json", folder / "envoy.log"), folder)
        ready = until(
            lambda: started.poll() is not None or asyncio.run(admin.ready(folder / "admin.sock")), within_s=20
        )
        assert ready and started.returncode is None, (folder / "envoy.log").read_text()
        listeners = json.loads(asyncio.run(admin.get(folder / "admin.sock", "/listeners?format=json")))
        plain, encrypted = (
            listener["local_address"]["socket_address"]["port_value"] for listener in listeners["listener_statuses"]
        )
        return Running(folder, started, (plain, encrypted))

    def client(self, running: Running, *, encrypted: bool = False, key_log: Path | None = None) -> Http2Client:
        port, ca = (running.ports[1], self.tls.ca) if encrypted else (running.ports[0], None)
        return self.cleanup.enter_context(closing(Http2Client(port, ca, key_log)))

    def upgraded(self, running: Running, protocol: str) -> socket.socket:
        """A connection that was upgraded through the gateway, as an exec session is."""
        connection = self.cleanup.enter_context(socket.create_connection(("127.0.0.1", running.ports[0]), timeout=10))
        connection.sendall(
            f"GET /exec HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n".encode()
        )
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1)
        assert received.startswith(b"HTTP/1.1 101 ")
        return connection


@pytest.fixture
def bench(tmp_path: Path, tls: TlsFiles) -> Iterator[Bench]:
    with ExitStack() as cleanup:
        yield Bench(tmp_path, tls, cleanup)
