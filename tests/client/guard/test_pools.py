from importlib import import_module
from typing import Any

import pytest
from tests.client.guard.cluster import PATH, serving

from unblink.client.guard import pools

LIBRARIES: list[Any] = [import_module("httpx"), import_module("httpx2")]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_a_copy_has_the_users_settings_and_its_own_connections(library: Any) -> None:
    with serving() as cluster, library.Client(base_url=cluster.url, headers={"X-Who": "me"}) as client:
        client.get(PATH)
        clone, made = pools.own(client)
        assert clone.headers["X-Who"] == "me"
        clone.get(PATH)
        client.get(PATH)
        first, second, third = (asked.port for asked in cluster.asked)
        assert first == third
        assert second != first
        for transport in made:
            transport.close()
        client.get(PATH)
        assert cluster.asked[-1].port == first, "the user's pool is still open"


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_proxies_are_copied_too(library: Any) -> None:
    with library.Client(proxy="http://127.0.0.1:1") as client:
        clone, made = pools.own(client)
        assert len(made) == 1 + sum(transport is not None for transport in client._mounts.values())
        assert set(clone._mounts) == set(client._mounts)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_a_transport_of_another_kind_is_shared(library: Any) -> None:
    with library.Client(transport=library.MockTransport(lambda _: library.Response(200))) as client:
        clone, made = pools.own(client)
        assert clone._transport is client._transport
        assert not [transport for transport in made if transport is client._transport]
