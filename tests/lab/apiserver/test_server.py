import asyncio
import socket
import ssl

import pytest
from hyperframe.frame import DataFrame
from tests.lab.apiserver.peers import Files, Held, Http2Client, connect, plain, run, serving

from unblink.lab.apiserver.asgi import Receive, Scope, Send
from unblink.lab.apiserver.deaf import sockets_on
from unblink.lab.apiserver.server import Server, tls_context


async def subject(scope: Scope, receive: Receive, send: Send) -> None:
    certificate = scope["state"]["peer_certificate"]
    await plain(send, repr(certificate and certificate["subject"]).encode())


def test_the_application_sees_the_client_certificate(files: Files) -> None:
    async def scenario() -> None:
        async with serving(subject, files) as (_, port):
            async with Http2Client.open(port, files, certificate=files.client) as client:
                client.request(1)
                assert b"system:masters" in (await client.response(1)).body
            async with Http2Client.open(port, files) as client:
                client.request(1)
                assert (await client.response(1)).body == b"None"

    run(scenario())


def test_a_certificate_of_another_ca_is_refused(files: Files) -> None:
    async def scenario() -> None:
        async with serving(subject, files) as (server, port):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with Http2Client.open(port, files, certificate=files.stranger) as client:
                    client.request(1)
                    await client.response(1)
            await server.empty()

    run(scenario())


def test_tls_is_1_2_or_later(files: Files) -> None:
    assert tls_context(files.certificate, files.private_key, files.ca).minimum_version == ssl.TLSVersion.TLSv1_2


def test_tls_files_that_are_none(files: Files) -> None:
    with pytest.raises(OSError):
        tls_context(files.ca, files.ca, files.ca)
    with pytest.raises(FileNotFoundError):
        tls_context(files.folder / "nothing", files.private_key, files.ca)


def test_a_port_in_use_is_an_oserror(files: Files) -> None:
    async def scenario() -> None:
        async with serving(plain_app, files) as (_, port):
            with pytest.raises(OSError):
                await Server(plain_app, tls_context(files.certificate, files.private_key, files.ca)).listen(
                    "127.0.0.1", port
                )

    run(scenario())


async def plain_app(scope: Scope, receive: Receive, send: Send) -> None:
    await plain(send)


def test_after_stop_listening_connections_are_refused_and_old_ones_served(files: Files) -> None:
    async def scenario() -> None:
        async with serving(plain_app, files) as (server, port), Http2Client.open(port, files) as client:
            server.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await connect(port, files.context())
            client.request(1)
            assert (await client.response(1)).body == b"ok"

    run(scenario())


def test_muted_it_says_nothing_and_unmuted_all_of_it(files: Files) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await client.until(lambda frame: isinstance(frame, DataFrame))
            server.mute(True)
            app.tick.set()
            with pytest.raises(TimeoutError):
                await client.frame(within_s=0.2)
            server.finish()
            server.mute(False)
            assert (await client.response(1)).body == b"tick\n"

    run(scenario())


def test_accepted_connections_have_tcp_keepalive(files: Files) -> None:
    async def scenario() -> None:
        async with serving(plain_app, files) as (_, port), Http2Client.open(port, files) as client:
            await client.frame()
            found = [
                (
                    each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                )
                for each in sockets_on(port)
            ]
            assert found == [(1, 180)] * 2  # listener and connection

    run(scenario())
