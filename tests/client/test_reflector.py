import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.loopback import Exchange, Loopback, serve

from unblink.client.kubeconfig import load
from unblink.client.pool import Pool
from unblink.client.reflector import Reflector, Watched
from unblink.stream.endings import EndedBy
from unblink.stream.messages import Command, Delivered, Ended, Listed, Proven, Stale, Stopped, WatchStarted
from unblink.stream.policy import CLIENT_GO, WatchPolicy, bounded

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


@pytest.mark.parametrize(
    ("api_version", "resource", "path"),
    [
        ("v1", "pods", "/api/v1/namespaces/lab/pods"),
        ("apps/v1", "deployments", "/apis/apps/v1/namespaces/lab/deployments"),
    ],
)
def test_or_as_in_a_manifest(api_version: str, resource: str, path: str) -> None:
    assert Watched.of(api_version, resource, "lab").path == path


@pytest.mark.parametrize(
    ("api_version", "resource"), [("", "pods"), ("apps/", "pods"), ("a/b/v1", "pods"), ("v1", ""), ("v1", "pods.v1")]
)
def test_what_is_neither(api_version: str, resource: str) -> None:
    with pytest.raises(ValueError, match="expected a pair such as"):
        Watched.of(api_version, resource)


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

        pool = Pool(load(server.kubeconfig(folder)))
        reflector = Reflector(pool, Watched("configmaps", "lab"), policy, observe)
        running = asyncio.ensure_future(reflector.run())
        try:
            async with asyncio.timeout(20):
                await asyncio.wait((running, asyncio.ensure_future(enough.wait())), return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        finally:
            await pool.close()

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
    delivered = [
        frame.metadata.resource_version
        for command in commands
        if isinstance(command, Delivered)
        for frame in command.frames
    ]
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
        reflector = Reflector(Pool(access), Watched("pods"), QUICK, seen.append)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reflector.run()

    asyncio.run(run())
    endings = [command.ending for command in seen if isinstance(command, Ended)]
    assert len(endings) > 2
    assert {ending.by for ending in endings} == {EndedBy.CONNECTION_LOST}
    assert "Connection refused" in endings[0].detail


# With a bound of its own. The server says nothing any more, and no byte of it is needed.

BOUNDED = bounded(10)
assert BOUNDED.liveness is not None
QUICKLY = replace(
    BOUNDED,
    watch_list=False,
    liveness=replace(
        BOUNDED.liveness, silence_ms=300, probe_ms=200, grace_ms=50, hedge_ms=100, head_ms=400, page_ms=400
    ),
)


def test_a_silent_watch_is_probed_and_replaced_on_another_connection_before_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unblink.stream.session.SETTLE_MS", 0)
    old: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            return exchange.respond(body=page(11 if exchange.query["limit"] == "1" else 10))
        exchange.respond()
        if not old:
            old.append(exchange)
            return await exchange.until_closed()
        exchange.data(event("MODIFIED", 11) if len(server_watches) == 1 else b"")
        server_watches.append(exchange)
        return await exchange.until_closed()

    server_watches: list[Exchange] = [None]  # type: ignore[list-item]  # its length tells the first replacement
    seen: list[Command] = []

    async def run(server: Loopback) -> None:
        pool = Pool(load(server.kubeconfig(tmp_path)))
        done = asyncio.Event()

        def observe(command: Command) -> None:
            seen.append(command)
            if isinstance(command, Proven):
                done.set()

        running = asyncio.ensure_future(Reflector(pool, Watched("pods"), QUICKLY, observe).run())
        async with asyncio.timeout(10):
            await done.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await pool.close()

    with serve(handler) as server:
        asyncio.run(run(server))
        watches = [exchange for exchange in server.exchanges if "watch" in exchange.query]
        probes = [exchange for exchange in server.exchanges if exchange.query.get("limit") == "1"]
    kinds = [type(command).__name__ for command in seen]
    assert kinds.index("Doubted") < kinds.index("Stale") < kinds.index("Proven")
    assert any(isinstance(command, Stale) and command.behind for command in seen)
    assert len({exchange.client_port for exchange in (watches[0], probes[0], watches[1])}) == 3
    assert {exchange.query["resourceVersion"] for exchange in watches} == {"10"}
    last = kinds.index("Delivered")
    assert [kind for kind in kinds[:last] if kind == "Ended"] == ["Ended"]
    assert sum(isinstance(command, Listed) for command in seen) == 1


def test_a_request_without_an_answer_has_an_end(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.until_closed()

    commands, server = reflect(handler, tmp_path, 2, QUICKLY)
    ended = [command.ending for command in commands if isinstance(command, Ended)]
    assert {ending.by for ending in ended} == {EndedBy.DEADLINE}
    assert "no answer of the list within" in ended[0].detail
    assert len({exchange.client_port for exchange in server.exchanges}) == len(server.exchanges)


def test_a_compressed_list_is_a_list(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            assert exchange.headers["accept-encoding"] == "gzip"
            headers = {"content-type": "application/json", "content-encoding": "gzip"}
            return exchange.respond(headers=headers, body=gzip.compress(page(10, 1, 2)))
        exchange.respond()
        exchange.data(event("MODIFIED", 11))
        await exchange.drained()
        return exchange.end()

    commands, _ = reflect(handler, tmp_path, 1)
    (listed,) = [command for command in commands if isinstance(command, Listed)]
    assert [item.metadata.name for item in listed.items] == ["item-1", "item-2"]


def test_what_observe_raises_ends_it(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(body=page(10))

    def observe(command: Command) -> None:
        if isinstance(command, Listed):
            raise LookupError("mine")

    async def run(server: Loopback) -> None:
        pool = Pool(load(server.kubeconfig(tmp_path)))
        with pytest.raises(LookupError, match="mine"):
            async with asyncio.timeout(10):
                await Reflector(pool, Watched("pods"), QUICK, observe).run()
        await pool.close()

    with serve(handler) as server:
        asyncio.run(run(server))


def test_stop_ends_it_cleanly(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        if "watch" not in exchange.query:
            return exchange.respond(body=page(10))
        exchange.respond()
        return await exchange.until_closed()

    async def run(server: Loopback) -> None:
        pool = Pool(load(server.kubeconfig(tmp_path)))
        started = asyncio.Event()
        reflector = Reflector(
            pool, Watched("pods"), QUICK, lambda command: started.set() if isinstance(command, WatchStarted) else None
        )
        running = asyncio.ensure_future(reflector.run())
        async with asyncio.timeout(10):
            await started.wait()
            reflector.stop()
            reflector.stop()
            await running
        await pool.close()

    with serve(handler) as server:
        asyncio.run(run(server))
