"""What the benchmark watches: pods of about 3.4 kB of JSON that differ in name, uid and resourceVersion only.

Every name, uid and version has the same length, so that an event is made from a template by putting other bytes in its
place, in JSON and in protobuf alike.
"""

import json
import zlib
from typing import Any, Literal

EVENT_BYTES = 3400
FIRST_VERSION = 10_000_000
"""Of the first pod at the start; all versions have eight digits."""
NAME, UID, VERSION = "web-00000000", "00000000-0000-4000-8000-000000000000", "99999999"

EventType = Literal["ADDED", "MODIFIED", "BOOKMARK"]


def name(number: int) -> str:
    return f"web-{number:08d}"


def uid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-{number:012d}"


def synced_version(pods: int) -> int:
    """Of the bookmark that ends the initial events, and of a list."""
    return FIRST_VERSION + pods


def changed_version(pods: int, number: int) -> int:
    """Of the change with this number, from 0."""
    return FIRST_VERSION + pods + 1 + number


def checksum(pods: int, changes: int) -> int:
    """Of a cache that has seen all changes, which go round the pods: the sum of the CRC-32s of ``name version``."""
    versions = {pod: FIRST_VERSION + pod for pod in range(pods)}
    for number in range(max(0, changes - pods), changes):
        versions[number % pods] = changed_version(pods, number)
    return sum(zlib.crc32(f"{name(pod)} {version}".encode()) for pod, version in versions.items())


def pod() -> dict[str, Any]:
    """The pod that the others are copies of."""
    made = _pod(padding=0)
    missing = EVENT_BYTES - len(event_line("MODIFIED", made))
    return _pod(padding=missing)


def partial(whole: dict[str, Any]) -> dict[str, Any]:
    """What a server sends of it to who asks for metadata only."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": whole["metadata"]}


def bookmark(kind: str, api_version: str) -> dict[str, Any]:
    """The object of the bookmark that ends the initial events."""
    annotations = {"k8s.io/initial-events-end": "true"}
    metadata = {"resourceVersion": VERSION, "creationTimestamp": None, "annotations": annotations}
    return {"kind": kind, "apiVersion": api_version, "metadata": metadata}


def event_line(event_type: EventType, thing: dict[str, Any]) -> bytes:
    """The event as a watch sends it in JSON."""
    return json.dumps({"type": event_type, "object": thing}, separators=(",", ":")).encode() + b"\n"


def _pod(padding: int) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": NAME,
            "generateName": "web-",
            "namespace": "default",
            "uid": UID,
            "resourceVersion": VERSION,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6", "team": "shop"},
            "annotations": {"shop.example/config": "c" * max(0, padding)},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "web-6d4cf56db6",
                    "uid": "11111111-0000-4000-8000-000000000000",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_managed("kube-controller-manager", "spec"), _managed("kubelet", "status")],
        },
        "spec": {
            "volumes": [{"name": "config", "configMap": {"name": "web", "defaultMode": 420}}],
            "containers": [_container(container) for container in ("web", "proxy", "metrics")],
            "restartPolicy": "Always",
            "serviceAccountName": "web",
            "nodeName": "node-17",
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:07Z"}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": "10.0.0.17",
            "podIP": "10.1.17.5",
            "podIPs": [{"ip": "10.1.17.5"}],
            "startTime": "2026-01-01T00:00:01Z",
        },
    }


def _managed(manager: str, part: str) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:07Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {f"f:{part}": {"f:conditions": {'k:{"type":"Ready"}': {".": {}, "f:status": {}, "f:type": {}}}}},
    }


def _container(container: str) -> dict[str, Any]:
    return {
        "name": container,
        "image": f"registry.example/shop/{container}:1.4.2",
        "env": [
            {"name": "LOG_LEVEL", "value": "info"},
            {"name": "UPSTREAM", "value": "http://cart.shop.svc:8080"},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        ],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "readOnly": True, "mountPath": "/etc/web"}],
        "imagePullPolicy": "IfNotPresent",
    }
