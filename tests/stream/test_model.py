"""A thousand random schedules of faults against the model, in virtual time: nothing lost, nothing twice, in time."""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.stream.model import FAULTS, Plan, World

from unblink.stream.policy import bounded

CASES, CHUNKS = 1000, 10
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
FIRST_SEED = 0 if IN_CI else random.SystemRandom().randrange(10**9)
BOUNDS_S = (8, 10, 20)
RELISTS_TO_LEARN = 2
"""Where a quiet watch gets no bookmark, only a list can tell that from a dead watch; the session learns it so."""


def random_plan(seed: int) -> Plan:
    """Faults of one apiserver after the other, up to a bound before the end; both are never gone at once."""
    chance = random.Random(seed)
    duration_ms = chance.randint(60_000, 120_000)
    faults, begin = [], chance.randint(3000, 12_000)
    while begin < duration_ms - 40_000:
        lasts_ms = chance.randint(500, 25_000)
        faults.append((begin, begin + lasts_ms, chance.randrange(2), chance.choice(FAULTS)))
        begin += lasts_ms + chance.randint(200, 15_000)
    quiet_from = chance.randint(0, duration_ms)
    bookmarks = chance.random() < 0.9
    return Plan(
        seed=seed,
        duration_ms=duration_ms,
        write_every_ms=chance.choice([(20, 200), (300, 900), (2000, 8000)]),
        quiet=(quiet_from, quiet_from + chance.randint(5000, 60_000)) if chance.random() < 0.6 else None,
        faults=tuple(faults),
        compactions_ms=tuple(sorted(chance.randint(0, duration_ms) for _ in range(chance.choice([0, 0, 0, 1, 2])))),
        balance=chance.choice(["round-robin", "least-request"]),
        bookmarks=bookmarks,
        watch_list=chance.choice(["served", "served", "refused", "ignored"] if bookmarks else ["served", "refused"]),
        cache_moves=chance.random() < 0.9,
    )


def check(plan: Plan) -> World:
    """Play it; the model itself asserts what must hold at every step."""
    world = World(plan, bounded(random.Random(plan.seed).choice(BOUNDS_S)))
    world.run()
    if not {"expired", "young"} & set(world.relists):
        assert world.blind_ms <= world.bound_ms, f"blind for {world.blind_ms} ms of {world.bound_ms} ms"
    proves_itself = plan.bookmarks and plan.cache_moves
    assert world.relists.count("good") <= (0 if proves_itself else RELISTS_TO_LEARN), world.relists
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_thousand_fault_schedules_lose_nothing_double_nothing_and_stay_within_the_bound(chunk: int) -> None:
    for case in range(chunk, CASES, CHUNKS):
        seed = FIRST_SEED + case
        try:
            check(random_plan(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: check(random_plan({seed})): {error}") from error


def test_the_schedules_hold_every_fault_and_every_kind_of_server() -> None:
    plans = [random_plan(seed) for seed in range(200)]
    assert {kind for plan in plans for *_, kind in plan.faults} == set(FAULTS)
    assert {plan.watch_list for plan in plans} == {"served", "refused", "ignored"}
    assert {(plan.bookmarks, plan.cache_moves) for plan in plans} >= {(True, True), (False, True), (True, False)}


QUIET_FAULT = Plan(
    seed=1,
    duration_ms=60_000,
    write_every_ms=(300, 900),
    quiet=None,
    faults=((10_000, 40_000, 1, "drop"),),
)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_by_itself_costs_no_relist(kind: str) -> None:
    for number in range(2):
        world = check(replace(QUIET_FAULT, faults=((10_000, 30_000, number, kind),)))
        assert world.relists == []


def test_a_policy_without_liveness_would_be_blind() -> None:
    """The model can fail: the same world with a budget that no bookmark and no replacement keeps."""
    deaf = bounded(10)
    assert deaf.liveness is not None
    never = replace(deaf, liveness=replace(deaf.liveness, silence_ms=10**9, head_ms=10**9, body_margin_ms=10**9))
    world = World(replace(QUIET_FAULT, faults=((10_000, 50_000, 0, "drop"), (10_000, 50_000, 1, "drop"))), never)
    with pytest.raises(AssertionError, match="is missing"):
        world.run()


def test_a_herd_does_not_relist_when_its_apiserver_dies() -> None:
    """A thousand watchers, half of them on the apiserver that dies: none lists again, and none asks without end."""
    requests: Counter[str] = Counter()
    for seed in range(1000):
        world = World(
            replace(QUIET_FAULT, seed=seed, duration_ms=30_000, faults=((10_000, 15_000, 1, "kill"),)), bounded(90)
        )
        world.run()
        assert world.relists == []
        requests.update(world.requests)
    # One WatchList each, one re-watch of those that were there, and some that met the dead one once more.
    assert requests["list"] == 0
    assert 1000 < requests["watch"] < 3000
