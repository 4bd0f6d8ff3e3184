"""``unblink.guard``: the bound of ``unblink.watch`` for the clients that people already use."""

from importlib import import_module
from types import ModuleType
from typing import Any

from unblink.stream.guarding import timers

_BY_CLASS = {
    ("kubernetes.watch.watch", "Watch"): ("official", "GuardedWatch"),
    ("kubernetes.informer.informer", "SharedInformer"): ("official", "guard_informer"),
    ("kubernetes.aio.watch.watch", "Watch"): ("kubernetes_asyncio", "GuardedWatch"),
    ("kubernetes_asyncio.watch.watch", "Watch"): ("kubernetes_asyncio", "GuardedWatch"),
    ("lightkube.core.client", "Client"): ("lightkube", "GuardedClient"),
    ("lightkube.core.async_client", "AsyncClient"): ("lightkube", "GuardedAsyncClient"),
    ("kr8s._api", "Api"): ("kr8s", "GuardedApi"),
    ("kr8s._objects", "APIObject"): ("kr8s", "GuardedObject"),
    ("kopf._cogs.configs.configuration", "OperatorSettings"): ("kopf", "guard_settings"),
}
_BY_MODULE = {
    "kr8s": ("kr8s", "GuardedModule"),
    "kr8s.asyncio": ("kr8s", "GuardedModule"),
}

MIN_MAX_STALENESS_S = 3.0
BEYOND_SILENCE = 1.5
"""The last bookmark of an apiserver that lost its store may come half of the timers' own bound after that."""

_ACCEPTED = (
    "kubernetes.watch.Watch(), kubernetes.informer.SharedInformer, kubernetes_asyncio.watch.Watch(), a lightkube "
    "Client or AsyncClient, kr8s, kr8s.asyncio, a kr8s Api or object, kopf's settings"
)


def guard(thing: Any, max_staleness: float = 180.0) -> Any:
    """Give another client's watch the bound of ``max_staleness`` seconds: its loop stays as it is but for one line::

        for event in guard(watch.Watch(), max_staleness=10).stream(v1.list_namespaced_pod, "default"): ...
        async for event in guard(kubernetes_asyncio.watch.Watch()).stream(v1.list_namespaced_pod, "default"): ...
        for op, pod in guard(lightkube.Client()).watch(Pod, namespace="default"): ...
        async for event, pod in guard(kr8s.asyncio).watch("pods", namespace="default"): ...
        guard(informer).start()  # the official SharedInformer
        guard(settings)          # kopf, in its startup handler

    What comes back has the methods of ``thing`` and gives the same objects. An ending that a new watch heals is not
    seen; what retrying cannot heal (400, 401, 403, 404) is raised as that client's own exception.

    :raises TypeError: if ``thing`` is none of these.
    :raises ValueError: if the bound is below 3 s or not a number of seconds.
    """
    if not MIN_MAX_STALENESS_S <= max_staleness < float("inf"):
        raise ValueError(f"max_staleness: expected at least {MIN_MAX_STALENESS_S:g} s, found {max_staleness:g}")
    spent = timers(max_staleness / BEYOND_SILENCE)
    found = _home(thing)
    if found is None:
        name = thing.__name__ if isinstance(thing, ModuleType | type) else type(thing).__name__
        raise TypeError(f"guard: expected one of {_ACCEPTED}; found {name}")
    module, maker = found
    return getattr(import_module(f"unblink.client.guard.{module}"), maker)(thing, spent)


def _home(thing: Any) -> tuple[str, str] | None:
    if isinstance(thing, ModuleType):
        return _BY_MODULE.get(thing.__name__)
    for base in type(thing).__mro__:
        found = _BY_CLASS.get((base.__module__, base.__qualname__))
        if found is not None:
            return found
    return None
