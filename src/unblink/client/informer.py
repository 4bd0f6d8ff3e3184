"""An informer: a view of one resource that tells its handlers of every change."""

from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from unblink.client import metrics
from unblink.client.view import DEFAULT_MAX_STALENESS_S, View
from unblink.client.workqueue import Handler, WorkQueue
from unblink.stream.messages import Command

H = TypeVar("H", bound=Handler)

DRAIN_S = 5.0
"""How long the end of an informer waits for handlers that are not done."""


class Informer(View):
    """A cache of the objects of one resource, kept up to date by a watch that cannot hang.

    ::

        async with Informer("v1", "pods", namespace="default") as pods:
            pods.on_update(lambda old, new: print(new.metadata.name))
            pods.get("default/web-0")

    ``async with`` waits until all objects are there. The view is then never older than ``max_staleness`` seconds while
    an apiserver can be reached: ``staleness`` says how old it may be now, and a watch that does not prove that it
    keeps up is replaced in time. ``on_add``, ``on_update`` and ``on_delete`` take handlers, sync (run in a thread of
    their own) or async, also as decorators; a handler of ``on_add`` is told of what is there already as well. One that
    raises is called again later, and delays nothing but its own key. ``workers`` keys are handled at once.

    ``kubeconfig`` and ``context`` are found as kubectl finds them; informers of one event loop that name the same share
    their connections. ``metadata_only`` asks for PartialObjectMetadata.
    """

    def __init__(
        self,
        api_version: str,
        resource: str,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        max_staleness: float = DEFAULT_MAX_STALENESS_S,
        metadata_only: bool = False,
        workers: int = 1,
        kubeconfig: Path | str | None = None,
        context: str | None = None,
        insecure_skip_tls_verify: bool = False,
        trace: Callable[[Command], None] | None = None,
    ) -> None:
        """``trace`` is given each command of the session (``unblink.stream.messages``) before it is carried out.

        :raises ValueError: if a name, selector or the bound cannot be used.
        """
        self.queue = WorkQueue(workers=workers)
        super().__init__(
            api_version,
            resource,
            self.queue.put,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            max_staleness=max_staleness,
            metadata_only=metadata_only,
            kubeconfig=kubeconfig,
            context=context,
            insecure_skip_tls_verify=insecure_skip_tls_verify,
            trace=trace,
        )

    async def __aenter__(self) -> Self:
        """Watch, and wait until all objects are there.

        :raises WatchRefused: if the server refuses the first list for good.
        :raises KubeconfigError: if there is no usable configuration.
        """
        metrics.add(self)
        return await super().__aenter__()

    async def _end(self) -> None:
        metrics.remove(self)
        await super()._end()
        await self.queue.close(DRAIN_S)

    def on_add(self, handler: H) -> H:
        """``handler(new)`` for each object that appears, those that are there already included."""
        self.queue.add("add", handler, self._cache.objects.items())
        return handler

    def on_update(self, handler: H) -> H:
        """``handler(old, new)`` for each object that changed; of changes in between only the last counts."""
        self.queue.add("update", handler)
        return handler

    def on_delete(self, handler: H) -> H:
        """``handler(old)`` for each object that is gone, in its last known state."""
        self.queue.add("delete", handler)
        return handler
