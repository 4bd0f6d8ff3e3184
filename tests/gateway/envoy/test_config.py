"""The bootstrap: what Envoy accepts, and what it then does, with the real binary."""

import ctypes
import json
import os
import socket
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING

import h2.errors
import h2.events
import pytest
import trustme
from hypothesis import HealthCheck as HypothesisCheck
from hypothesis import given, settings
from hypothesis import strategies as st

from unblink.chain import Apiserver, Gateway, HealthCheck, Http2Ping, Listener, TcpKeepalive, TlsFiles, Upstream
from unblink.gateway.envoy import access_log, config, endpoints, process

if TYPE_CHECKING:
    from tests.gateway.envoy.conftest import Bench

KEEPALIVE = TcpKeepalive(10, 3, 3)
PING = Http2Ping(500, 400)
CHECK = HealthCheck("/readyz", 200, 200, 1)
ALL_ON = Gateway(
    upstream=Upstream(
        retries=2, tcp_keepalive=KEEPALIVE, tcp_user_timeout_ms=10_000, http2_ping=PING, health_check=CHECK
    ),
    stream_idle_timeout_ms=300_000,
    watch_idle_timeout_ms=20_000,
)


def validate(folder: Path, gateway: Gateway, tls: TlsFiles, *, key_log: bool = False) -> None:
    """Have Envoy check the bootstrap."""
    gateway = replace(gateway, apiserver_ca=tls.ca, listeners=(Listener("127.0.0.1", 0, tls), Listener("127.0.0.2", 0)))
    written = config.bootstrap(
        gateway,
        endpoints=folder,
        admin="admin.sock",
        access_log=folder / "access.jsonl",
        key_log=folder / "keys.log" if key_log else None,
        node_id="gateway",
    )
    config.write(folder / "envoy.json", written)
    for cluster in config.CLUSTERS:
        endpoints.write_endpoints(folder, cluster, [])
    argv = [*process.argv(folder / "envoy.json", folder / "envoy.log"), "--mode", "validate"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "gateway",
    [
        pytest.param(Gateway(), id="nothing"),
        pytest.param(Gateway(upstream=Upstream(tcp_keepalive=KEEPALIVE)), id="keepalive"),
        pytest.param(Gateway(upstream=Upstream(tcp_user_timeout_ms=10_000)), id="user-timeout"),
        pytest.param(Gateway(upstream=Upstream(http2_ping=PING)), id="ping"),
        pytest.param(Gateway(upstream=Upstream(health_check=CHECK)), id="health-check"),
        pytest.param(Gateway(upstream=Upstream(retries=0)), id="no-retries"),
        pytest.param(Gateway(stream_idle_timeout_ms=300_000), id="stream-idle"),
        pytest.param(Gateway(watch_idle_timeout_ms=20_000), id="watch-idle"),
        pytest.param(replace(ALL_ON, hosts=("one.example", "*.two.example")), id="all"),
    ],
)
def test_each_detector_alone_and_all_together_are_valid(tmp_path: Path, tls: TlsFiles, gateway: Gateway) -> None:
    validate(tmp_path, gateway, tls, key_log=True)


milliseconds = st.integers(1, 2**31 - 1)
gateways = st.builds(
    Gateway,
    upstream=st.builds(
        Upstream,
        connect_timeout_ms=milliseconds,
        retries=st.integers(0, 2**31 - 1),
        tcp_keepalive=st.none()
        | st.builds(TcpKeepalive, st.integers(1, 32767), st.integers(1, 32767), st.integers(1, 127)),
        tcp_user_timeout_ms=st.none() | milliseconds,
        http2_ping=st.none() | st.builds(Http2Ping, milliseconds, milliseconds),
        health_check=st.none()
        | st.builds(HealthCheck, st.just("/livez"), milliseconds, milliseconds, milliseconds, st.booleans()),
    ),
    stream_idle_timeout_ms=st.none() | milliseconds,
    watch_idle_timeout_ms=st.none() | milliseconds,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HypothesisCheck.function_scoped_fixture])
@given(gateways)
def test_every_value_that_we_accept_is_accepted_by_envoy(tmp_path: Path, tls: TlsFiles, gateway: Gateway) -> None:
    validate(tmp_path, gateway, tls)


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        (Gateway(apiserver_ca=None, listeners=(Listener("127.0.0.1", 0),)), "apiserver_ca"),
        (Gateway(apiserver_ca=Path("ca")), "listeners"),
        (Gateway(apiserver_ca=Path("ca"), listeners=(Listener("127.0.0.1", 0),), hosts=()), "hosts"),
        (Gateway(hosts=("one.example", "one.example")), "one twice"),
        (Gateway(Upstream(connect_timeout_ms=0)), "Upstream.connect_timeout_ms is 0: at least 1"),
        (Gateway(Upstream(retries=-1)), "Upstream.retries is -1: at least 0"),
        (Gateway(Upstream(http2_ping=Http2Ping(0, 1))), "Http2Ping.interval_ms is 0"),
        (Gateway(Upstream(tcp_keepalive=TcpKeepalive(1, 1, 128))), "127 probes"),
        (Gateway(Upstream(tcp_keepalive=TcpKeepalive(32768, 1, 1))), "32767 s"),
        (Gateway(stream_idle_timeout_ms=2**31), r"Gateway.stream_idle_timeout_ms is 2147483648"),
    ],
)
def test_what_cannot_work_is_refused(gateway: Gateway, message: str) -> None:
    if message not in {"apiserver_ca", "listeners", "hosts"}:
        gateway = replace(gateway, apiserver_ca=Path("ca"), listeners=(Listener("127.0.0.1", 0),))
    with pytest.raises(ValueError, match=message):
        _bootstrap(gateway)


def test_a_socket_path_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="107 bytes"):
        _bootstrap(Gateway(apiserver_ca=Path("ca"), listeners=(Listener("127.0.0.1", 0),)), admin="a" * 108)


def _bootstrap(gateway: Gateway, admin: str = "admin.sock") -> dict[str, object]:
    return config.bootstrap(
        gateway, endpoints=Path("eds"), admin=admin, access_log=Path("log"), key_log=None, node_id="gateway"
    )


def test_routing_goes_by_host_name(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver)
    for client in (bench.client(gateway), bench.client(gateway, encrypted=True)):
        assert client.answer("/version") == (200, "one")
        assert client.answer("/version", "gateway.example:6443") == (200, "one")
        assert client.answer("/version", "other.example") == (404, "")


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1"])
def test_an_upgrade_reaches_the_apiserver_by_http_1_1(bench: "Bench", protocol: str) -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver)
    connection = bench.upgraded(gateway, protocol)
    with connection.makefile("rb") as received:
        assert received.readline() == b"one\n"
        connection.sendall(b"echo\n")
        assert received.readline() == b"echo\n"
    connection.close()
    row = gateway.ended("/exec")
    assert (row.cluster, access_log.ending(row)) == (config.APISERVER_UPGRADE, "client-closed")


def test_endpoints_change_without_a_restart_and_open_watches_stay(bench: "Bench") -> None:
    (one, _), (two, _) = bench.apiserver("one"), bench.apiserver("two")
    gateway = bench.envoy(Gateway(), one)
    client = bench.client(gateway)
    watch = client.get("/pods?watch=true")
    client.wait(watch, h2.events.DataReceived)
    gateway.move_to(two)
    gateway.until(lambda: client.answer("/version") == (200, "two"))
    assert {client.answer("/version") for _ in range(10)} == {(200, "two")}
    row = gateway.watch_of_age(1000)
    assert row.server == f"127.0.0.1:{one.port}"


def test_the_access_log_shows_open_watches_and_no_token(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver, key_log=True)
    client = bench.client(gateway, encrypted=True)
    client.wait(client.get("/pods?watch=true&resourceVersion=7"), h2.events.DataReceived)
    row = gateway.watch_of_age(1000)
    assert row.path == "/pods?watch=true&resourceVersion=7"
    assert row.client == f"127.0.0.1:{client.socket.getsockname()[1]}"
    assert row.server == f"127.0.0.1:{apiserver.port}"
    assert row.server_leg_port in _local_ports_to(apiserver.port)
    assert (row.bytes_sent, row.status, row.protocol) == (4, 200, "HTTP/2")
    assert access_log.ending(row) is None
    client.close()
    assert access_log.ending(gateway.ended("/pods?watch=true&resourceVersion=7")) == "client-closed"
    assert access_log.open_watches(gateway.rows()) == []
    assert not [path for path in gateway.folder.rglob("*") if path.is_file() and b"the-token" in path.read_bytes()]


def _local_ports_to(port: int) -> set[int]:
    """Local ports of the connections to ``port``, by the kernel's table (proc_net_tcp)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    pairs = [[int(address.split(":")[1], 16) for address in line.split()[1:3]] for line in lines]
    return {local for local, remote in pairs if remote == port}


def test_the_key_log_holds_the_secrets_of_both_legs(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver, key_log=True)
    client = bench.client(gateway, encrypted=True, key_log=bench.folder / "client.keys")
    assert client.answer("/version") == (200, "one")

    def secrets(path: Path) -> set[str]:
        lines = path.read_text().splitlines() if path.exists() else []
        return {line for line in lines if line.startswith(("CLIENT_RANDOM", "CLIENT_TRAFFIC", "SERVER_TRAFFIC"))}

    client_leg, server_leg = secrets(bench.folder / "client.keys"), secrets(bench.folder / "one.keys")
    assert client_leg and server_leg
    gateway.until(lambda: client_leg | server_leg <= secrets(gateway.folder / "keys.log"))


@pytest.mark.parametrize(
    ("how", "event", "code"),
    [
        ("clean", h2.events.StreamEnded, "server-closed"),
        ("reset", h2.events.StreamReset, "server-reset"),
        ("exit", h2.events.StreamReset, "server-connection-lost"),
    ],
)
def test_how_the_server_ends_a_watch_is_seen_by_the_client_and_in_the_log(
    bench: "Bench", how: str, event: type[h2.events.Event], code: str
) -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver)
    client = bench.client(gateway)
    path = f"/pods?watch=true&end={how}"
    ended = client.wait(client.get(path), h2.events.StreamEnded, h2.events.StreamReset)
    assert isinstance(ended, event)
    if isinstance(ended, h2.events.StreamReset):
        assert ended.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR
    assert access_log.ending(gateway.ended(path)) == code


def test_the_stream_idle_timeout_ends_idle_watches_and_idle_exec_sessions(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(stream_idle_timeout_ms=700), apiserver)
    client, session = bench.client(gateway), bench.upgraded(gateway, "websocket")
    client.wait(client.get("/pods?watch=true"), h2.events.StreamReset)
    while session.recv(100):
        pass
    for path in ("/pods?watch=true", "/exec"):
        row = gateway.ended(path)
        assert access_log.ending(row) == "gateway-stream-idle-timeout"
        assert 690 <= row.duration_ms < 1700  # the timer counts whole milliseconds of its own


def test_the_watch_idle_timeout_ends_idle_watches_alone(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(watch_idle_timeout_ms=700), apiserver)
    client, session = bench.client(gateway), bench.upgraded(gateway, "websocket")
    for value in ("true", "1", "True"):
        client.wait(client.get(f"/pods?watch={value}"), h2.events.StreamReset)
        assert access_log.ending(gateway.ended(f"/pods?watch={value}")) == "gateway-stream-idle-timeout"
    with session.makefile("rb") as received:
        assert received.readline() == b"one\n"
        session.sendall(b"still here\n")
        assert received.readline() == b"still here\n"


def test_a_ping_ends_the_watch_on_a_frozen_server(bench: "Bench") -> None:
    apiserver, upstream = bench.apiserver("one")
    gateway = bench.envoy(Gateway(Upstream(http2_ping=PING)), apiserver)
    client = bench.client(gateway)
    watch = client.get("/pods?watch=true")
    client.wait(watch, h2.events.DataReceived)
    upstream.send_signal(SIGSTOP)
    frozen = time.monotonic()
    ended = client.wait(watch, h2.events.StreamReset)
    blind_s = time.monotonic() - frozen
    upstream.send_signal(SIGCONT)
    assert isinstance(ended, h2.events.StreamReset)
    assert ended.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR
    assert PING.timeout_ms / 1000 <= blind_s <= (PING.interval_ms * 1.15 + PING.timeout_ms) / 1000 + 1
    assert access_log.ending(gateway.ended("/pods?watch=true")) == "server-connection-lost"
    assert gateway.stats()["cluster.apiserver.http2.keepalive_timeout"] == 1


def test_a_health_check_takes_the_host_out_and_leaves_its_watch_hanging(bench: "Bench") -> None:
    (one, upstream), (two, _) = bench.apiserver("one"), bench.apiserver("two")
    gateway = bench.envoy(Gateway(Upstream(health_check=CHECK)), one)
    client = bench.client(gateway)
    watch = client.get("/pods?watch=true")
    client.wait(watch, h2.events.DataReceived)
    upstream.send_signal(SIGSTOP)
    gateway.until(lambda: gateway.stats()["cluster.apiserver.membership_healthy"] == 0)
    assert client.answer("/version")[0] == 503  # no panic: a host known to be unhealthy gets nothing
    gateway.move_to(one, two)
    gateway.until(lambda: client.answer("/version") == (200, "two"))
    with pytest.raises(TimeoutError):
        client.wait(watch, h2.events.StreamReset, h2.events.StreamEnded, within_s=1)
    upstream.send_signal(SIGCONT)


def test_a_refused_connection_is_tried_on_the_next_host(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        refusing = Apiserver("refusing", "127.0.0.1", listening.getsockname()[1])
    gateway = bench.envoy(Gateway(Upstream(retries=2)), refusing, apiserver)
    client = bench.client(gateway)
    assert {client.answer(f"/version?n={number}") for number in range(20)} == {(200, "one")}
    assert gateway.stats()["cluster.apiserver.upstream_rq_retry"] > 0


def test_a_retry_goes_to_another_host_though_the_dead_one_has_the_fewest_requests(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        refusing = Apiserver("refusing", "127.0.0.1", listening.getsockname()[1])
    gateway = bench.envoy(Gateway(Upstream(retries=1)), apiserver)
    client = bench.client(gateway)
    client.wait(client.get("/pods?watch=true"), h2.events.DataReceived)
    gateway.move_to(apiserver, refusing)
    gateway.until(lambda: gateway.stats()["cluster.apiserver.membership_total"] == 2)
    assert {client.answer(f"/version?n={number}") for number in range(50)} == {(200, "one")}


def test_more_watches_than_one_server_connection_takes_are_all_answered(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(Upstream(retries=0)), apiserver)
    client = bench.client(gateway)
    for watch in [client.get(f"/pods?watch=true&n={number}") for number in range(250)]:
        client.wait(watch, h2.events.DataReceived)
    stats = gateway.stats()
    assert (stats["cluster.apiserver.upstream_rq_active"], stats["cluster.apiserver.upstream_cx_active"]) == (250, 3)


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_server_with_the_wrong_certificate_gets_no_request(bench: "Bench", wrong: str) -> None:
    apiserver, _ = bench.apiserver("one")
    if wrong == "authority":
        other = bench.folder / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        gateway = bench.envoy(Gateway(apiserver_ca=other), apiserver)
    else:
        gateway = bench.envoy(Gateway(apiserver_sni="kubernetes.default.svc"), apiserver)
    status, _ = bench.client(gateway).answer("/version")
    row = gateway.ended("/version")
    assert (status, access_log.ending(row)) == (503, "server-connect-failed")
    assert "CERTIFICATE_VERIFY_FAILED" in (row.server_failure or "")


def test_a_port_in_use_is_told(tmp_path: Path, tls: TlsFiles) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        gateway = Gateway(apiserver_ca=tls.ca, listeners=(Listener("127.0.0.1", taken.getsockname()[1]),))
        written = config.bootstrap(
            gateway, endpoints=tmp_path, admin="a", access_log=tmp_path / "log", key_log=None, node_id="gateway"
        )
        config.write(tmp_path / "envoy.json", written)
        for cluster in config.CLUSTERS:
            endpoints.write_endpoints(tmp_path, cluster, [])
        argv = process.argv(tmp_path / "envoy.json", tmp_path / "envoy.log")
        done = subprocess.run(argv, cwd=tmp_path, check=False, stderr=subprocess.DEVNULL, timeout=20)
    assert done.returncode == 1
    assert "Address already in use" in (tmp_path / "envoy.log").read_text()


def test_tcp_keepalive_and_user_timeout_are_set_on_both_kinds_of_server_connections(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(Upstream(tcp_keepalive=KEEPALIVE, tcp_user_timeout_ms=7000)), apiserver)
    assert bench.client(gateway).answer("/version") == (200, "one")
    bench.upgraded(gateway, "websocket")
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    found = []
    for connection in _sockets_of(gateway.process.pid):
        with closing(connection):
            if connection.getsockname()[1] in _local_ports_to(apiserver.port):
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                found.append([connection.getsockopt(socket.IPPROTO_TCP, name) for name in names])
    assert found == [[10, 3, 3, 7000]] * 2


def _sockets_of(pid: int) -> list[socket.socket]:
    """Duplicates of another process's IPv4 sockets, by pidfd_getfd(2)."""
    libc, pidfd = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    found = []
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if not str(link.readlink()).startswith("socket:"):
                continue
            copy = libc.syscall(438, pidfd, int(link.name), 0)
            if copy < 0:
                pytest.skip(f"pidfd_getfd is not allowed here: {os.strerror(ctypes.get_errno())}")
            duplicate = socket.socket(fileno=copy)
            if duplicate.family == socket.AF_INET:
                found.append(duplicate)
            else:
                duplicate.close()
    finally:
        os.close(pidfd)
    return found


def test_a_written_bootstrap_is_json(tmp_path: Path) -> None:
    config.write(tmp_path / "envoy.json", {"a": [1]})
    assert json.loads((tmp_path / "envoy.json").read_text()) == {"a": [1]}
