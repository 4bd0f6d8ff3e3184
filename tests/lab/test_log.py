"""JSON lines on standard output: their shape, their clock, and that they are out when emit returns."""

import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unblink.lab.log import emit, monotonic_s

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.none() | st.booleans() | numbers | st.text()


def test_the_clock_is_the_kernels_monotonic_one() -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert before <= monotonic_s() <= time.clock_gettime(time.CLOCK_MONOTONIC)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["ready", "watch-started"]), st.dictionaries(st.sampled_from(["rv", "by", "error"]), values))
def test_whatever_is_said_is_one_line_and_comes_back(
    capfdbinary: pytest.CaptureFixture[bytes], event: str, fields: dict[str, object]
) -> None:
    before = monotonic_s()
    emit(event, **fields)
    printed, _ = capfdbinary.readouterr()
    assert printed.endswith(b"\n")
    assert printed.count(b"\n") == 1
    line = msgspec.json.decode(printed)
    assert list(line)[:2] == ["t", "event"]
    moment = line.pop("t")
    assert line == {"event": event, **fields}
    assert round(before, 6) <= moment <= round(monotonic_s(), 6)
    assert moment == round(moment, 6)


def test_a_line_is_out_before_the_process_goes_on() -> None:
    program = "import os; from unblink.lab.log import emit; emit('ready', port=1); emit('gone'); os._exit(3)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 3
    assert [msgspec.json.decode(line)["event"] for line in done.stdout.splitlines()] == ["ready", "gone"]
