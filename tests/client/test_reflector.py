import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.loopback import Exchange, Loopback, serve

from unblink.client.kubeconfig import load
from unblink.client.reflector import Reflector, Watched
from unblink.stream.endings import EndedBy
from unblink.stream.policy import CLIENT_GO, WatchPolicy
from unblink.stream.session import Command, Delivered, Ended, Listed, Stopped, WatchStarted

QUICK = replace(CLIENT_GO, watch_list=False, backoff=replace(CLIENT_GO.backoff, base_ms=1, limit_ms=2))


@pytest.mark.parametrize(
    ("watched", "path"),
    [
        (Watched("pods"), "/api/v1/pods"),
        (Watched("pods", "lab"), "/api/v1/namespaces/lab/pods"),
        (Watched("deployments.v1.apps", "lab"), "/apis/apps/v1/namespaces/lab/deployments"),
        (Watched("widgets.v1beta1.example.test"), "/apis/example.test/v1beta1/widgets"),
    ],
)
def test_resources_are_spelled_as_for_kubectl(watched: Watched, path: str) -> None:
    assert watched.path == path


@pytest.mark.parametrize("resource", ["", "deployments.apps", ".v1.apps"])
def test_a_resource_that_is_none(resource: str) -> None:
    with pytest.raises(ValueError, match=r"expected RESOURCE or RESOURCE\.VERSION\.GROUP"):
        _ = Watched(resource).path


def test_a_url_leaves_out_what_is_unset_and_quotes_the_rest() -> None:
    watched = Watched("pods", field_selector="metadata.name=a&b")
    url = watched.url(limit=0, resourceVersion="", timeoutSeconds=5)
    assert url == "/api/v1/pods?fieldSelector=metadata.name%3Da%26b&timeoutSeconds=5"


def event(kind: str, version: int, **metadata: object) -> bytes:
    content = {"metadata": {"name": "canary", "resourceVersion": str(version), **metadata}}
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def page(version: int, *items: int, token: str = "") -> bytes:
    contents = [{"metadata": {"name": f"item-{item}", "resourceVersion": str(item)}} for item in items]
    return json.dumps({"metadata": {"resourceVersion": str(version), "continue": token}, "items": contents}).encode()


def reflect(
    handler: Callable[[Exchange], Awaitable[None]], folder: Path, endings: int, policy: WatchPolicy = QUICK
) -> tuple[list[Command], Loopback]:
    """Run a reflector until it has told so many endings."""
    commands: list[Command] = []

    async def run(server: Loopback) -> None:
        enough = asyncio.Event()

        def observe(command: Command) -> None:
            commands.append(command)
            if sum(isinstance(one, Ended) for one in commands) >= endings:
                enough.set()

        reflector = Reflector(load(server.kubeconfig(folder)), Watched("configmaps", "lab"), policy, observe)
        running = asyncio.ensure_future(reflector.run())
        async with asyncio.timeout(10):
            await asyncio.wait((running, asyncio.ensure_future(enough.wait())), return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with serve(handler) as server:
        asyncio.run(run(server))
    assert not any(isinstance(command, Stopped) for command in commands)
    return commands, server


def test_pages_then_a_watch_resumed_after_a_clean_end_and_relisted_after_a_reset(tmp_path: Path) -> None:
    watches = [Exchange.end, Exchange.reset]

    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            more = exchange.query.get("continue")
            return exchange.respond(body=page(10, 2) if more else page(10, 1, token="next"))
        exchange.respond()
        exchange.data(event("MODIFIED", 13 - len(watches)))
        await exchange.drained()
        return watches.pop(0)(exchange) if watches else exchange.end()

    commands, server = reflect(handler, tmp_path, 2)
    listed = [command for command in commands if isinstance(command, Listed)]
    assert [item.metadata.name for item in listed[0].items] == ["item-1", "item-2"]
    assert [command.resource_version for command in commands if isinstance(command, WatchStarted)][:2] == ["10", "11"]
    ended = [command.ending.by for command in commands if isinstance(command, Ended)]
    assert ended[:2] == [EndedBy.SERVER_CLOSED, EndedBy.STREAM_RESET]
    delivered = [command.frame.metadata.resource_version for command in commands if isinstance(command, Delivered)]
    assert delivered[:2] == ["11", "12"]
    queries = [dict(exchange.query) for exchange in server.exchanges]
    assert queries[0] == {"resourceVersion": "0", "limit": "500"}
    assert queries[1] == {"continue": "next", "limit": "500"}
    assert queries[2]["allowWatchBookmarks"] == queries[2]["watch"] == "true"
    assert 300 <= int(queries[2]["timeoutSeconds"]) <= 600
    assert len({exchange.client_port for exchange in server.exchanges}) == 1


def test_a_lost_connection_is_replaced(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            return exchange.respond(body=page(10))
        exchange.respond()
        exchange.data(event("MODIFIED", 11))
        await exchange.drained()
        return exchange.close_connection()

    commands, server = reflect(handler, tmp_path, 2)
    assert {command.ending.by for command in commands if isinstance(command, Ended)} == {EndedBy.CONNECTION_LOST}
    assert len({exchange.client_port for exchange in server.exchanges}) >= 2
    assert sum(isinstance(command, Listed) for command in commands) == 1


def test_an_expired_version_closes_the_stream_and_lists_consistently(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            return exchange.respond(body=page(10))
        exchange.respond()
        error = {"kind": "Status", "metadata": {}, "code": 410, "reason": "Expired", "message": "too old"}
        exchange.data(json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")
        return None

    commands, server = reflect(handler, tmp_path, 2)
    ended = next(command.ending for command in commands if isinstance(command, Ended))
    assert (ended.by, ended.code) == (EndedBy.ERROR_EVENT, 410)
    lists = [exchange.query for exchange in server.exchanges if "watch" not in exchange.query]
    assert lists[0]["resourceVersion"] == "0"
    assert "resourceVersion" not in lists[1]


def test_refusals_carry_what_the_server_said(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        status = {"kind": "Status", "message": "no such thing", "reason": "Forbidden", "code": 403}
        exchange.respond(403, body=json.dumps(status).encode())

    commands, _ = reflect(handler, tmp_path, 2)
    ended = next(command.ending for command in commands if isinstance(command, Ended))
    assert (ended.by, ended.code) == (EndedBy.REFUSED, 403)
    assert "no such thing" in ended.detail


def test_a_watch_list_falls_back_to_a_list_where_it_is_not_known(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if "sendInitialEvents" in exchange.query:
            return exchange.respond(422, body=b'{"kind":"Status","reason":"Invalid","code":422,"message":"unknown"}')
        if "watch" not in exchange.query:
            return exchange.respond(body=page(10))
        exchange.respond()
        exchange.data(event("MODIFIED", 11))
        await exchange.drained()
        return exchange.end()

    commands, server = reflect(handler, tmp_path, 2, replace(QUICK, watch_list=True))
    assert server.exchanges[0].query["resourceVersionMatch"] == "NotOlderThan"
    assert any(isinstance(command, Listed) for command in commands)


def test_nobody_there_is_told_and_tried_again(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        raise AssertionError(exchange)

    with serve(handler) as server:
        access = load(server.kubeconfig(tmp_path))
    seen: list[Command] = []

    async def run() -> None:
        reflector = Reflector(access, Watched("pods"), QUICK, seen.append)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reflector.run()

    asyncio.run(run())
    endings = [command.ending for command in seen if isinstance(command, Ended)]
    assert len(endings) > 2
    assert {ending.by for ending in endings} == {EndedBy.CONNECTION_LOST}
    assert "Connection refused" in endings[0].detail
