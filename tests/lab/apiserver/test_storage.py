import pytest
from tests.lab.apiserver.backend import backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver.resources import Resources
from unblink.lab.apiserver.statuses import ApiError
from unblink.lab.apiserver.storage import Changed
from unblink.lab.apiserver.store import Keys

CONFIGMAPS = next(resource for resource in Resources().all if resource.plural == "configmaps")


def thing(value: str) -> dict[str, object]:
    return {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "lab"}, "data": {"a": value}}


def test_writes_go_by_what_was_read() -> None:
    async def scenario() -> None:
        async with backend() as api:
            storage = api.storage
            first = await storage.create(CONFIGMAPS, thing("1"))
            with pytest.raises(ApiError, match="already exists"):
                await storage.create(CONFIGMAPS, thing("1"))
            second = await storage.replace(first, thing("2"))
            with pytest.raises(Changed) as caught:
                await storage.replace(first, thing("3"))
            assert caught.value.now is not None
            assert caught.value.now.data == second.data
            with pytest.raises(Changed):
                await storage.remove(first)
            gone = await storage.remove(second)
            assert gone.data["data"] == {"a": "2"}
            assert gone.revision > second.revision
            with pytest.raises(Changed) as caught:
                await storage.remove(second)
            assert caught.value.now is None

    run(scenario())


def test_a_write_is_in_the_cache_when_it_is_acknowledged() -> None:
    async def scenario() -> None:
        async with backend() as api:
            for number in range(20):
                stored = await api.storage.create(CONFIGMAPS, {"metadata": {"name": f"n{number}", "namespace": "lab"}})
                assert api.storage.cache.revision >= stored.revision

    run(scenario())


def test_the_store_holds_no_revision_of_its_own() -> None:
    async def scenario() -> None:
        async with backend() as api:
            stored = await api.storage.create(CONFIGMAPS, thing("1"))
            await api.storage.replace(stored, stored.data)
            pair = api.store.keys.get(stored.key)
            assert pair is not None
            assert b"resourceVersion" not in pair.value

    run(scenario())


def test_a_store_that_starts_anew_is_read_anew() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("old")
            api.relay.cut()
            api.store.keys = Keys(100)
            api.store.keys.put("/registry/configmaps/lab/new", b'{"metadata":{"name":"new","namespace":"lab"}}')
            api.relay.reset()
            api.relay.mend()
            assert await api.ask("GET", "/readyz")
            for _ in range(500):
                if [stored.key for stored in api.storage.cache.under("/registry/configmaps/lab/")] == [
                    "/registry/configmaps/lab/new"
                ]:
                    break
                await api.storage.cache.reached(api.storage.cache.revision + 1, 0.01)
            else:
                raise AssertionError("the cache still holds the old store's objects")

    run(scenario())
