from dataclasses import dataclass

import pytest

from unblink.client.health import Health, health


@dataclass
class View:
    api_version: str
    resource: str
    namespace: str | None
    state: Health

    def health(self) -> Health:
        return self.state


def view(resource: str, *, staleness_s: float = 1.0, bound_s: float = 10.0, synced: bool = True) -> View:
    live = staleness_s <= bound_s
    proof_s = None if staleness_s == float("inf") else 1000 - staleness_s
    reason = f"bookmark {staleness_s:g} s ago" if live else f"no proof of life for {staleness_s:g} s"
    return View("v1", resource, "default", Health(live, synced, staleness_s, bound_s, proof_s, reason))


def test_one_informer_is_as_well_as_it_says() -> None:
    alone = view("pods")
    assert health(alone) == Health(True, True, 1, 10, 999, "v1 pods in default: bookmark 1 s ago")


def test_several_are_as_well_as_the_one_that_is_nearest_to_its_bound() -> None:
    found = health(view("pods", staleness_s=5), view("nodes", staleness_s=60, bound_s=600), view("secrets"))
    assert (found.live, found.synced, found.staleness_s, found.max_staleness_s) == (True, True, 5, 10)
    assert found.last_proof_unix_s == 940
    assert found.reason == ("all 3 informers are live; nearest to its bound is v1 pods in default: bookmark 5 s ago")


def test_each_that_is_not_well_is_named() -> None:
    found = health(view("pods", staleness_s=12), view("nodes"), view("secrets", synced=False))
    assert (found.live, found.synced) == (False, False)
    assert found.reason == ("v1 pods in default: no proof of life for 12 s; v1 secrets in default: bookmark 1 s ago")


def test_one_that_never_had_a_proof_is_the_worst() -> None:
    found = health(view("pods"), view("nodes", staleness_s=float("inf"), synced=False))
    assert (found.live, found.staleness_s, found.last_proof_unix_s) == (False, float("inf"), None)


def test_a_whole_cluster_has_no_place() -> None:
    everywhere = View("apps/v1", "deployments", None, view("x").state)
    assert health(everywhere).reason.startswith("apps/v1 deployments: ")


def test_without_informers_nothing_is_stale() -> None:
    assert health().live
    assert health().reason == "there are no informers"


def test_what_a_probe_was_told_does_not_change() -> None:
    with pytest.raises(AttributeError):
        health().live = False  # type: ignore[misc]  # that is the test
