"""A view of one resource: a cache that a watch keeps up to date, and how stale it may be."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from unblink import __version__
from unblink.client import cluster
from unblink.client.cache import Cache, IndexFunction, Put
from unblink.client.counters import STALE, Counters, ProbeOutcome
from unblink.client.health import Health
from unblink.client.objects import Object
from unblink.client.reflector import Reflector, Watched
from unblink.stream.endings import EndedBy
from unblink.stream.messages import AskProbe, Command, Delivered, Ended, Listed, Proven, Stale
from unblink.stream.policy import bounded
from unblink.stream.selectors import parse_labels
from unblink.stream.transitions import OPEN, State

DEFAULT_MAX_STALENESS_S = 180.0
"""So that a quiet kube-apiserver is asked for nothing beyond the watch itself: see docs/watch.md."""

REFUSED_FOR_GOOD = {
    State.SYNC_REQUESTED: frozenset({401, 403}),
    State.LISTING: frozenset({400, 401, 403, 404, 405, 406}),
}
"""Answers to a first list or WatchList that the same request will get again; a refused WatchList is listed first."""


class WatchRefused(Exception):
    """The server refuses the first list, and would do so again. ``code`` is the HTTP status."""

    def __init__(self, path: str, code: int, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.code = code


class View:
    """What ``Informer`` and ``watch`` have in common. ``put`` is told of each change, in the event loop.

    ``async with`` waits until all objects are there.
    """

    def __init__(
        self,
        api_version: str,
        resource: str,
        put: Put,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        max_staleness: float = DEFAULT_MAX_STALENESS_S,
        metadata_only: bool = False,
        kubeconfig: Path | str | None = None,
        context: str | None = None,
        insecure_skip_tls_verify: bool = False,
        trace: Callable[[Command], None] | None = None,
    ) -> None:
        """``trace`` is given each command of the session (``unblink.stream.messages``) before it is carried out.

        :raises ValueError: if a name, selector or the bound cannot be used.
        """
        watched = Watched.of(api_version, resource, namespace)
        if label_selector:
            parse_labels(label_selector)
        self.api_version, self.resource, self.namespace = api_version, resource, namespace
        self.max_staleness = max_staleness
        self.counters = Counters()
        self._put = put
        self._watched = Watched(watched.resource, namespace, field_selector, label_selector, metadata_only)
        self._policy = bounded(max_staleness)
        self._cache = Cache()
        self._access = (kubeconfig, context)
        self._insecure = insecure_skip_tls_verify
        self._trace = trace
        self._cluster: cluster.Cluster | None = None
        self._reflector: Reflector | None = None
        self._watching: asyncio.Task[None] | None = None
        self.synced = False
        """Whether all objects were there once."""
        self._decided = asyncio.Event()
        self._changed = asyncio.Event()
        self._refused: WatchRefused | None = None
        self._last_ending = ""
        self._probing = False

    # Life

    async def __aenter__(self) -> Self:
        """Watch, and wait until all objects are there.

        :raises WatchRefused: if the server refuses the first list for good.
        :raises KubeconfigError: if there is no usable configuration.
        """
        self._cluster = cluster.join(*self._access, insecure=self._insecure)
        bookmarks = self._cluster.bookmarks(self._watched.path)
        self._reflector = Reflector(
            self._cluster.pool,
            self._watched,
            self._policy,
            self._observe,
            user_agent=f"unblink-informer/{__version__}",
            bookmarks=bookmarks,
        )
        self._watching = asyncio.create_task(self._reflector.run())
        self._watching.add_done_callback(lambda _: self._changed.set())
        decided = asyncio.create_task(self._decided.wait())
        try:
            await asyncio.wait((self._watching, decided), return_when=asyncio.FIRST_COMPLETED)
            if self._refused is not None:
                raise self._refused
            if self._watching.done():
                self._watching.result()
        except BaseException:
            await self._end()
            raise
        finally:
            decided.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._cluster is not None:
            await cluster.leave(self._cluster)
            self._cluster = None

    async def changed(self) -> None:
        """Wait until something was put since the last call, or the watch ended.

        :raises Exception: what ended it.
        """
        self._changed.clear()
        await self._changed.wait()
        if self._watching is not None and self._watching.done():
            self._watching.result()

    async def wait_closed(self) -> None:
        """Wait until the watch ends, which it does not do by itself.

        :raises Exception: what ended it.
        """
        if self._watching is not None:
            await asyncio.shield(self._watching)

    # Cache

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, key: str) -> Object | None:
        """The object of this key: ``namespace/name``, or the name where there are no namespaces."""
        return self._cache.objects.get(key)

    def list(self, label_selector: str | None = None, namespace: str | None = None) -> list[Object]:
        """The objects held, by key, all or those that are selected.

        :raises SelectorError: if it is no label selector.
        """
        selected: Iterable[Object] = (self._cache.objects[key] for key in sorted(self._cache.objects))
        if namespace is not None:
            selected = (one for one in selected if one.metadata.namespace == namespace)
        if label_selector:
            requirements = parse_labels(label_selector)
            selected = (one for one in selected if all(term.holds(one.labels) for term in requirements))
        return list(selected)

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Find objects by what ``function`` returns of them: a text, several, or None for none.

        :raises ValueError: if there is an index of this name.
        """
        self._cache.add_index(name, function)

    def index(self, name: str, value: str) -> Collection[Object]:
        """The objects for which the index's function returned ``value``.

        :raises KeyError: if there is no such index.
        """
        return self._cache.index(name, value)

    # Liveness

    @property
    def staleness(self) -> float:
        """Seconds: every change written longer ago than this is in the view. Infinite before the first proof."""
        staleness_ms = self._reflector.session.staleness_ms if self._reflector else None
        return float("inf") if staleness_ms is None else staleness_ms / 1000

    @property
    def last_proof_of_life(self) -> float | None:
        """When the view was last proven up to date, in seconds since the epoch; None if never."""
        staleness = self.staleness
        return None if staleness == float("inf") else time.time() - staleness

    @property
    def resource_version(self) -> str:
        """The last one held, empty before the first list."""
        return self._reflector.session.resource_version if self._reflector else ""

    def is_live(self) -> bool:
        """Whether the view is synced and not older than ``max_staleness``."""
        return self.synced and self.staleness <= self.max_staleness

    def health(self) -> Health:
        """How fresh the view is, and why."""
        return Health(
            live=self.is_live(),
            synced=self.synced,
            staleness_s=self.staleness,
            max_staleness_s=self.max_staleness,
            last_proof_unix_s=self.last_proof_of_life,
            reason=self._reason(),
        )

    def _reason(self) -> str:
        if self._reflector is None:
            return "not started"
        session = self._reflector.session
        why = f": {self._last_ending}" if self._last_ending else ""
        if not self.synced:
            return f"not synced, {session.state.value}{why}"
        silent = f"no proof of life for {self.staleness:.1f} s (bound {self.max_staleness:g} s)"
        match session.state:
            case State.WATCHING:
                return f"{session.proof_by} at resourceVersion {session.resource_version}, {self.staleness:.1f} s ago"
            case State.PROBING:
                return f"{silent}; asking for the newest resourceVersion"
            case State.REPLACING | State.WATCH_REQUESTED:
                return f"{silent}; attempt {session.attempts} to open another watch{why}"
            case _:
                return f"{silent}; {session.state.value}{why}"

    # What the session says

    def _observe(self, command: Command) -> None:
        if self._trace is not None:
            self._trace(command)
        match command:
            case Delivered(frames):
                events = self.counters.events
                for frame in frames:
                    events[frame.type] += 1
                self._cache.apply(frames, self._put)
                self._probe_ended(ProbeOutcome.CAUGHT_UP)
                self._changed.set()
            case Listed(items=items, reason=reason):
                self.counters.relists += reason == "relist"
                self._cache.replace(items, self._put)
                self._last_ending = ""
                self.synced = True
                self._decided.set()
                self._changed.set()
            case Ended(ending=ending, while_state=state):
                self._last_ending = f"{ending.by}: {ending.detail}"
                if state in OPEN:
                    self.counters.restarts[ending.by] += 1
                if not self.synced and ending.by is EndedBy.REFUSED and ending.code in REFUSED_FOR_GOOD.get(state, ()):
                    self._refused = WatchRefused(self._watched.path, ending.code or 0, ending.detail)
                    self._decided.set()
            case AskProbe():
                self._probe_ended(ProbeOutcome.FAILED)
                self._probing = True
            case Proven():
                self._probe_ended(ProbeOutcome.CAUGHT_UP)
            case Stale(behind=behind):
                self.counters.restarts[STALE] += 1
                self._probe_ended(ProbeOutcome.BEHIND if behind else ProbeOutcome.FAILED)
            case _:
                pass
        if self._reflector is not None:
            self.counters.duplicates = self._reflector.session.duplicates

    def _probe_ended(self, outcome: ProbeOutcome) -> None:
        if self._probing:
            self._probing = False
            self.counters.probes[outcome] += 1
