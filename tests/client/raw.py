"""A server on loopback that says what a test writes, byte for byte; and the client's end of it, in one event loop."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from unblink.client.kubeconfig import Access

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection with ``talk``; the port. A connection that the client ends ends the talk."""
    tasks = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def plain(port: int) -> Access:
    """Access to a plain http server on loopback."""
    return Access("http", "127.0.0.1", port, token="hush")


async def request_head(reader: asyncio.StreamReader) -> str:
    """The head of an HTTP/1.1 request."""
    return (await reader.readuntil(b"\r\n\r\n")).decode()
