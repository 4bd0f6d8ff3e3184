import asyncio

import pytest
from tests.lab.apiserver.backend import backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver.storeclient import StoreClient, StoreCompacted, StoreConflict, StoreFuture, StoreTimeout

ONE, TWO = b'{"metadata":{"name":"1"}}', b'{"metadata":{"name":"2"}}'


def test_compare_and_swap() -> None:
    async def scenario() -> None:
        async with backend() as api:
            store = api.client
            first = await store.put("/x", ONE, expected=0)
            with pytest.raises(StoreConflict) as caught:
                await store.put("/x", TWO, expected=0)
            assert caught.value.held is not None
            assert (caught.value.held.value, caught.value.held.mod_revision) == (ONE, first)
            second = await store.put("/x", TWO, expected=first)
            assert second > first
            with pytest.raises(StoreConflict):
                await store.delete("/x", expected=first)
            assert await store.delete("/x", expected=second) > second
            with pytest.raises(StoreConflict) as gone:
                await store.delete("/x", expected=0)
            assert gone.value.held is None

    run(scenario())


def test_reads() -> None:
    async def scenario() -> None:
        async with backend(history=20) as api:
            store = api.client
            first = await store.put("/x", ONE, expected=0)
            await store.put("/x-longer", ONE, expected=0)
            held = await store.get("/x")
            assert held is not None
            assert held.mod_revision == first
            assert await store.get("/") is None
            assert [pair.key for pair in (await store.range("/x", revision=first)).items] == ["/x"]
            with pytest.raises(StoreFuture):
                await store.range("/x", revision=first + 100)
            for number in range(30):
                await store.put(f"/n{number}", ONE, expected=0)
            with pytest.raises(StoreCompacted):
                await store.range("/x", revision=first)
            assert await store.revision() == api.store.keys.revision

    run(scenario())


def test_a_silent_store_is_a_timeout_and_the_connection_is_made_anew() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=100) as api:
            api.relay.cut()
            started = asyncio.get_running_loop().time()
            with pytest.raises(StoreTimeout):
                await api.client.revision()
            assert asyncio.get_running_loop().time() - started < 1
            with pytest.raises(StoreTimeout):
                await api.client.put("/x", ONE, expected=0)
            api.relay.mend()
            async with asyncio.timeout(5):
                while not api.client.connected:
                    await asyncio.sleep(0.01)
            assert await api.client.revision() == api.store.keys.revision

    run(scenario())


def test_an_idle_connection_that_falls_silent_is_noticed() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=100) as api:
            api.relay.cut()
            async with asyncio.timeout(5):
                while api.client.connected:
                    await asyncio.sleep(0.01)

    run(scenario())


def test_what_was_written_meanwhile_comes_after_a_reconnection() -> None:
    async def scenario() -> None:
        async with backend() as api:
            api.relay.reset()
            api.store.keys.put("/registry/configmaps/lab/x", b'{"metadata":{"name":"x"}}')
            assert await api.storage.cache.reached(api.store.keys.revision, 5)
            assert api.storage.cache.get("/registry/configmaps/lab/x") is not None

    run(scenario())


def test_without_a_connection_nothing_is_waited_for() -> None:
    async def scenario() -> None:
        client = StoreClient("127.0.0.1", 1, timeout_ms=60_000)
        with pytest.raises(StoreTimeout):
            await client.revision()

    run(scenario())
