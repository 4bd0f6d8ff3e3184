import asyncio
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver.asgi import ClientGoneError, Exchange, Message, Receive, Scope, Send, http_scope
from unblink.lab.apiserver.statuses import Headers

BASE: Scope = {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {"peer_certificate": None}}


class Recorder:
    """A wire that keeps what it is told."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def start(self, status: int, headers: Headers) -> None:
        self.done.append(status)

    def body(self, data: bytes, more: bool) -> None:
        self.done.append((data, more))

    async def sendable(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.done.append("abort")

    def consumed(self, size: int) -> None:
        if size:
            self.done.append(f"consumed {size}")


@given(st.text(), st.text())
def test_the_scope_has_path_and_query_apart(path: str, query: str) -> None:
    target = f"/{quote(path)}?{quote(query)}".encode()
    scope = http_scope(BASE, "2", "GET", target, [])
    assert scope["path"] == f"/{path}" and scope["query_string"] == quote(query).encode()


def test_each_request_has_its_own_state() -> None:
    first, second = (http_scope(BASE, "2", "GET", b"/", []) for _ in range(2))
    first["state"]["user"] = "x"
    assert "user" not in second["state"] and "user" not in BASE["state"]


def test_a_client_that_has_gone_cannot_be_sent_to() -> None:
    seen: list[object] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append((await receive())["type"])
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            except ClientGoneError:
                seen.append("gone")

    async def scenario() -> None:
        wire = Recorder()
        exchange = Exchange(stubborn, http_scope(BASE, "2", "GET", b"/", []), wire)
        await asyncio.sleep(0)
        exchange.disconnect()
        while len(seen) < 2:
            await asyncio.sleep(0)
        assert (seen, wire.done) == (["http.disconnect", "gone"], [])

    run(scenario())


def test_what_was_not_read_of_the_request_is_given_back_at_the_end() -> None:
    async def incurious(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def scenario() -> None:
        wire = Recorder()
        exchange = Exchange(incurious, http_scope(BASE, "2", "POST", b"/", []), wire)
        exchange.feed(b"12345")
        exchange.feed_end()
        while "consumed 5" not in wire.done:
            await asyncio.sleep(0)
        assert wire.done == [200, (b"ok", False), "consumed 5"]

    run(scenario())


def test_an_application_that_answers_nothing_or_nonsense_is_a_500() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def confused(scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"type": "http.response.body", "body": b"too early"}
        await send(message)

    async def scenario() -> None:
        for app in (silent, confused):
            wire = Recorder()
            Exchange(app, http_scope(BASE, "2", "GET", b"/", []), wire)
            while not wire.done:
                await asyncio.sleep(0)
            assert wire.done[0] == 500

    run(scenario())
