"""Scenario files: what is shipped, what is refused, and in which words."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from unblink import chain
from unblink.faults import Fault
from unblink.lab import scenario
from unblink.lab.scenario import ScenarioError, load

GOOD = """\
description: one cell
clients: [reflector]
cells:
  - id: a
    cure: none
    fault: drop
"""


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as error:
        load(str(path))
    return str(error.value).replace(str(path), "mine.yaml")


def test_the_incident_has_its_cells_with_timers_that_real_time_replaces() -> None:
    fast, real = load("incident"), load("incident", real_time=True)
    assert [cell.id[0] for cell in fast.cells] == list("abcdefgg")
    assert [cell.id for cell in real.cells] == [cell.id for cell in fast.cells]
    assert real.cells[2].gateway.upstream.tcp_keepalive == chain.TcpKeepalive(10, 3, 3)
    assert fast.cells[2].gateway.upstream.tcp_keepalive == chain.TcpKeepalive(2, 1, 2)
    assert all(a.observe_s > b.observe_s for a, b in zip(real.cells, fast.cells, strict=True))


@pytest.mark.parametrize("name", sorted(scenario.shipped()))
@pytest.mark.parametrize("real_time", [False, True])
def test_every_shipped_scenario_loads_and_is_watched_longer_than_its_bound(name: str, real_time: bool) -> None:
    from unblink.bounds import predict

    for cell in load(name, real_time=real_time).cells:
        for client in cell.clients:
            bound_s = predict(cell.chain(client), cell.fault).bound_s
            assert bound_s is None or bound_s + 2 < cell.observe_s, (cell.id, client, bound_s)


def test_the_schema_is_one_and_knows_every_fault_and_client() -> None:
    schema = json.loads((scenario.SCENARIOS / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$defs"]["cell"]["properties"]["fault"]["enum"] == [fault.value for fault in Fault]
    assert set(schema["$defs"]["clients"]["items"]["enum"]) == set(chain.CLIENTS)
    upstream = schema["$defs"]["gateway"]["properties"]["upstream"]["properties"]
    assert set(upstream) == set(chain.Upstream.__slots__)


def test_the_informer_meets_every_fault_without_a_cure() -> None:
    cells = load("informer").cells
    assert {cell.fault for cell in cells} == set(Fault)
    assert {cell.gateway for cell in cells} == {chain.Gateway()}
    assert all(set(cell.clients) == {"kubectl", "client-go", "informer"} for cell in cells)
    assert {cell.chain("informer").client.max_staleness_ms for cell in cells} == {10_000}
    assert {cell.chain("informer").client.max_staleness_ms for cell in load("informer", real_time=True).cells} == {
        90_000
    }


def test_the_bound_of_a_cells_own_is_for_those_who_have_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "    max_staleness_ms: 15000\n  - {id: b, cure: none, fault: kill}\n")
    one, other = load(str(path)).cells
    assert [one.chain(client).client.max_staleness_ms for client in ("informer", "reflector")] == [15_000, None]
    assert other.chain("informer").client.max_staleness_ms == scenario.DEFAULT_MAX_STALENESS_MS
    path.write_text("max_staleness_ms: 20000\n" + path.read_text())
    assert [cell.max_staleness_ms for cell in load(str(path)).cells] == [15_000, 20_000]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    found = load(str(path))
    assert (found.name, found.cells[0].fault, found.cells[0].observe_s) == (
        "mine",
        Fault.DROP,
        scenario.DEFAULT_OBSERVE_S,
    )


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("fault: dorp", "fault: drop", "mine.yaml:6: cells.0.fault: 'dorp' is not one of drop, drop-to-apiserver"),
        (
            "clients: [me]",
            "clients: [reflector]",
            "mine.yaml:2: clients.0: 'me' is not one of kubectl",
        ),
        (
            "fualt: drop",
            "fault: drop",
            "mine.yaml:6: cells.0: unknown key 'fualt'; allowed are busy_period_ms, clients",
        ),
        ("cure: 7", "cure: none", "mine.yaml:5: cells.0.cure: 7 is not of type string"),
        ("id: A b", "id: a", "mine.yaml:4: cells.0.id: 'A b' does not match"),
        ("fault: drop\n    observe_s: -1", "fault: drop", "mine.yaml:7: cells.0.observe_s: -1 is less than"),
        (
            "fault: drop\n    gateway: {upstream: {http2_ping: {interval_ms: 5}}}",
            "fault: drop",
            "mine.yaml:7: cells.0.gateway.upstream.http2_ping: timeout_ms is missing",
        ),
        ("fault: drop\n  - {id: a, cure: x, fault: kill}", "fault: drop", "mine.yaml:7: cell id 'a' is there twice"),
        ("cells: {", "cells:", "mine.yaml:4: "),
        ("description: &a one", "description: one cell\nx: *a", "mine.yaml:1: "),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_would_be_right(
    tmp_path: Path, wrong: str, right: str, said: str
) -> None:
    text = GOOD.replace(right, wrong) if right in GOOD else wrong + GOOD.partition("\n")[2]
    assert any(line.startswith(said) for line in refused(tmp_path, text).splitlines()), refused(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("drop", "dorp").replace("reflector", "me")
    assert len(refused(tmp_path, text).splitlines()) == 2


def test_aliases_depth_size_and_encoding_are_refused(tmp_path: Path) -> None:
    assert "aliases are not allowed" in refused(tmp_path, "a: &a [1]\nb: [*a, *a]\n")
    assert "too deeply" in refused(tmp_path, "[" * 5000)
    assert "larger than" in refused(tmp_path, "#" * (scenario.MAXIMUM_BYTES + 1))
    (tmp_path / "latin.yaml").write_bytes(b"description: \xff\n")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load(str(tmp_path / "latin.yaml"))
    assert "mine.yaml:1: the file: None is not of type object" in refused(tmp_path, "")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'incidnet'; there are: .*incident"):
        load("incidnet")
    with pytest.raises(ScenarioError, match="No such file"):
        load(str(tmp_path / "gone.yaml"))
