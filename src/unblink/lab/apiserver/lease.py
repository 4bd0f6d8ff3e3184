"""What a kube-apiserver writes by itself: the system namespaces, and its own identity lease.

The lease matters to watches: its renewal moves the store's revision on a quiet cluster, so that bookmarks advance.
https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity
"""

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Any

from unblink.lab.apiserver import objects, statuses
from unblink.lab.apiserver.config import ApiserverConfig
from unblink.lab.apiserver.objects import Writer
from unblink.lab.apiserver.resources import Resources
from unblink.lab.apiserver.storage import Storage

NAMESPACES = ("default", "kube-system", "lab")
RENEWALS_PER_BOOKMARK_PERIOD = 6  # kube-apiserver: 10 s to 60 s
MIN_PERIOD_S = 0.25  # where a lab sets quick bookmarks, the lease is not to be its load
RETRY_S = 1.0
_WRITER = Writer("kube-apiserver")


async def bootstrap(storage: Storage, resources: Resources) -> None:
    """Create what is there from the start; several apiservers may do so at once. Goes on until the store answers."""
    namespace = resources.find("", "v1", "namespaces")
    configmap = resources.find("", "v1", "configmaps")
    if namespace is None or configmap is None:
        raise LookupError("namespaces and configmaps are built in")
    tracking = {
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking"},
        "data": {"since": datetime.now(UTC).strftime("%Y-%m-%d")},
    }
    for name in NAMESPACES:
        await _ensure(storage, namespace, "", {"metadata": {"name": name}})
    await _ensure(storage, configmap, "kube-system", tracking)


async def _ensure(storage: Storage, resource: Any, namespace: str, thing: dict[str, Any]) -> None:
    while True:
        try:
            await objects.create(storage, resource, namespace, thing, _WRITER)
        except statuses.ApiError as error:
            if error.status.get("reason") == "AlreadyExists":
                return
            await asyncio.sleep(RETRY_S)
        else:
            return


async def keep_lease(storage: Storage, resources: Resources, config: ApiserverConfig) -> None:
    """Renew ``apiserver-<hash>`` in kube-system, for ever."""
    lease = resources.find("coordination.k8s.io", "v1", "leases")
    if lease is None:
        raise LookupError("leases are built in")
    period_s = max(config.bookmark_period_ms / 1000 / RENEWALS_PER_BOOKMARK_PERIOD, MIN_PERIOD_S)
    name = "apiserver-" + hashlib.sha256(config.name.encode()).hexdigest()[:26]
    while True:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        thing = {
            "kind": lease.kind,
            "apiVersion": lease.api_version,
            "metadata": {"labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
            "spec": {"holderIdentity": config.name, "leaseDurationSeconds": 3600, "renewTime": now},
        }
        try:
            await objects.apply(storage, lease, "kube-system", name, thing, _WRITER, force=True)
        except statuses.ApiError:
            await asyncio.sleep(RETRY_S)  # the store is away; the lease waits for it
        await asyncio.sleep(period_s)
