"""Kubernetes watches that cannot hang."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unblink.client import metrics
    from unblink.client.guard import guard
    from unblink.client.health import Health, health
    from unblink.client.informer import Informer
    from unblink.client.kubeconfig import KubeconfigError
    from unblink.client.objects import Object
    from unblink.client.view import WatchRefused
    from unblink.client.watching import Event, EventType, Watch, watch

__version__ = "0.1.0"

__all__ = [
    "Event",
    "EventType",
    "Health",
    "Informer",
    "KubeconfigError",
    "Object",
    "Watch",
    "WatchRefused",
    "guard",
    "health",
    "metrics",
    "watch",
]

_HOMES = {
    "Event": "watching",
    "EventType": "watching",
    "Health": "health",
    "Informer": "informer",
    "KubeconfigError": "kubeconfig",
    "Object": "objects",
    "Watch": "watching",
    "WatchRefused": "view",
    "guard": "guard",
    "health": "health",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    """The client's names, imported when they are first asked for: the command line does without most of them."""
    if name == "metrics":
        return import_module("unblink.client.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'unblink' has no attribute {name!r}")
    return getattr(import_module(f"unblink.client.{_HOMES[name]}"), name)
