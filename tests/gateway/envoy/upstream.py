"""A small apiserver-like upstream of its own process: HTTP/2 (h2) and HTTP/1.1 upgrades over TLS.

`python upstream.py NAME CERTIFICATE-AND-KEY` prints its port and writes its TLS secrets to NAME.keys. Every
answer's body begins with NAME. A path with `watch` in its query stays open; with `end=clean`, `end=reset` or
`end=exit` in it, it ends so after half a second.
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events


class Upstream(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.h2: h2.connection.H2Connection | None = None
        self.head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            self.h2.initiate_connection()
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self.h2 is None:
            self.http1(data)
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.request(event.stream_id, dict(event.headers)[b":path"].decode())
        self.flush()

    def request(self, stream: int, path: str) -> None:
        assert self.h2
        watch = "watch=" in path
        self.h2.send_headers(stream, [(":status", "200"), ("server", "upstream")])
        self.h2.send_data(stream, self.name + b"\n", end_stream=not watch)
        if watch and "end=" in path:
            asyncio.get_running_loop().call_later(0.5, self.end, stream, path.split("end=")[1])

    def end(self, stream: int, how: str) -> None:
        assert self.h2
        match how:
            case "clean":
                self.h2.end_stream(stream)
            case "reset":
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case "exit":
                os._exit(0)
        self.flush()

    def http1(self, data: bytes) -> None:
        """A health check gets its 200; an upgrade is answered with 101 and then echoes."""
        if self.head is None:
            self.transport.write(data)
            return
        self.head += data
        if b"\r\n\r\n" not in self.head:
            return
        if b"\r\nupgrade:" in self.head.lower():
            protocol = self.head.lower().split(b"\r\nupgrade:")[1].split(b"\r\n")[0].strip()
            self.transport.write(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n")
            self.transport.write(self.name + b"\n")
            self.head = None
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            self.head = b""

    def flush(self) -> None:
        assert self.h2
        self.transport.write(self.h2.data_to_send())


async def main(name: str, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.keylog_filename = f"{name}.keys"
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(name), "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
