import asyncio

from tests.lab.apiserver.backend import backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver.lease import NAMESPACES, bootstrap, keep_lease
from unblink.lab.apiserver.resources import Resources

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


def test_what_is_there_from_the_start_and_is_not_made_twice() -> None:
    async def scenario() -> None:
        async with backend() as api:
            names = [item["metadata"]["name"] for item in (await api.ask("GET", "/api/v1/namespaces")).json["items"]]
            assert names == sorted(NAMESPACES)
            before = api.store.keys.revision
            await bootstrap(api.storage, Resources())
            assert api.store.keys.revision == before

    run(scenario())


def test_the_lease_moves_the_revision_of_a_quiet_store() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=100) as api:
            (lease,) = (await api.ask("GET", LEASES)).json["items"]
            assert lease["spec"]["holderIdentity"] == "a"
            api.bookmark_every(60)
            task = asyncio.create_task(keep_lease(api.storage, Resources(), api.app._config))
            before = api.store.keys.revision
            assert await api.storage.cache.reached(before + 3, 5)
            assert len((await api.ask("GET", LEASES)).json["items"]) == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scenario())
