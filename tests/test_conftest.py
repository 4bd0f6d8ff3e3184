"""The suite's own rules, tried on a small suite in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

SUITE = {
    "plain": "def test_plain(): pass",
    "needs_go": "import pytest\n@pytest.mark.needs_go\ndef test_go(): pass",
    "skips": "import pytest\ndef test_skips(): pytest.skip('tired')",
    "module_skips": "import pytest\npytest.importorskip('no_such_module', reason='tired')",
    "xfails": "import pytest\n@pytest.mark.xfail\ndef test_xfails(): assert False",
}


def run_suite(folder: Path, *names: str, ci: str) -> tuple[int, list[str]]:
    """Exit code and output lines of the named tests, on a machine whose PATH has no Go."""
    (folder / "tests").mkdir()
    shutil.copy(HERE / "conftest.py", folder / "tests")
    shutil.copy(HERE.parent / "pyproject.toml", folder)
    for name in names:
        (folder / "tests" / f"test_{name}.py").write_text(SUITE[name])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "CI": ci, "PATH": str(folder), "PY_COLORS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_what_cannot_run_is_left_out_and_said_before_the_summary_line(tmp_path: Path) -> None:
    code, lines = run_suite(tmp_path, "plain", "needs_go", "skips", ci="")
    assert code == 0
    assert "1 test: there is no Go toolchain on PATH" in lines
    assert lines[-1].strip("= ").startswith("1 passed, 1 skipped, 1 deselected")


def test_ci_must_run_it(tmp_path: Path) -> None:
    code, lines = run_suite(tmp_path, "plain", "needs_go", ci="true")
    assert code == 1
    assert "CI must run this test: there is no Go toolchain on PATH" in lines
    assert lines[-1].strip("= ").startswith("1 passed, 1 error")


@pytest.mark.parametrize("skips", ["skips", "module_skips"])
def test_ci_fails_on_a_skip(tmp_path: Path, skips: str) -> None:
    code, lines = run_suite(tmp_path, "plain", skips, ci="true")
    assert code != 0
    assert any("skipped in CI" in line and "tired" in line for line in lines)


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    code, lines = run_suite(tmp_path, "plain", "xfails", ci="true")
    assert code == 0
    assert lines[-1].strip("= ").startswith("1 passed, 1 xfailed")
