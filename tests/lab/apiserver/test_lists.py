import base64

import pytest
from tests.lab.apiserver.backend import LAB, Backend, backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import storage

LIST = f"{LAB}/configmaps"


async def names(api: Backend, query: str) -> list[str]:
    answer = await api.ask("GET", f"{LIST}?{query}")
    assert answer.status == 200, answer.body
    return [item["metadata"]["name"] for item in answer.json["items"]]


def test_pages_are_of_one_revision() -> None:
    async def scenario() -> None:
        async with backend() as api:
            for name in "abcde":
                await api.configmap(name)
            first = (await api.ask("GET", f"{LIST}?limit=2")).json
            assert first["metadata"]["remainingItemCount"] == 3
            await api.ask("DELETE", f"{LIST}/c")
            await api.configmap("b2")
            rest: list[str] = []
            after = first["metadata"]["continue"]
            while after:
                page = (await api.ask("GET", f"{LIST}?limit=2&continue={after}")).json
                assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
                rest += [item["metadata"]["name"] for item in page["items"]]
                after = page["metadata"].get("continue")
            assert rest == ["c", "d", "e"]

    run(scenario())


def test_pages_over_all_namespaces_and_with_a_selector() -> None:
    async def scenario() -> None:
        async with backend() as api:
            for name in "abc":
                await api.configmap(name)
            target = "/api/v1/configmaps?limit=1&fieldSelector=metadata.namespace%3Dlab"
            found, after = [], ""
            while True:
                page = (await api.ask("GET", f"{target}&continue={after}")).json
                assert "remainingItemCount" not in page["metadata"]
                found += [item["metadata"]["name"] for item in page["items"]]
                after = page["metadata"].get("continue", "")
                if not after:
                    break
            assert found == ["a", "b", "c"]

    run(scenario())


def test_a_page_whose_revision_is_compacted() -> None:
    async def scenario() -> None:
        async with backend(history=3) as api:
            for name in "ab":
                await api.configmap(name)
            after = (await api.ask("GET", f"{LIST}?limit=1")).json["metadata"]["continue"]
            for name in "cdef":
                await api.configmap(name)
            expired = await api.ask("GET", f"{LIST}?limit=1&continue={after}")
            assert (expired.status, expired.json["reason"]) == (410, "Expired")

    run(scenario())


def test_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FRESH_WITHIN_S", 0.05)

    async def scenario() -> None:
        async with backend() as api:
            first = (await api.configmap("a"))["metadata"]["resourceVersion"]
            await api.configmap("b")
            exact = f"resourceVersion={first}&resourceVersionMatch=Exact"
            assert await names(api, exact) == ["a"]
            assert await names(api, f"resourceVersion={first}&limit=5") == ["a"]
            assert await names(api, f"resourceVersion={first}&resourceVersionMatch=NotOlderThan") == ["a", "b"]
            assert await names(api, f"resourceVersion={first}") == ["a", "b"]
            assert await names(api, "resourceVersion=0&limit=1") == ["a", "b"]
            for future in ("", "&resourceVersionMatch=Exact"):
                answer = await api.ask("GET", f"{LIST}?resourceVersion=99999{future}")
                assert answer.status == 504
                assert answer.json["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"

    run(scenario())


def test_a_list_holds_what_was_written_through_another_apiserver() -> None:
    async def scenario() -> None:
        async with backend() as api:
            api.store.keys.put("/registry/configmaps/lab/x", b'{"metadata":{"name":"x","namespace":"lab"}}')
            api.storage.cache.take(api.store.keys.events_from(api.store.keys.revision)[0])
            assert await names(api, "") == ["x"]

    run(scenario())


@pytest.mark.parametrize(
    "token",
    [
        "zzz",
        "%25",
        base64.urlsafe_b64encode(b"{").decode(),
        base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":0,"start":"/a"}').decode(),
        base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":1,"start":"/../a"}').decode(),
        base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":99999999999999999999,"start":"/a"}').decode(),
        base64.urlsafe_b64encode(b'{"v":"v2","rv":1,"start":"/a"}').decode(),
    ],
)
def test_bad_tokens(token: str) -> None:
    async def scenario() -> None:
        async with backend() as api:
            answer = await api.ask("GET", f"{LIST}?continue={token}")
            assert answer.status == 400
            assert answer.json["message"].startswith("invalid continue token")

    run(scenario())


def test_shapes() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("a")
            accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
            partial = (await api.ask("GET", LIST, accept=accept)).json
            assert partial["kind"] == "PartialObjectMetadataList"
            assert partial["items"][0]["kind"] == "PartialObjectMetadata"
            assert "kind" not in (await api.ask("GET", LIST)).json["items"][0]

    run(scenario())
