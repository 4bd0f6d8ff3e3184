"""A store and an apiserver's application in this process, with a relay between them that can fall silent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from unblink.lab.apiserver.app import Application, application
from unblink.lab.apiserver.asgi import Message
from unblink.lab.apiserver.config import ApiserverConfig, CustomResource, Health, User
from unblink.lab.apiserver.storage import Storage
from unblink.lab.apiserver.store import Store
from unblink.lab.apiserver.storeclient import StoreClient

LIMIT_S = 10.0
WIDGETS = CustomResource(group="lab.dev", version="v1", plural="widgets", kind="Widget", short_names=("wd",))
LAB = "/api/v1/namespaces/lab"


class Relay:
    """A TCP relay; ``cut`` lets no byte through, ``mend`` lets all go on, as a network does."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def reset(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
        await self._open.wait()
        writer.close()


@dataclass
class Response:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Events of a JSON watch so far."""
        return [(event["type"], event["object"]) for event in map(json.loads, self.body.splitlines())]

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(kind, thing["metadata"].get("name", "")) for kind, thing in self.events]


class Stream(Response):
    """A response as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = asyncio.Event()

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self._grown.set()

    async def until(self, events: int) -> None:
        """Wait for this many events."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.events) < events:
                self._grown.clear()
                await self._grown.wait()


@dataclass
class Backend:
    app: Application
    storage: Storage
    store: Store
    client: StoreClient
    health: Health
    relay: Relay
    user: User | None = field(default_factory=lambda: User("tester"))

    async def ask(
        self, method: str, target: str, body: Any = None, *, user_agent: str = "tester/1", **headers: str
    ) -> Response:
        """One request to its end; a dict as body is sent as JSON. Header names with _ for -."""
        stream = Stream()
        await self._call(stream, method, target, body, {"user-agent": user_agent, **headers})
        return stream

    @asynccontextmanager
    async def watch(self, target: str, **headers: str) -> AsyncIterator[Stream]:
        """A watch that is left at the end of the block."""
        stream = Stream()
        task = asyncio.create_task(self._call(stream, "GET", target, None, headers))
        try:
            yield stream
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _call(self, stream: Stream, method: str, target: str, body: Any, headers: dict[str, str]) -> None:
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if not isinstance(body, bytes) and body is not None:
            headers = {"content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "state": {"user": self.user},
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": raw, "more_body": False}

        async with asyncio.timeout(LIMIT_S):
            await self.app(scope, receive, stream.take)

    def bookmark_every(self, period_ms: int) -> None:
        """Quicker bookmarks, and the lease as slow as it was."""
        self.app._config = msgspec.structs.replace(self.app._config, bookmark_period_ms=period_ms)

    async def configmap(self, name: str, **data: str) -> Any:
        """Create a ConfigMap in namespace lab."""
        made = await self.ask("POST", f"{LAB}/configmaps", {"metadata": {"name": name}, "data": data})
        assert made.status == 201, made.body
        return made.json


@asynccontextmanager
async def backend(*, history: int = 1_000, timeout_ms: int = 300) -> AsyncIterator[Backend]:
    """Running, with its namespaces made."""
    store = Store(history)
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    relay = Relay(server.sockets[0].getsockname()[1])
    between = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    config = ApiserverConfig(
        name="a",
        address="127.0.0.1",
        ca="",
        certificate="",
        private_key="",
        store_address="127.0.0.1",
        store_port=port,
        custom_resources=(WIDGETS,),
    )
    client = StoreClient("127.0.0.1", port, timeout_ms=timeout_ms)
    health = Health()
    storage = Storage(client)
    app = application(config, storage, health)
    tasks = [asyncio.create_task(work) for work in (storage.run(), app.run())]
    try:
        async with asyncio.timeout(LIMIT_S):
            await storage.filled.wait()
            while not any("/leases/" in stored.key for stored in storage.cache.under("/registry/")):
                await storage.cache.reached(storage.cache.revision + 1, 1)
        yield Backend(app, storage, store, client, health, relay)
    finally:
        relay.mend()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store.close()
        relay.reset()
        for listening in (server, between):
            listening.close()
            await listening.wait_closed()
        while relay._tasks:
            await asyncio.sleep(0)
