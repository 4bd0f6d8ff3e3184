"""The catalogue: one entry for each fault, and the same names everywhere that faults are named."""

from pathlib import Path

import msgspec
import pytest

from unblink.faults import CATALOGUE, Fault
from unblink.lab.scenario import SCENARIOS

DOCS = Path(__file__).parents[1] / "docs" / "lab.md"


def test_the_catalogue_has_every_fault_under_its_own_name() -> None:
    assert list(CATALOGUE) == list(Fault)
    assert all(fault is info.fault for fault, info in CATALOGUE.items())


def test_a_summary_is_a_line_of_its_own() -> None:
    summaries = [info.summary for info in CATALOGUE.values()]
    assert len(set(summaries)) == len(Fault)
    assert all("\n" not in summary and len(summary) <= 100 for summary in summaries)


def test_who_is_told_of_a_fault_was_told_by_a_kernel_that_answers() -> None:
    for info in CATALOGUE.values():
        assert info.kernel_answers or not info.gateway_is_told


@pytest.mark.parametrize(
    ("silent", "faults"),
    [
        (
            True,
            {
                "drop",
                "drop-to-apiserver",
                "drop-from-apiserver",
                "drop-gateway-output",
                "freeze",
                "host-vanishes",
                "store-cut",
            },
        ),
        (False, {"kill", "rolling-restart"}),
    ],
)
def test_which_faults_are_silent(silent: bool, faults: set[str]) -> None:
    assert {fault for fault, info in CATALOGUE.items() if info.gateway_is_told is not silent} == faults


def test_scenarios_and_their_page_name_the_same_faults() -> None:
    schema = msgspec.json.decode((SCENARIOS / "schema.json").read_bytes())
    assert schema["$defs"]["cell"]["properties"]["fault"]["enum"] == [fault.value for fault in Fault]
    page = DOCS.read_text()
    assert [fault for fault in Fault if f"`{fault.value}`" not in page] == []
