import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.loopback import Exchange, serve

from unblink.client import discovery
from unblink.client.discovery import DiscoveryFailed, Resource, UnknownResource, resolve
from unblink.client.kubeconfig import load
from unblink.client.pool import Pool
from unblink.client.transport import Limits
from unblink.lab.apiserver import discovery as embedded
from unblink.lab.apiserver.config import CustomResource
from unblink.lab.apiserver.resources import Resources

TRANSCRIPTS = json.loads((Path(__file__).parent.parent / "data/apiserver-1.36-transcripts.json").read_text())


def recorded(name: str) -> bytes:
    return str(TRANSCRIPTS[name]["response"]["body"]).encode()


def resource(name: str, group: str = "", version: str = "v1", **fields: Any) -> Resource:
    """``name`` is ``plural/singular/short``."""
    plural, singular, *short = name.split("/")
    known: dict[str, Any] = {
        "kind": singular.capitalize(),
        "namespaced": True,
        "short_names": tuple(short),
        "verbs": ("list", "watch"),
    }
    return Resource(group, version, plural, singular, **(known | fields))


SERVER = [
    resource("pods/pod/po"),
    resource("events/event/ev"),
    resource("componentstatuses/componentstatus/cs", verbs=("get", "list")),
    resource("deployments/deployment/deploy", "apps"),
    resource("deployments/deployment/deploy", "apps", "v1beta1"),
    resource("events/event/ev", "events.k8s.io"),
    resource("ingresses/ingress/ing", "networking.k8s.io"),
    resource("pods/pod", "metrics.k8s.io", verbs=("get", "list")),
    resource("certificates/certificate/po", "cert.example"),  # its short name is another one's
    resource("po/po", "odd.example"),  # and its plural is one
    resource("nodestates/nodestate", "mesh.example", kind="MeshNode"),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pods", "v1 pods"),
        ("pod", "v1 pods"),
        ("Pod", "v1 pods"),
        ("PODS", "v1 pods"),
        ("meshnode", "mesh.example/v1 nodestates"),
        ("deploy", "apps/v1 deployments"),
        ("deployments.apps", "apps/v1 deployments"),
        ("deploy.apps", "apps/v1 deployments"),
        ("deployments.v1beta1.apps", "apps/v1beta1 deployments"),
        ("deployments.app", "apps/v1 deployments"),
        ("ing.networking", "networking.k8s.io/v1 ingresses"),
        ("ingresses.networking.k8s.io", "networking.k8s.io/v1 ingresses"),
        ("ingresses.v1.networking.k8s.io", "networking.k8s.io/v1 ingresses"),
        ("events", "v1 events"),
        ("events.events.k8s.io", "events.k8s.io/v1 events"),
        ("events.v1.", "v1 events"),
        ("po", "odd.example/v1 po"),
        ("po.cert.example", "cert.example/v1 certificates"),
    ],
)
def test_a_name_means_what_it_means_to_kubectl(name: str, found: str) -> None:
    chosen = resolve(SERVER, name)
    assert f"{chosen.api_version} {chosen.plural}" == found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("podz", "no resource 'podz'; did you mean pods"),
        ("deploymnet", "did you mean deployments?"),
        ("ingres", "did you mean ingresses?"),
        ("deployments.batch", "no resource 'deployments.batch'; did you mean deployments?"),
        ("deployments.v2.apps", "did you mean deployments?"),
        ("xyzzy", "no resource 'xyzzy'; kubectl api-resources lists what it has"),
        ("", "no resource ''"),
        ("componentstatuses", "componentstatuses cannot be watched: the server offers get, list"),
        ("pods.metrics.k8s.io", "pods cannot be watched"),
    ],
)
def test_what_is_not_there_is_said_with_what_could_be_meant(name: str, said: str) -> None:
    with pytest.raises(UnknownResource) as raised:
        resolve(SERVER, name)
    assert said in str(raised.value)


def test_the_recorded_documents_of_a_kube_apiserver() -> None:
    found = discovery.aggregated(recorded("apis-aggregated-discovery"))
    pods = resolve(found, "po")
    assert (pods.api_version, pods.plural, pods.kind, pods.namespaced) == ("v1", "pods", "Pod", True)
    assert not resolve(found, "no").namespaced
    assert {one.plural for one in found} == {one.plural for one in discovery.of_group_version("v1", recorded("api-v1"))}
    assert discovery.group_versions(recorded("api"), core=True) == ["v1"]
    named = discovery.group_versions(recorded("apis"), core=False)
    assert named[:3] == ["apiregistration.k8s.io/v1", "apps/v1", "events.k8s.io/v1"]
    assert named.index("autoscaling/v2") < named.index("autoscaling/v1")


def test_the_preferred_version_of_a_group_comes_first() -> None:
    versions = [{"groupVersion": f"x.example/{version}"} for version in ("v1alpha1", "v1", "v2")]
    groups = [{"name": "x.example", "versions": versions, "preferredVersion": versions[1]}]
    body = json.dumps({"kind": "APIGroupList", "groups": groups}).encode()
    assert discovery.group_versions(body, core=False) == ["x.example/v1", "x.example/v1alpha1", "x.example/v2"]


WIDGETS = CustomResource(group="lab.dev", version="v1", plural="widgets", kind="Widget", short_names=("wd",))
LAB = Resources((WIDGETS,))


def document(path: str, *, aggregated: bool) -> Any:
    """What the embedded apiserver says at a path."""
    if aggregated and path in ("/api", "/apis"):
        return embedded.aggregated(LAB, core=path == "/api")
    parts = path.strip("/").split("/")
    match parts:
        case ["api"]:
            return embedded.core_versions("127.0.0.1")
        case ["apis"]:
            return embedded.group_list(LAB)
        case ["api", version]:
            return embedded.resource_list(LAB, "", version)
        case ["apis", group, version]:
            return embedded.resource_list(LAB, group, version)
    return None


def answering(aggregated: bool, refuse: Callable[[Exchange], bool] = lambda _: False) -> Callable[..., Awaitable[None]]:
    async def handler(exchange: Exchange) -> None:
        if refuse(exchange):
            status = {"kind": "Status", "code": 503, "message": "the metrics server is down"}
            exchange.respond(503, body=json.dumps(status).encode())
            return
        kind = "application/json"
        if aggregated and exchange.path in ("/api", "/apis"):
            assert exchange.headers["accept"].startswith(f"{embedded.AGGREGATED},")
            kind = embedded.AGGREGATED
        body = json.dumps(document(exchange.path, aggregated=aggregated)).encode()
        exchange.respond(200, {"content-type": kind}, body)

    return handler


def discovered(kubeconfig: Path) -> list[Resource]:
    async def run() -> list[Resource]:
        pool = Pool(load(kubeconfig), Limits())
        try:
            return await discovery.discover(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def test_two_requests_suffice_where_the_server_aggregates(tmp_path: Path) -> None:
    with serve(answering(aggregated=True)) as server:
        found = discovered(server.kubeconfig(tmp_path))
        assert sorted(exchange.path for exchange in server.exchanges) == ["/api", "/apis"]
    assert found[0].group == ""
    assert resolve(found, "wd").api_version == "lab.dev/v1"
    assert resolve(found, "pods").namespaced
    assert not resolve(found, "ns").namespaced


def test_an_older_server_is_asked_version_by_version_and_tells_the_same(tmp_path: Path) -> None:
    with serve(answering(aggregated=False)) as server:
        found = discovered(server.kubeconfig(tmp_path))
        assert "/apis/lab.dev/v1" in {exchange.path for exchange in server.exchanges}
    with serve(answering(aggregated=True)) as server:
        assert found == discovered(server.kubeconfig(tmp_path))


def test_a_group_whose_server_is_down_is_left_out(tmp_path: Path) -> None:
    down = answering(aggregated=False, refuse=lambda exchange: exchange.path == "/apis/lab.dev/v1")
    with serve(down) as server:
        found = discovered(server.kubeconfig(tmp_path))
    assert resolve(found, "leases").group == "coordination.k8s.io"
    with pytest.raises(UnknownResource):
        resolve(found, "widgets")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"kind":"Status","code":401,"message":"Unauthorized"}', "401 Unauthorized"),
        (403, b'{"kind":"Status","code":403,"message":"it is forbidden"}', "403 it is forbidden"),
        (404, b"", "404 Not Found"),
        (599, b"", "599"),
        (200, b"<html>a portal</html>", "not a discovery document"),
        (200, b'{"kind":"APIVersions","versions":7}', "not a discovery document"),
    ],
)
def test_a_server_that_does_not_tell_is_an_error_with_its_words(
    tmp_path: Path, status: int, body: bytes, said: str
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(status, body=body)

    with serve(handler) as server, pytest.raises(DiscoveryFailed) as raised:
        discovered(server.kubeconfig(tmp_path))
    assert said in str(raised.value)
    assert raised.value.code == (None if status == 200 else status)
    assert "test-token" not in str(raised.value)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.until_closed()

    monkeypatch.setattr(discovery, "ANSWER_S", 0.01)
    with serve(handler) as server, pytest.raises(DiscoveryFailed, match=r"no answer within 0\.01 s"):
        discovered(server.kubeconfig(tmp_path))


def test_no_server_at_all_is_said_by_its_address(tmp_path: Path) -> None:
    with serve(answering(aggregated=True)) as server:
        kubeconfig = server.kubeconfig(tmp_path)
    with pytest.raises(DiscoveryFailed, match=rf"127\.0\.0\.1 port {server.port}: .*[Rr]efused"):
        discovered(kubeconfig)
