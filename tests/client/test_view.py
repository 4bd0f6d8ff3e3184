"""A view of a real collection: what it holds, how fresh it says that it is, and what it does when its server goes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.client.conftest import PODS
from tests.embedded import Cluster, pod
from tests.loopback import Exchange, serve

import unblink
from unblink.client.objects import Object
from unblink.client.view import View
from unblink.stream.messages import Command, Listed

LIMIT_S = 20.0


def view(of: Cluster | Path, resource: str = "pods", **options: object) -> tuple[View, list[str]]:
    """A view, and the keys of its changes."""
    changes: list[str] = []

    def put(key: str, old: Object | None, new: Object | None) -> None:
        changes.append(("+" if old is None else "-" if new is None else "~") + key)

    kubeconfig = of if isinstance(of, Path) else of.kubeconfig
    return View("v1", resource, put, kubeconfig=kubeconfig, **options), changes  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_it_holds_what_is_there_and_what_comes(running: Cluster) -> None:
    async def main() -> None:
        pods, changes = view(running, namespace="lab")
        async with pods:
            assert sorted(changes) == ["+lab/db-0", "+lab/web-0"]
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1", app="web"))
            await asyncio.to_thread(running.ask, "DELETE", f"{PODS}/db-0")
            await until(lambda: changes[2:] == ["+lab/web-1", "-lab/db-0"])
            assert [one.metadata.name for one in pods.list()] == ["web-0", "web-1"]
            assert [one.metadata.name for one in pods.list(label_selector="app in (db,x)")] == []
            assert len(pods.list("app=web", namespace="lab")) == len(pods) == 2
            assert pods.list(namespace="other") == []
            found = pods.get("lab/web-0")
            assert found is not None
            assert found["spec"]["containers"][0]["name"] == "c"
            assert pods.get("lab/db-0") is None
            assert pods.counters.events["ADDED"] == pods.counters.events["DELETED"] == 1

    asyncio.run(main())


def test_it_says_how_fresh_it_is(running: Cluster) -> None:
    async def main() -> None:
        pods, _ = view(running, max_staleness=20)
        assert (pods.is_live(), pods.staleness, pods.last_proof_of_life) == (False, float("inf"), None)
        assert pods.health().reason == "not started"
        async with pods:
            assert pods.is_live()
            assert pods.staleness < 5
            assert pods.last_proof_of_life == pytest.approx(time.time(), abs=5)
            assert pods.health().reason.startswith(f"list at resourceVersion {pods.resource_version}, 0.")
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1"))
            await until(lambda: pods.get("lab/web-1") is not None)
            assert "event at resourceVersion" in pods.health().reason

    asyncio.run(main())


def test_its_server_goes_and_comes_back(running: Cluster) -> None:
    async def main() -> None:
        pods, changes = view(running, namespace="lab", max_staleness=8)
        async with pods:
            running.stop_apiserver()
            await until(lambda: "connection-lost" in pods.health().reason)
            assert "no proof of life for" in pods.health().reason
            assert pods.get("lab/web-0") is not None
            await asyncio.to_thread(running.start_apiserver)
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-1"))
            await until(lambda: "+lab/web-1" in changes)
            assert pods.is_live()
            assert pods.counters.restarts["connection-lost"] == 1

    asyncio.run(main())


def test_metadata_alone_where_that_is_enough(running: Cluster) -> None:
    async def main() -> None:
        pods, _ = view(running, namespace="lab", metadata_only=True)
        async with pods:
            found = pods.get("lab/web-0")
            assert found is not None
            assert found["kind"] == "PartialObjectMetadata"
            assert found.labels == {"app": "web"}
            assert "spec" not in found

    asyncio.run(main())


def test_what_cannot_be_watched_is_said_at_once(running: Cluster, tmp_path: Path) -> None:
    async def enter(pods: View) -> None:
        async with asyncio.timeout(LIMIT_S), pods:
            pass

    with pytest.raises(unblink.WatchRefused, match="/api/v1/nonsense: 404 NotFound: ") as refused:
        asyncio.run(enter(view(running, "nonsense")[0]))
    assert refused.value.code == 404
    nobody = tmp_path / "wrong"
    nobody.write_text("contexts: []")
    with pytest.raises(unblink.KubeconfigError, match=r"current-context|contexts"):
        asyncio.run(enter(view(nobody)[0]))
    for bound in (1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_staleness: expected at least 10 s"):
            view(running, max_staleness=bound)
    with pytest.raises(ValueError, match="expected"):
        view(running, label_selector="a in b")


def test_a_refusal_is_not_repeated_with_its_secret(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(401, body=b'{"kind":"Status","code":401,"reason":"Unauthorized","message":"Unauthorized"}')

    async def main(kubeconfig: Path) -> None:
        pods, _ = view(kubeconfig)
        with pytest.raises(unblink.WatchRefused, match="401 Unauthorized") as refused:
            async with asyncio.timeout(LIMIT_S), pods:
                pass
        assert "test-token" not in repr(refused.value)

    with serve(handler) as server:
        asyncio.run(main(server.kubeconfig(tmp_path)))


def test_trace_gets_every_command_and_its_errors_come_out(running: Cluster) -> None:
    seen: list[Command] = []

    def trace(command: Command) -> None:
        seen.append(command)
        if isinstance(command, Listed) and len(command.items) == 2:
            raise LookupError("mine")

    async def main() -> None:
        pods, _ = view(running, namespace="lab", trace=trace)
        with pytest.raises(LookupError, match="mine"):
            async with asyncio.timeout(LIMIT_S), pods:
                pass

    asyncio.run(main())
    assert [type(command).__name__ for command in seen] == ["AskWatch", "WatchStarted", "Listed"]


def test_views_of_one_cluster_share_their_connection(running: Cluster) -> None:
    async def main() -> None:
        views = [view(running, namespace="lab")[0] for _ in range(20)]

        async def enter(one: View) -> None:
            await one.__aenter__()

        await asyncio.gather(*(enter(one) for one in views))
        pools = {id(one._cluster.pool) for one in views if one._cluster is not None}
        assert len(pools) == 1
        shared = views[0]._cluster
        assert shared is not None
        assert shared.watchers == 20
        assert len(shared.pool._connections) == 1
        for one in views:
            await one.__aexit__(None, None, None)
        assert shared.watchers == 0

    asyncio.run(main())


Waiting = Callable[[View], Awaitable[None]]


@pytest.mark.parametrize("wait", [View.changed, View.wait_closed])
def test_who_waits_is_told_when_it_ends(running: Cluster, wait: Waiting) -> None:
    failing = False

    def put(_key: str, _old: Object | None, _new: Object | None) -> None:
        if failing:
            raise LookupError("mine")

    async def main() -> None:
        nonlocal failing
        pods = View("v1", "pods", put, kubeconfig=running.kubeconfig)
        async with pods:
            failing = True
            waiting = asyncio.ensure_future(wait(pods))
            await asyncio.to_thread(running.ask, "POST", PODS, pod("web-9"))
            async with asyncio.timeout(LIMIT_S):
                with pytest.raises(LookupError, match="mine"):
                    await waiting

    asyncio.run(main())
