"""Discovery documents: /api, /apis, their resource lists, aggregated discovery v2, OpenAPI v3, /version.

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

import hashlib
from typing import Any

from unblink.lab.apiserver.cache import encode
from unblink.lab.apiserver.resources import Resource, Resources

Document = dict[str, Any]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

VERSION: Document = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0-unblink.lab",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": "linux/amd64",
}


def core_versions(server_address: str) -> Document:
    """/api"""
    by_cidr = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": by_cidr}


def group_list(resources: Resources) -> Document:
    """/apis"""
    groups = [_group(group, versions) for group, versions in resources.versions().items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(resources: Resources, name: str) -> Document | None:
    """/apis/{group}; None: there is no such group."""
    versions = resources.versions().get(name) if name else None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions else None


def _group(name: str, versions: list[str]) -> Document:
    offered = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": offered, "preferredVersion": offered[0]}


def resource_list(resources: Resources, group_name: str, version: str) -> Document | None:
    """/api/v1 and /apis/{group}/{version}; None: there is no such version."""
    served = _of_version(resources, group_name, version)
    if not served:
        return None
    entries = [entry for resource in served for entry in _resource_entries(resource)]
    group_version = f"{group_name}/{version}" if group_name else version
    head = {"kind": "APIResourceList", "groupVersion": group_version, "resources": entries}
    return head | ({"apiVersion": "v1"} if group_name else {})


def _resource_entries(resource: Resource) -> list[Document]:
    entry: Document = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    }
    if resource.short_names:
        entry["shortNames"] = resource.short_names
    if resource.categories:
        entry["categories"] = resource.categories
    entry["storageVersionHash"] = resource.storage_version_hash
    below = [
        {
            "name": f"{resource.plural}/{subresource.name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": subresource.kind,
            "verbs": subresource.verbs,
        }
        for subresource in resource.subresources
    ]
    return [entry, *below]


def aggregated(resources: Resources, *, core: bool) -> Document:
    """APIGroupDiscoveryList of the core group (at /api) or of all others (at /apis)."""
    items = []
    for name, versions in resources.versions().items():
        if core != (not name):
            continue
        described = [
            {
                "version": version,
                "resources": [_aggregated_resource(r) for r in _of_version(resources, name, version)],
                "freshness": "Current",
            }
            for version in versions
        ]
        items.append({"metadata": {"name": name} if name else {}, "versions": described})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _aggregated_resource(resource: Resource) -> Document:
    # Built-in kinds of the core group carry no group and version here, as recorded.
    gv = {"group": resource.group, "version": resource.version if resource.group else ""}
    entry: Document = {
        "resource": resource.plural,
        "responseKind": {**gv, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    }
    if resource.short_names:
        entry["shortNames"] = resource.short_names
    if resource.categories:
        entry["categories"] = resource.categories
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": subresource.name,
                "responseKind": {"group": "", "version": "", "kind": subresource.kind},
                "verbs": subresource.verbs,
            }
            for subresource in resource.subresources
        ]
    return entry


def etag(body: bytes) -> str:
    return f'"{hashlib.sha512(body).hexdigest().upper()}"'


def openapi_index(resources: Resources) -> Document:
    """/openapi/v3"""
    paths = {}
    for name, versions in resources.versions().items():
        for version in versions:
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            digest = hashlib.sha256(encode(openapi(resources, name, version))).hexdigest().upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def openapi(resources: Resources, group_name: str, version: str) -> Document | None:
    """/openapi/v3/api/v1 and the like: what kubectl looks for, no schemas of fields.

    kubectl asks whether PATCH takes fieldValidation and then leaves validation to the server (which does none here).
    """
    served = _of_version(resources, group_name, version)
    if not served:
        return None
    root = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
    paths: Document = {}
    schemas: Document = {}
    for resource in served:
        gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        where = "/namespaces/{namespace}" if resource.namespaced else ""
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in ("dryRun", "fieldManager", "fieldValidation")
        ]
        operation = {"parameters": parameters, "responses": {"200": {"description": "OK"}}}
        paths[f"{root}{where}/{resource.plural}/{{name}}"] = {
            "patch": {
                **operation,
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": gvk,
            }
        }
        schemas[f"{resource.group or 'core'}.{resource.version}.{resource.kind}"] = {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-group-version-kind": [gvk],
        }
    info = {"title": "unblink lab", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _of_version(resources: Resources, group_name: str, version: str) -> list[Resource]:
    return [r for r in resources.all if (r.group, r.version) == (group_name, version)]
