"""The application over a real store in this process: verbs, representations, health, the store going away."""

import asyncio
import gzip
import json
from collections.abc import Callable

import pytest
from tests.lab.apiserver.backend import LAB, backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import protobuf

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
WIDGETS = "/apis/lab.dev/v1/namespaces/lab/widgets"


def test_a_life() -> None:
    async def scenario() -> None:
        async with backend() as api:
            made = await api.configmap("c", a="1")
            read = await api.ask("GET", f"{LAB}/configmaps/c")
            assert read.json == made
            made["data"]["a"] = "2"
            updated = await api.ask("PUT", f"{LAB}/configmaps/c", made)
            assert updated.status == 200
            assert int(updated.json["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
            assert (await api.ask("PUT", f"{LAB}/configmaps/c", made)).status == 409
            assert (await api.ask("DELETE", f"{LAB}/configmaps/c")).json["status"] == "Success"
            assert (await api.ask("GET", f"{LAB}/configmaps/c")).status == 404

    run(scenario())


def test_who_is_nobody_sees_health_and_version_alone() -> None:
    async def scenario() -> None:
        async with backend() as api:
            api.user = None
            for path in ("/livez", "/readyz", "/healthz", "/version"):
                assert (await api.ask("GET", path)).status == 200
            for path in ("/api", "/openapi/v3", "/nope", f"{LAB}/pods", "/api/v1/watch/pods"):
                assert (await api.ask("GET", path)).status == 403
            refused = await api.ask("GET", f"{LAB}/secrets/s")
            assert refused.json["message"] == (
                'secrets "s" is forbidden: User "system:anonymous" cannot get resource "secrets" in API group ""'
                ' in the namespace "lab"'
            )

    run(scenario())


def test_representations_of_an_object() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("c", a="1")
            target = f"{LAB}/configmaps/c"
            table = (await api.ask("GET", target, accept=TABLE)).json
            assert table["kind"] == "Table"
            assert table["rows"][0]["cells"][:2] == ["c", 1]
            part = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
            assert (await api.ask("GET", target, accept=part)).json["kind"] == "PartialObjectMetadata"
            text = await api.ask("GET", target, accept="application/yaml")
            assert b"kind: ConfigMap" in text.body
            assert text.headers["content-type"] == "application/yaml"
            raw = await api.ask("GET", target, accept="application/vnd.kubernetes.protobuf,application/json")
            decoded = protobuf.decode(raw.body)
            assert decoded is not None
            assert decoded["data"] == {"a": "1"}
            assert (await api.ask("GET", target, accept="text/html")).status == 406

    run(scenario())


def test_a_long_list_is_compressed_for_who_takes_it() -> None:
    async def scenario() -> None:
        async with backend() as api:
            await api.configmap("big", a="x" * 200_000)
            small = await api.ask("GET", f"{LAB}/configmaps", accept_encoding="gzip, deflate")
            assert small.headers["content-encoding"] == "gzip"
            assert small.headers["vary"] == "Accept-Encoding"
            assert json.loads(gzip.decompress(small.body))["items"][0]["metadata"]["name"] == "big"
            assert "content-encoding" not in (await api.ask("GET", f"{LAB}/configmaps")).headers

    run(scenario())


def test_custom_resources_are_lists_of_whole_objects() -> None:
    async def scenario() -> None:
        async with backend() as api:
            thing = {"apiVersion": "lab.dev/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"n": {}}}
            made = await api.ask("POST", WIDGETS, thing)
            assert made.status == 201
            assert made.json["spec"] == {"n": {}}
            listed = (await api.ask("GET", WIDGETS)).json
            assert (listed["kind"], listed["apiVersion"]) == ("WidgetList", "lab.dev/v1")
            assert listed["items"][0]["kind"] == "Widget"
            patched = await api.ask(
                "PATCH", f"{WIDGETS}/w", {"spec": {"n": 1}}, content_type="application/merge-patch+json"
            )
            assert patched.json["metadata"]["generation"] == 2
            strategic = "application/strategic-merge-patch+json"
            assert (await api.ask("PATCH", f"{WIDGETS}/w", {}, content_type=strategic)).status == 415

    run(scenario())


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/apis/nope/v1", 404),
        ("GET", "/api/v1/namespaces/lab/pods/p/log", 404),
        ("POST", f"{LAB}/pods/p", 405),
        ("POST", "/api/v1/configmaps", 404),
        ("DELETE", "/api/v1/namespaces", 405),
        ("POST", "/version", 405),
        ("GET", f"{LAB}/pods/p/exec", 404),
        ("GET", f"{LAB}/configmaps/c?resourceVersion=x", 500),
    ],
)
def test_refusals(method: str, target: str, status: int) -> None:
    async def scenario() -> None:
        async with backend() as api:
            assert (await api.ask(method, target)).status == status

    run(scenario())


def test_a_body_too_large() -> None:
    async def scenario() -> None:
        async with backend() as api:
            refused = await api.ask("POST", f"{LAB}/configmaps", b"x" * 3_200_000, content_type="application/json")
            assert refused.status == 413

    run(scenario())


def test_deletecollection_takes_what_is_selected() -> None:
    async def scenario() -> None:
        async with backend() as api:
            for name in ("a", "b"):
                await api.configmap(name)
            gone = await api.ask("DELETE", f"{LAB}/configmaps?fieldSelector=metadata.name%3Da")
            assert [item["metadata"]["name"] for item in gone.json["items"]] == ["a"]
            left = (await api.ask("GET", f"{LAB}/configmaps")).json["items"]
            assert [item["metadata"]["name"] for item in left] == ["b"]

    run(scenario())


def test_a_read_from_the_cache_and_one_from_the_store_when_the_store_is_cut_off() -> None:
    async def scenario() -> None:
        async with backend(timeout_ms=150) as api:
            await api.configmap("c")
            api.relay.cut()
            for request in (("GET", f"{LAB}/configmaps/c"), ("GET", f"{LAB}/configmaps"), ("DELETE", f"{LAB}/pods/p")):
                answer = await api.ask(*request)
                assert answer.status == 500
                assert answer.json["message"] == "etcdserver: request timed out"
            assert (await api.ask("GET", f"{LAB}/configmaps?resourceVersion=0")).status == 200
            assert (await api.ask("GET", f"{LAB}/configmaps/c?resourceVersion=0")).status == 200
            assert (await api.ask("GET", "/livez")).status == 200
            failing = await api.ask("GET", "/readyz")
            assert failing.status == 500
            assert b"[-]etcd failed: reason withheld\n" in failing.body
            api.relay.mend()
            await eventually(lambda: api.client.connected)
            assert (await api.ask("GET", f"{LAB}/configmaps/c")).status == 200
            assert (await api.ask("GET", "/readyz")).status == 200

    run(scenario())


def test_secrets_and_tokens_are_not_logged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def scenario() -> None:
        async with backend() as api:
            secret = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
            made = await api.ask("POST", f"{LAB}/secrets?x=query-secret", secret, authorization="Bearer tok-en")
            assert made.json["data"] == {"password": "aHVudGVyMg=="}

    run(scenario())
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    (asked,) = (line for line in lines if line["event"] == "request")
    assert {"verb": "create", "path": f"{LAB}/secrets", "user": "tester", "status": 201} == {
        name: asked[name] for name in ("verb", "path", "user", "status")
    }
    assert not any(word in json.dumps(lines) for word in ("hunter2", "aHVudGVyMg", "tok-en", "query-secret"))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
