import asyncio
from typing import Any

import pytest
from tests.lab.apiserver.backend import LAB, Backend, backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import protobuf

MERGE = {"content_type": "application/merge-patch+json"}
STRATEGIC = {"content_type": "application/strategic-merge-patch+json"}
JSON_PATCH = {"content_type": "application/json-patch+json"}
APPLY = {"content_type": "application/apply-patch+yaml"}
POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "1"}]}, "status": {"phase": "Failed"}}


@pytest.mark.parametrize(
    ("thing", "status", "says"),
    [
        ({"metadata": {}}, 422, "name or generateName is required"),
        ({"metadata": {"name": "A_b"}}, 422, "a lowercase RFC 1123 subdomain"),
        ({"metadata": {"name": "a", "namespace": "other"}}, 400, "does not match the namespace sent"),
        ({"kind": "Secret", "metadata": {"name": "a"}}, 400, "cannot be handled as a ConfigMap"),
        ({"apiVersion": "v2", "metadata": {"name": "a"}}, 400, "does not match the expected API version"),
        ({"metadata": {"name": "a", "resourceVersion": "5"}}, 500, "should not be set on objects to be created"),
        ({"metadata": {"name": "a"}, "data": {"n": 1}}, 400, "ConfigMap.data of type string"),
        ({"metadata": {"name": "a", "labels": ["x"]}}, 400, "metadata.labels of type string"),
        ({"metadata": 5}, 400, "unrecognized"),
        ([], 400, "unrecognized"),
        (b"{", 400, "json parse error"),
    ],
)
def test_what_cannot_be_created(thing: Any, status: int, says: str) -> None:
    async def scenario() -> None:
        async with backend() as api:
            refused = await api.ask("POST", f"{LAB}/configmaps", thing, content_type="application/json")
            assert refused.status == status
            assert says in refused.json["message"]

    run(scenario())


def test_a_namespace_has_to_exist() -> None:
    async def scenario() -> None:
        async with backend() as api:
            target = "/api/v1/namespaces/new/configmaps"
            refused = await api.ask("POST", target, {"metadata": {"name": "a"}})
            assert (refused.status, refused.json["message"]) == (404, 'namespaces "new" not found')
            assert (await api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "new"}})).status == 201
            assert (await api.ask("POST", target, {"metadata": {"name": "a"}})).status == 201
            gone = await api.ask("DELETE", "/api/v1/namespaces/new")
            assert gone.json["kind"] == "Namespace"
            assert (await api.ask("GET", target)).json["items"] == []

    run(scenario())


def test_many_writers_of_one_object_all_succeed_and_none_is_lost() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("c")

            async def patch(number: int) -> int:
                change = {"data": {f"k{number}": "1"}}
                return (await api.ask("PATCH", f"{LAB}/configmaps/c", change, **MERGE)).status

            assert await asyncio.gather(*map(patch, range(4))) == [200] * 4
            assert len((await api.ask("GET", f"{LAB}/configmaps/c")).json["data"]) == 4

    run(scenario())


def test_patches() -> None:
    async def scenario() -> None:
        async with backend() as api:
            made = await api.ask("POST", f"{LAB}/pods", POD)
            assert made.json["status"] == {"phase": "Pending"}
            target = f"{LAB}/pods/p"
            change: Any = {"spec": {"containers": [{"name": "b", "image": "2"}]}}
            containers = (await api.ask("PATCH", target, change, **STRATEGIC)).json["spec"]["containers"]
            assert [c["name"] for c in containers] == ["a", "b"]
            change = [{"op": "remove", "path": "/spec/containers/0"}]
            patched = (await api.ask("PATCH", target, change, **JSON_PATCH)).json
            assert [c["name"] for c in patched["spec"]["containers"]] == ["b"]
            assert patched["metadata"]["generation"] == 3
            old = {"metadata": {"resourceVersion": made.json["metadata"]["resourceVersion"]}, "spec": {"x": 1}}
            assert (await api.ask("PATCH", target, old, **MERGE)).status == 409
            other = {"metadata": {"uid": "someone-else"}}
            assert "Precondition failed: UID" in (await api.ask("PATCH", target, other, **MERGE)).json["message"]
            assert (await api.ask("PATCH", target, [{"op": "remove", "path": "/nope"}], **JSON_PATCH)).status == 400
            assert (await api.ask("PATCH", target, b"{", **MERGE)).status == 400
            assert (await api.ask("PATCH", target, b"5", **MERGE)).status == 400

    run(scenario())


def test_status_is_written_through_its_own_path_alone() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.ask("POST", f"{LAB}/pods", POD)
            change = {"status": {"phase": "Running"}, "spec": {"nodeName": "n"}}
            by_status = (await api.ask("PATCH", f"{LAB}/pods/p/status", change, **MERGE)).json
            assert by_status["status"]["phase"] == "Running"
            assert "nodeName" not in by_status["spec"]
            assert by_status["metadata"]["generation"] == 1
            assert by_status["metadata"]["managedFields"][-1]["subresource"] == "status"
            by_main = (await api.ask("PATCH", f"{LAB}/pods/p", {"status": {"phase": "x"}, "a": 1}, **MERGE)).json
            assert by_main["status"]["phase"] == "Running"

    run(scenario())


def test_what_changes_nothing_writes_nothing() -> None:
    async def scenario() -> None:
        async with backend() as api:
            made = await api.configmap("c", a="1")
            again = await api.ask("PATCH", f"{LAB}/configmaps/c", {"data": {"a": "1"}}, user_agent="other", **MERGE)
            assert again.json == made
            dry = await api.ask("PATCH", f"{LAB}/configmaps/c?dryRun=All", {"data": {"a": "2"}}, **MERGE)
            assert dry.json["data"] == {"a": "2"}
            assert (await api.ask("GET", f"{LAB}/configmaps/c")).json == made
            dry = await api.ask("POST", f"{LAB}/configmaps?dryRun=All", {"metadata": {"name": "d"}})
            assert dry.status == 201
            assert (await api.ask("GET", f"{LAB}/configmaps/d")).status == 404

    run(scenario())


def test_preconditions_of_a_deletion() -> None:
    async def scenario() -> None:
        async with backend() as api:
            made = await api.configmap("c")
            target = f"{LAB}/configmaps/c"
            for wrong in ({"uid": "x"}, {"resourceVersion": "1"}):
                assert (await api.ask("DELETE", target, {"preconditions": wrong})).status == 409
            assert (await api.ask("DELETE", f"{target}?dryRun=All")).status == 200
            right = {"preconditions": {"uid": made["metadata"]["uid"]}}
            assert (await api.ask("DELETE", target, right)).status == 200
            assert (await api.ask("DELETE", target)).status == 404

    run(scenario())


def test_an_update_of_another_name_and_without_a_version() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("c", a="1")
            target = f"{LAB}/configmaps/c"
            assert (await api.ask("PUT", target, {"metadata": {"name": "d"}})).status == 400
            written = await api.ask("PUT", target, {"metadata": {"name": "c"}, "data": {"b": "2"}})
            assert written.json["data"] == {"b": "2"}
            assert (await api.ask("PUT", f"{LAB}/configmaps/x", {"metadata": {}})).status == 404

    run(scenario())


async def apply(api: Backend, data: dict[str, str], manager: str, query: str = "") -> Any:
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}
    target = f"{LAB}/configmaps/c?fieldManager={manager}{query}"
    return await api.ask("PATCH", target, thing, **APPLY)


def test_server_side_apply() -> None:
    async def scenario() -> None:
        async with backend() as api:
            assert (await apply(api, {"a": "1", "b": "1"}, "one")).status == 201
            same = await apply(api, {"a": "1", "b": "1"}, "one")
            assert same.status == 200
            again = await apply(api, {"a": "1", "b": "1"}, "one")
            assert again.json["metadata"]["resourceVersion"] == same.json["metadata"]["resourceVersion"]
            assert (await apply(api, {"b": "1", "c": "1"}, "two")).json["data"] == {"a": "1", "b": "1", "c": "1"}
            refused = await apply(api, {"a": "2"}, "two")
            assert refused.status == 409
            assert refused.json["details"]["causes"][0]["field"] == ".data.a"
            forced = await apply(api, {"a": "2"}, "two", "&force=true")
            assert forced.json["data"] == {"a": "2", "b": "1"}
            nobody = await api.ask("PATCH", f"{LAB}/configmaps/c", {}, **APPLY)
            assert nobody.status == 422

    run(scenario())


def test_applied_as_yaml() -> None:
    async def scenario() -> None:
        async with backend() as api:
            text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}\n"
            target = f"{LAB}/configmaps/c?fieldManager=m"
            assert (await api.ask("PATCH", target, text, **APPLY)).json["data"] == {"a": "1"}
            assert (await api.ask("PATCH", target, b"a: [", **APPLY)).status == 400

    run(scenario())


def test_protobuf_bodies() -> None:
    async def scenario() -> None:
        async with backend() as api:
            known = {"content_type": "application/vnd.kubernetes.protobuf"}
            thing = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "1"}}
            made = await api.ask("POST", f"{LAB}/configmaps", protobuf.encode(thing), **known)
            assert made.json["data"] == {"a": "1"}
            unknown = protobuf.MAGIC + bytes.fromhex("0a09") + b"\x0a\x02v1\x12\x03Pod"
            assert (await api.ask("POST", f"{LAB}/pods", unknown, **known)).status == 415
            assert (await api.ask("POST", f"{LAB}/configmaps", b"{}", **known)).status == 400

    run(scenario())
