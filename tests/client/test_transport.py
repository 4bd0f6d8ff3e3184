import asyncio
import socket
import ssl
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from tests.client.raw import Talk, plain, request_head, talking
from tests.loopback import Exchange, Loopback, serve

from unblink.chain import TcpKeepalive
from unblink.client.http1 import Http1Connection
from unblink.client.kubeconfig import Access, load
from unblink.client.proxy import Proxy
from unblink.client.transport import Limits, Unreachable, connect


def access_to(server: Loopback, folder: Path) -> Access:
    return load(server.kubeconfig(folder))


async def refuse(_: Exchange) -> None:
    raise AssertionError("no request may come")


def test_only_the_authority_of_the_kubeconfig_is_trusted(tmp_path: Path) -> None:
    with serve(refuse) as server:
        access = replace(access_to(server, tmp_path), ca=trustme.CA().cert_pem.bytes())
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            asyncio.run(connect(access))


def test_the_certificate_must_have_the_tls_server_name(tmp_path: Path) -> None:
    with serve(refuse) as server:
        access = replace(access_to(server, tmp_path), tls_server_name="elsewhere")
        with pytest.raises(Unreachable, match=r"certificate is not trusted.*elsewhere"):
            asyncio.run(connect(access))


def test_nobody_there(tmp_path: Path) -> None:
    with serve(refuse) as server:
        access = access_to(server, tmp_path)
    with pytest.raises(Unreachable, match=rf"^127.0.0.1 port {access.port}: "):
        asyncio.run(connect(access))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_never_speaks_http2_costs_no_more_than_the_limit(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with listening.accept()[0] as accepted:
                accepted.sendall(answer)
                while accepted.recv(4096):
                    pass

        thread = threading.Thread(target=accept)
        thread.start()
        started = time.monotonic()
        with pytest.raises(Unreachable):
            asyncio.run(connect(Access("https", "127.0.0.1", listening.getsockname()[1]), Limits(tls_ms=200)))
        assert time.monotonic() - started < 2
        thread.join(5)


def test_errors_and_reprs_hold_no_secret(tmp_path: Path) -> None:
    with serve(refuse) as server:
        access = replace(access_to(server, tmp_path), token="hush")

        async def run() -> str:
            async with await connect(access) as connection:
                return repr(connection) + repr(access)

        assert "hush" not in asyncio.run(run())


def test_a_server_without_http2_is_spoken_to_in_http1() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def run() -> None:
        async with asyncio.timeout(10), talking(hello, context) as port:
            await says_hello(Access("https", "127.0.0.1", port, ca=authority.cert_pem.bytes()))

    asyncio.run(run())


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    await reader.read()


async def says_hello(access: Access) -> None:
    async with await connect(access) as connection:
        assert await (await connection.request("GET", "/x")).body(10) == b"hello"


def test_a_server_that_hangs_up_during_the_handshake() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def run() -> None:
        async with asyncio.timeout(10), talking(hang_up) as port:
            with pytest.raises(Unreachable, match="TLS handshake: "):
                await connect(Access("https", "127.0.0.1", port))

    asyncio.run(run())


def test_the_limits_name_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        async with asyncio.timeout(10), talking(silent) as port:
            with pytest.raises(Unreachable, match=rf"^127.0.0.1 port {port}: no TLS handshake within 0.05 s$"):
                await connect(Access("https", "127.0.0.1", port), Limits(tls_ms=50))
            proxy = Proxy("http", "127.0.0.1", port)
            with pytest.raises(Unreachable, match=r"port 9 through the proxy .*: no TCP connection within 0.05 s$"):
                await connect(Access("https", "192.0.2.1", 9, proxy=proxy), Limits(connect_ms=50))
            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
            with pytest.raises(Unreachable, match=rf"^127.0.0.1 port {port}: no TCP connection within 0.05 s$"):
                await connect(Access("https", "127.0.0.1", port), Limits(connect_ms=50))

    asyncio.run(run())


def test_a_name_that_is_none() -> None:
    with pytest.raises(Unreachable, match=r"^nowhere\.invalid port 1: TCP connection: name resolution: "):
        asyncio.run(connect(Access("http", "nowhere.invalid", 1)))


def test_detectors_of_the_kernel_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[socket.socket] = []
    made = Http1Connection.connection_made

    def look(connection: Http1Connection, transport: asyncio.BaseTransport) -> None:
        seen.append(transport.get_extra_info("socket"))
        made(connection, transport)

    monkeypatch.setattr(Http1Connection, "connection_made", look)
    limits = Limits(tcp_user_timeout_ms=7000, tcp_keepalive=TcpKeepalive(11, 5, 3))

    async def run() -> None:
        async with talking(hello) as port, await connect(plain(port), limits):
            sock = seen[0]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            tcp = ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            values = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in tcp]
            assert values == [1, 11, 5, 3, 7000]
        async with talking(hello) as port, await connect(plain(port)):
            assert seen[1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0

    asyncio.run(run())


@pytest.mark.parametrize("http", [True, False])
def test_credentials_are_brought_up_to_date_before_each_use(monkeypatch: pytest.MonkeyPatch, http: bool) -> None:
    order: list[str] = []

    async def refresh(_: Access) -> None:
        order.append("refresh")

    def token(_: Access) -> str:
        order.append("token")
        return "t"

    monkeypatch.setattr(Access, "refresh", refresh)
    monkeypatch.setattr(Access, "bearer_token", token)

    async def run() -> None:
        async with talking(hello) as port, await connect(plain(port)) as connection:
            await connection.request("GET", "/x")

    async def answer(exchange: Exchange) -> None:
        exchange.respond()

    async def run_http2(access: Access) -> None:
        async with await connect(access) as connection:
            await connection.request("GET", "/x")

    if http:
        asyncio.run(run())
    else:
        with serve(answer) as server:
            ca = server.authority.cert_pem.bytes()
            asyncio.run(run_http2(Access("https", "127.0.0.1", server.port, ca=ca)))
    assert order == ["refresh", "refresh", "token"]


def a_proxy(heads: list[str], refusal: bytes = b"") -> Talk:
    """A proxy that tunnels, or answers so."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request_head(reader))
        if refusal:
            writer.write(refusal)
            await reader.read()
            return
        host, port = heads[-1].split()[1].rsplit(":", 1)
        there, onward = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: me\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, onward), copy(there, writer))
        finally:
            onward.transport.abort()

    return talk


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.transport.abort()


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
@pytest.mark.parametrize("server", ["http", "https", "h2"])
def test_through_a_proxy(tmp_path: Path, proxy_scheme: str, server: str) -> None:
    authority, heads = trustme.CA(), list[str]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def answer(exchange: Exchange) -> None:
        exchange.respond(body=b"hello")

    async def run(port: int) -> None:
        async with asyncio.timeout(10), AsyncExitStack() as stack:
            tls = context if proxy_scheme == "https" else None
            proxy_port = await stack.enter_async_context(talking(a_proxy(heads), tls))
            if server != "h2":
                port = await stack.enter_async_context(talking(hello, context if server == "https" else None))
            proxy = Proxy(proxy_scheme, "127.0.0.1", proxy_port, "Basic aHVzaA==")
            ca = authority.cert_pem.bytes()
            scheme = "http" if server == "http" else "https"
            await says_hello(Access(scheme, "127.0.0.1", port, ca=ca, proxy=proxy))
            assert heads[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n")
            assert "Proxy-Authorization: Basic aHVzaA==\r\n" in heads[0]

    with serve(answer, authority) as loopback:
        asyncio.run(run(loopback.port))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "the proxy answered 407 to CONNECT",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nno", "the proxy answered 403 to CONNECT"),
        (b"SSH-2.0-x\r\n\r\n", "the proxy does not speak HTTP/1.1"),
        (b"x" * 20_000, "an answer to CONNECT of more than 16384 bytes"),
    ],
)
def test_a_proxy_that_refuses_is_named_and_its_credentials_are_not(answer: bytes, text: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), talking(a_proxy([], answer)) as port:
            access = Access("https", "server.test", 6443, proxy=Proxy("http", "127.0.0.1", port, "Basic aHVzaA=="))
            assert "aHVzaA" not in repr(access)
            with pytest.raises(Unreachable) as caught:
                await connect(access)
            expected = f"server.test port 6443 through the proxy 127.0.0.1 port {port}: TCP connection: {text}"
            assert str(caught.value) == expected

    asyncio.run(run())


def test_a_proxys_certificate_is_checked() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def run() -> None:
        async with asyncio.timeout(10), talking(a_proxy([]), context) as port:
            access = Access("https", "server.test", 6443, proxy=Proxy("https", "127.0.0.1", port))
            with pytest.raises(Unreachable, match="the proxy's certificate is not trusted"):
                await connect(access)

    asyncio.run(run())


def test_a_server_that_is_not_trusted_through_a_proxy_that_is(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def run(port: int) -> None:
        async with asyncio.timeout(10), talking(a_proxy([]), context) as proxy_port:
            proxy = Proxy("https", "127.0.0.1", proxy_port)
            access = Access("https", "127.0.0.1", port, ca=authority.cert_pem.bytes(), proxy=proxy)
            with pytest.raises(Unreachable, match="the server's certificate is not trusted"):
                await connect(access)

    with serve(refuse) as server:
        asyncio.run(run(server.port))
