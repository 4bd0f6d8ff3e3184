"""The informers of this process as Prometheus metrics: ``pip install 'unblink[metrics]'``.

::

    unblink.metrics.register()              # in prometheus_client's own registry
    prometheus_client.start_http_server(9090)

Names follow https://prometheus.io/docs/practices/naming/; each metric has the labels ``api_version``, ``resource`` and
``namespace`` (empty for all). Informers that share them, with other selectors, are one series: counts and objects are
added, of staleness and proofs it is the worst.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unblink.client.counters import Counters
from unblink.client.health import Watcher

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

LABELS = ("api_version", "resource", "namespace")


class Queue(Protocol):
    """What is read of a ``WorkQueue``."""

    @property
    def depth(self) -> int: ...
    @property
    def retries(self) -> int: ...


class Informer(Watcher, Protocol):
    """What is read of an informer."""

    @property
    def counters(self) -> Counters: ...
    @property
    def queue(self) -> Queue: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Row:
    """One metric. ``read`` gives its samples of one informer, by the value of ``label``; a counter where it has one."""

    name: str
    help: str
    read: Callable[[Informer], Mapping[str, float]]
    counter: bool = False
    label: str | None = None
    joined: Callable[[Iterable[float]], float] = sum


def _one(read: Callable[[Informer], float | None]) -> Callable[[Informer], Mapping[str, float]]:
    def samples(informer: Informer) -> Mapping[str, float]:
        value = read(informer)
        return {} if value is None else {"": value}

    return samples


ROWS = (
    _Row("events", "Events of the watch, by type.", lambda one: dict(one.counters.events), True, "type"),
    _Row(
        "restarts",
        "Watches that ended or were given up, by cause; stale: it did not keep up.",
        lambda one: dict(one.counters.restarts),
        True,
        "cause",
    ),
    _Row("relists", "Lists after the first.", _one(lambda one: one.counters.relists), True),
    _Row(
        "duplicates_dropped",
        "Events that were held already and dropped.",
        _one(lambda one: one.counters.duplicates),
        True,
    ),
    _Row(
        "probes",
        "Consistent lists of one object that asked for the newest resourceVersion, by outcome.",
        lambda one: dict(one.counters.probes),
        True,
        "outcome",
    ),
    _Row(
        "staleness_seconds",
        "Every change written longer ago than this is in the view.",
        _one(lambda one: one.health().staleness_s),
        joined=max,
    ),
    _Row(
        "max_staleness_seconds",
        "The bound for the staleness.",
        _one(lambda one: one.health().max_staleness_s),
        joined=min,
    ),
    _Row(
        "last_proof_of_life_timestamp_seconds",
        "When the view was last proven up to date.",
        _one(lambda one: one.health().last_proof_unix_s),
        joined=min,
    ),
    _Row("objects", "Objects in the cache.", _one(len)),
    _Row("handler_queue_depth", "Keys that handlers are not done with.", _one(lambda one: one.queue.depth)),
    _Row(
        "handler_retries",
        "How often a key was put aside because a handler failed.",
        _one(lambda one: one.queue.retries),
        True,
    ),
)

_lock = threading.Lock()
_informers: list[weakref.ref[Informer]] = []


def add(informer: Informer) -> None:
    """Count an informer in from now on, until ``remove`` or as long as anybody else holds it."""
    with _lock:
        _informers.append(weakref.ref(informer))


def remove(informer: Informer) -> None:
    """Leave an informer out that has ended: its staleness grows for ever."""
    with _lock:
        _informers[:] = [one for one in _informers if one() not in (informer, None)]


def register(registry: "CollectorRegistry | None" = None) -> "Collector":
    """Put the informers into a registry, by default prometheus_client's own.

    :raises ImportError: without prometheus_client.
    :raises ValueError: if they are in it.
    """
    made = collector()
    if registry is None:
        from prometheus_client import REGISTRY  # noqa: PLC0415  # an extra

        registry = REGISTRY
    registry.register(made)
    return made


def collector() -> "Collector":
    """A collector of all informers that run in this process.

    :raises ImportError: without prometheus_client.
    """
    try:
        from prometheus_client.registry import Collector  # noqa: PLC0415  # an extra
    except ModuleNotFoundError:
        raise ImportError("unblink's metrics need prometheus_client: pip install 'unblink[metrics]'") from None

    class InformersCollector(Collector):
        """Reads the informers when it is asked."""

        def describe(self) -> "Iterator[Metric]":
            return _families({})

        def collect(self) -> "Iterator[Metric]":
            return _families(_running())

    return InformersCollector()


def _running() -> dict[tuple[str, str, str], list[Informer]]:
    """The informers by their labels."""
    with _lock:
        _informers[:] = [one for one in _informers if one() is not None]
        found = [informer for one in _informers if (informer := one()) is not None]
    by_labels: dict[tuple[str, str, str], list[Informer]] = {}
    for informer in found:
        labels = (informer.api_version, informer.resource, informer.namespace or "")
        by_labels.setdefault(labels, []).append(informer)
    return by_labels


def _families(running: Mapping[tuple[str, str, str], list[Informer]]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  # an extra

    for row in ROWS:
        labels = [*LABELS, row.label] if row.label else LABELS
        made = CounterMetricFamily if row.counter else GaugeMetricFamily
        family = made(f"unblink_informer_{row.name}", row.help, labels=labels)
        for values, informers in running.items():
            samples = [row.read(informer) for informer in informers]
            for value in sorted({value for one in samples for value in one}):
                joined = row.joined([one[value] for one in samples if value in one])
                family.add_metric([*values, value] if row.label else values, joined)
        yield family
