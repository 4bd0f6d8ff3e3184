from typing import Any

from tests.lab.apiserver.backend import WIDGETS, backend
from tests.lab.apiserver.peers import run

from unblink.lab.apiserver import discovery
from unblink.lab.apiserver.resources import Resources

RESOURCES = Resources([WIDGETS])
AGGREGATED = discovery.AGGREGATED + ",application/json"


def test_both_discoveries_name_the_same_resources() -> None:
    def flat(document: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {
            (item["metadata"].get("name", ""), version["version"], resource["resource"])
            for item in document["items"]
            for version in item["versions"]
            for resource in version["resources"]
        }

    both = flat(discovery.aggregated(RESOURCES, core=True)) | flat(discovery.aggregated(RESOURCES, core=False))
    assert both == {(r.group, r.version, r.plural) for r in RESOURCES.all}
    for group, versions in RESOURCES.versions().items():
        for version in versions:
            listed = discovery.resource_list(RESOURCES, group, version)
            assert listed is not None
            names = {entry["name"] for entry in listed["resources"] if "/" not in entry["name"]}
            assert names == {plural for g, v, plural in both if (g, v) == (group, version)}


def test_what_there_is_not() -> None:
    assert discovery.group(RESOURCES, "nope") is None
    assert discovery.group(RESOURCES, "") is None
    assert discovery.resource_list(RESOURCES, "lab.dev", "v2") is None
    assert discovery.openapi(RESOURCES, "", "v2") is None


def test_kubectl_finds_that_validation_is_the_servers() -> None:
    document = discovery.openapi(RESOURCES, "", "v1")
    assert document is not None
    patch = document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}


def test_served() -> None:
    async def scenario() -> None:
        async with backend() as api:
            for path, kind in (
                ("/api", "APIVersions"),
                ("/apis", "APIGroupList"),
                ("/api/v1", "APIResourceList"),
                ("/apis/lab.dev", "APIGroup"),
                ("/apis/lab.dev/v1", "APIResourceList"),
            ):
                assert (await api.ask("GET", path)).json["kind"] == kind
            index = (await api.ask("GET", "/openapi/v3")).json["paths"]
            assert set(index) == {"api/v1", "apis/coordination.k8s.io/v1", "apis/lab.dev/v1"}
            for entry in index.values():
                assert (await api.ask("GET", entry["serverRelativeURL"])).json["openapi"] == "3.0.0"
            found = await api.ask("GET", "/apis", accept=AGGREGATED)
            assert found.json["kind"] == "APIGroupDiscoveryList"
            assert found.headers["cache-control"] == "public"
            assert (await api.ask("GET", "/apis/nope")).status == 404

    run(scenario())
