"""What is served: one table of resources, as kube-apiserver 1.36 declares them in discovery."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from unblink.lab.apiserver.config import CustomResource

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Subresource:
    name: str
    kind: str
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Resource:
    """``fields`` are the dotted paths a fieldSelector may name beside metadata.name and metadata.namespace."""

    group: str
    version: str
    plural: str
    kind: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    verbs: tuple[str, ...] = ALL_VERBS
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    fields: tuple[str, ...] = ()
    delete_returns_object: bool = False
    counts_generations: bool = False
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """Store keys of this resource start with this; then come ``namespace/`` (if namespaced) and the name."""
        return f"/registry/{self.group}/{self.plural}/" if self.group else f"/registry/{self.plural}/"

    @property
    def has_status(self) -> bool:
        return any(subresource.name == "status" for subresource in self.subresources)

    @property
    def storage_version_hash(self) -> str:
        """As k8s.io/apiserver discovery.StorageVersionHash computes it."""
        gvk = f"{self.group}/{self.version}/{self.kind}"
        return b64encode(hashlib.sha256(gvk.encode()).digest()[:8]).decode()

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else f"{self.prefix}{name}"


_STATUS_VERBS = ("get", "patch", "update")

BUILT_IN = (
    Resource("", "v1", "configmaps", "ConfigMap", "configmap", ("cm",)),
    Resource(
        "",
        "v1",
        "events",
        "Event",
        "event",
        ("ev",),
        fields=(
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ),
    ),
    Resource(
        "",
        "v1",
        "namespaces",
        "Namespace",
        "namespace",
        ("ns",),
        namespaced=False,
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=(Subresource("status", "Namespace", _STATUS_VERBS),),
        fields=("status.phase",),
        delete_returns_object=True,
    ),
    Resource(
        "",
        "v1",
        "pods",
        "Pod",
        "pod",
        ("po",),
        categories=("all",),
        subresources=(
            Subresource("attach", "PodAttachOptions", ("create", "get")),
            Subresource("exec", "PodExecOptions", ("create", "get")),
            Subresource("status", "Pod", _STATUS_VERBS),
        ),
        fields=(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ),
        delete_returns_object=True,
        counts_generations=True,
    ),
    Resource("", "v1", "secrets", "Secret", "secret", fields=("type",)),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", "lease"),
)


class Resources:
    """The served resources, by group, version and plural."""

    def __init__(self, custom: Iterable[CustomResource] = ()) -> None:
        self.all = BUILT_IN + tuple(map(_custom, custom))
        self._by_name = {(r.group, r.version, r.plural): r for r in self.all}

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_name.get((group, version, plural))

    def versions(self) -> dict[str, list[str]]:
        """Group to its versions, in the table's order, the core group ("") included."""
        groups: dict[str, list[str]] = {}
        for resource in self.all:
            versions = groups.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return groups


def _custom(declared: CustomResource) -> Resource:
    return Resource(
        declared.group,
        declared.version,
        declared.plural,
        declared.kind,
        declared.singular or declared.kind.lower(),
        declared.short_names,
        declared.namespaced,
        counts_generations=True,
        custom=True,
    )
