import gc
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from unblink.client import metrics
from unblink.client.counters import Counters
from unblink.client.health import Health
from unblink.stream.endings import EndedBy


@dataclass
class Queue:
    depth: int = 0
    retries: int = 0


@dataclass(eq=False)
class View:
    api_version: str = "v1"
    resource: str = "pods"
    namespace: str | None = "default"
    counters: Counters = field(default_factory=Counters)
    queue: Queue = field(default_factory=Queue)
    staleness_s: float = 1.5
    bound_s: float = 10.0
    proof_s: float | None = 1_700_000_000.0
    objects: int = 0

    def health(self) -> Health:
        return Health(True, True, self.staleness_s, self.bound_s, self.proof_s, "")

    def __len__(self) -> int:
        return self.objects


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_informers", [])


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    metrics.register(registry)
    yield registry


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Samples by ``name{label=value,...}``, as Prometheus reads them, the common labels left out."""
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            assert not sample.labels.keys() - {"api_version", "resource", "namespace", "type", "cause", "outcome"}
            own = [f"{name}={value}" for name, value in sample.labels.items() if name in ("type", "cause", "outcome")]
            samples[sample.name + "".join(f"{{{text}}}" for text in own)] = sample.value
    return samples


def test_all_that_an_informer_knows(registry: CollectorRegistry) -> None:
    view = View(objects=7, queue=Queue(depth=2, retries=3))
    view.counters.events["MODIFIED"] += 5
    view.counters.restarts[EndedBy.STREAM_RESET] += 1
    view.counters.restarts["stale"] += 2
    view.counters.relists, view.counters.duplicates = 4, 6
    view.counters.probes["behind"] += 1
    metrics.add(view)
    assert {name: value for name, value in scrape(registry).items() if value} == {
        "unblink_informer_events_total{type=MODIFIED}": 5,
        "unblink_informer_restarts_total{cause=stream-reset}": 1,
        "unblink_informer_restarts_total{cause=stale}": 2,
        "unblink_informer_relists_total": 4,
        "unblink_informer_duplicates_dropped_total": 6,
        "unblink_informer_probes_total{outcome=behind}": 1,
        "unblink_informer_staleness_seconds": 1.5,
        "unblink_informer_max_staleness_seconds": 10,
        "unblink_informer_last_proof_of_life_timestamp_seconds": 1_700_000_000,
        "unblink_informer_objects": 7,
        "unblink_informer_handler_queue_depth": 2,
        "unblink_informer_handler_retries_total": 3,
    }


def test_counts_begin_with_zero_so_that_the_first_increase_is_one(registry: CollectorRegistry) -> None:
    view = View()
    metrics.add(view)
    samples = scrape(registry)
    for cause in (*EndedBy, "stale"):
        assert samples[f"unblink_informer_restarts_total{{cause={cause}}}"] == 0
    for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
        assert samples[f"unblink_informer_events_total{{type={kind}}}"] == 0
    for outcome in ("caught-up", "behind", "failed"):
        assert samples[f"unblink_informer_probes_total{{outcome={outcome}}}"] == 0


def test_what_was_never_proven_has_no_time_and_is_infinitely_stale(registry: CollectorRegistry) -> None:
    view = View(staleness_s=float("inf"), proof_s=None)
    metrics.add(view)
    samples = scrape(registry)
    assert samples["unblink_informer_staleness_seconds"] == float("inf")
    assert "unblink_informer_last_proof_of_life_timestamp_seconds" not in samples


def test_informers_of_the_same_labels_are_one_series(registry: CollectorRegistry) -> None:
    one = View(objects=3, staleness_s=1, bound_s=20, proof_s=50)
    other = View(objects=4, staleness_s=9, bound_s=10, proof_s=40)
    one.counters.relists = other.counters.relists = 1
    elsewhere = View(namespace=None, objects=100)
    for view in (one, other, elsewhere):
        metrics.add(view)

    def value(name: str, namespace: str) -> float | None:
        labels = {"api_version": "v1", "resource": "pods", "namespace": namespace}
        return registry.get_sample_value(f"unblink_informer_{name}", labels)

    assert value("objects", "default") == 7
    assert value("relists_total", "default") == 2
    assert value("staleness_seconds", "default") == 9
    assert value("max_staleness_seconds", "default") == 10
    assert value("last_proof_of_life_timestamp_seconds", "default") == 40
    assert value("objects", "") == 100


def test_an_informer_that_ended_or_was_forgotten_is_gone(registry: CollectorRegistry) -> None:
    ended, kept = View(resource="nodes", namespace=None), View()
    metrics.add(ended)
    metrics.add(kept)
    assert b'resource="nodes"' in generate_latest(registry)
    metrics.remove(ended)
    assert b'resource="nodes"' not in generate_latest(registry)
    assert b'resource="pods"' in generate_latest(registry)
    del kept
    gc.collect()
    assert scrape(registry) == {}


def test_names_and_texts_keep_the_conventions_of_prometheus(registry: CollectorRegistry) -> None:
    view = View()
    metrics.add(view)
    families = {family.name: family for family in metrics.collector().collect()}
    assert len(families) == len(metrics.ROWS)
    for name, family in families.items():
        assert name.startswith("unblink_informer_")
        assert not name.endswith(("_total", "_ms", "_milliseconds", "_count", "_sum", "_bucket", "_info", "_created"))
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.name == (f"{name}_total" if family.type == "counter" else name)
    # Its parser is strict: names, types, doubled series, counters without _total.
    exposed = openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]  # it has no types
    parsed = parse_openmetrics(exposed)  # type: ignore[no-untyped-call]  # it has no types
    assert {family.name for family in parsed} == set(families)


def test_the_page_for_users_has_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs/watch.md").read_text()
    documented = re.findall(r"^\| `(unblink_informer_\w+)(?:{(\w+)})?` \|", page, re.MULTILINE)
    there = [(f"unblink_informer_{row.name}{'_total' if row.counter else ''}", row.label or "") for row in metrics.ROWS]
    assert documented == there


def test_nobody_registers_twice(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        metrics.register(registry)


def test_the_registry_of_prometheus_client_is_the_default() -> None:
    made = metrics.register()
    try:
        view = View()
        metrics.add(view)
        assert b"unblink_informer_objects{" in generate_latest(REGISTRY)
    finally:
        REGISTRY.unregister(made)


def test_without_prometheus_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.registry", None)
    with pytest.raises(ImportError, match=r"pip install 'unblink\[metrics\]'"):
        metrics.collector()
