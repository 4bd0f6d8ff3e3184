import asyncio
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from tests.loopback import Exchange, Loopback, serve

from unblink.client.kubeconfig import Access, load
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
