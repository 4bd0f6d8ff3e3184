from importlib import import_module

import pytest

import unblink
from unblink.client.guard import guard


def test_it_is_a_name_of_the_package() -> None:
    assert unblink.guard is guard


@pytest.mark.parametrize("thing", [object(), import_module("json"), unblink, "kr8s", dict])
def test_what_cannot_be_guarded_is_told_what_can(thing: object) -> None:
    with pytest.raises(TypeError, match=r"expected one of kubernetes\.watch\.Watch\(\).*found"):
        guard(thing)


@pytest.mark.parametrize("bound", [0, 2.9, float("inf"), float("nan")])
def test_a_bound_that_cannot_be_held_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_staleness: expected at least 3 s"):
        guard(import_module("kr8s"), max_staleness=bound)
