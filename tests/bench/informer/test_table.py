"""Medians, ratios, promises and exit codes, of figures that are made up."""

from dataclasses import replace

import pytest

from bench.informer import peers, table
from bench.informer.peers import LeftOut
from bench.informer.run import Many, Memory, Speed
from bench.informer.table import Figures, PerPod


def speeds(*events_per_s: float) -> list[Speed]:
    return [Speed(one, calls=90, events=100) for one in events_per_s]


GOOD = Figures(
    speeds={
        peers.OURS: speeds(900, 1000, 5000),
        peers.OURS_METADATA: speeds(2000),
        peers.CLIENT_GO_JSON: speeds(100),
        peers.CLIENT_GO_PROTOBUF: speeds(1000),
        peers.CLIENT_GO_METADATA: speeds(2000),
        peers.OFFICIAL: speeds(40),
    },
    memory={
        peers.OURS: PerPod(5000, None),
        peers.CLIENT_GO_JSON: PerPod(20_000, 10_000),
        peers.CLIENT_GO_PROTOBUF: PerPod(20_000, 10_000),
    },
    cached_pods=100_000,
    many=Many(500, 1.5, 80_000_000, 500),
    left_out=[],
)


def test_ratios_are_of_medians() -> None:
    assert GOOD.median(peers.OURS) == 1000
    assert GOOD.ratio(peers.OURS, peers.CLIENT_GO_JSON) == 10
    assert GOOD.ratio(peers.OURS, "lightkube watch") is None


def test_promises_that_are_just_kept_are_kept() -> None:
    assert [target.met for target in table.targets(GOOD)] == [True] * 8
    assert table.exit_code(GOOD) == table.MADE


@pytest.mark.parametrize(
    ("name", "events_per_s"),
    [
        (peers.OURS, 999),
        (peers.OURS_METADATA, 1999),
        (peers.CLIENT_GO_JSON, 101),
        (peers.CLIENT_GO_PROTOBUF, 1001),
        (peers.CLIENT_GO_METADATA, 2001),
        (peers.OFFICIAL, 41),
    ],
)
def test_each_speed_counts(name: str, events_per_s: float) -> None:
    slower = replace(GOOD, speeds={**GOOD.speeds, name: speeds(events_per_s)})
    assert False in [target.met for target in table.targets(slower)]
    assert table.exit_code(slower) == table.FAILED


@pytest.mark.parametrize(
    "worse",
    [
        replace(GOOD, memory={**GOOD.memory, peers.OURS: PerPod(5001, None)}),
        replace(GOOD, cached_pods=99_999),
        replace(GOOD, many=Many(499, 1.5, 80_000_000, 499)),
    ],
)
def test_memory_and_sizes_count(worse: Figures) -> None:
    assert table.exit_code(worse) == table.FAILED


def test_a_peer_that_is_left_out_is_told() -> None:
    rest = {name: measured for name, measured in GOOD.speeds.items() if name != peers.OFFICIAL}
    figures = replace(GOOD, speeds=rest, left_out=[LeftOut(peers.OFFICIAL, "no network")])
    assert table.exit_code(figures) == table.LEFT_OUT
    assert f"left out: {peers.OFFICIAL}: no network" in table.text(figures)
    assert "not measured" in table.text(figures)


def test_a_broken_promise_says_more_than_a_peer_left_out() -> None:
    figures = replace(GOOD, cached_pods=1, left_out=[LeftOut(peers.OFFICIAL, "no network")])
    assert table.exit_code(figures) == table.FAILED


def test_memory_per_pod_is_above_the_empty_process() -> None:
    bytes_per_pod = table.per_pod(Memory(1000, 500), Memory(3000, 1500), 10)
    assert bytes_per_pod == PerPod(200, 100)
    assert bytes_per_pod.least_bytes == 100
    assert table.per_pod(Memory(1000, None), Memory(3000, None), 10).least_bytes == 200


def test_the_table_has_median_spread_and_ratio() -> None:
    lines = table.text(GOOD).splitlines()
    ours = next(line for line in lines if line.startswith(f"{peers.OURS}  "))
    assert "1,000" in ours
    assert "900 to 5,000" in ours
    assert "10.00" in ours
