"""result.json: its fields are a promise, and it comes back as it was written."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.judge import Verdict
from unblink.lab.result import CellResult, Result

DOCS = Path(__file__).parents[2] / "docs" / "lab.md"
CELL_FIELDS = (
    "id", "cure", "fault", "client", "blind_s", "observed_for_s", "bound_s", "lost", "duplicated", "relists",
    "exec_survived", "client_port_changed", "ended_by", "verdict", "reason", "evidence",
)  # fmt: skip
RESULT_FIELDS = ("scenario", "started", "versions", "mode", "mode_reason", "left_out", "verdict", "cells")

texts, seconds, counts = st.text(), st.floats(0, 1e6), st.integers(0, 2**31)
results = st.builds(
    Result,
    scenario=texts,
    started=texts,
    versions=st.dictionaries(texts, texts),
    mode=st.sampled_from(["namespaces", "loopback"]),
    mode_reason=st.none() | texts,
    left_out=st.dictionaries(texts, texts),
    verdict=st.sampled_from(Verdict),
    cells=st.lists(
        st.builds(
            CellResult,
            id=texts,
            cure=texts,
            fault=texts,
            client=texts,
            blind_s=st.none() | seconds,
            observed_for_s=seconds,
            bound_s=st.none() | seconds,
            lost=counts,
            duplicated=counts,
            relists=counts,
            exec_survived=st.none() | st.booleans(),
            client_port_changed=st.none() | st.booleans(),
            ended_by=st.none() | texts,
            verdict=st.sampled_from(Verdict),
            reason=texts,
            evidence=texts,
        ),
        max_size=3,
    ),
)


@given(results)
def test_it_comes_back_as_it_was_written(result: Result) -> None:
    written = msgspec.json.format(msgspec.json.encode(result))
    assert msgspec.json.decode(written, type=Result) == result
    plain = msgspec.json.decode(written)
    assert tuple(plain) == RESULT_FIELDS
    assert all(tuple(cell) == CELL_FIELDS for cell in plain["cells"])
    assert plain["verdict"] in {"pass", "fail", "unknown"}


@given(results, texts, st.integers())
def test_a_field_that_is_added_breaks_no_reader(result: Result, name: str, value: int) -> None:
    plain = msgspec.to_builtins(result)
    assert msgspec.json.decode(msgspec.json.encode({f"new_{name}": value, **plain}), type=Result) == result


@pytest.mark.parametrize("missing", RESULT_FIELDS)
def test_a_field_is_never_left_out(missing: str) -> None:
    result = Result(
        scenario="s",
        started="2026-03-01T12:30:05Z",
        versions={},
        mode="namespaces",
        mode_reason=None,
        left_out={},
        verdict=Verdict.PASS,
        cells=[],
    )
    plain = msgspec.to_builtins(result)
    assert plain.pop(missing) is not ...
    with pytest.raises(msgspec.ValidationError, match=missing):
        msgspec.convert(plain, Result)


def test_its_page_describes_every_field_and_no_other() -> None:
    page = DOCS.read_text()
    table = page[page.index("## result.json") : page.index("## A scenario of your own")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    of_cells = [name for row in rows if "cells[]" in row for name in re.findall(r"`(?:cells\[\])?\.([a-z_]+)`", row)]
    of_result = [name for row in rows if "cells[]" not in row for name in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(of_cells) == sorted(CELL_FIELDS)
    assert sorted(of_result) == sorted(RESULT_FIELDS)
