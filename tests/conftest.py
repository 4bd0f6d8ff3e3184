"""What the whole suite needs to know about its machine: what cannot run here is left out, and said at the end.

In CI (CI=true) nothing is left out or skipped but what needs a kube-apiserver of the machine's own.
"""

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.lab.runs import Run

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# Virtual time and small examples find what is slow; a deadline per example only finds a busy machine.
hypothesis.settings.register_profile("unblink", deadline=None, derandomize=IN_CI, print_blob=True)
hypothesis.settings.load_profile("unblink")


def why_no_go() -> str | None:
    if shutil.which("go") is None:
        return "there is no Go toolchain on PATH"
    if not (ROOT / "peers/client-go/bin/client-go-informer").exists():
        return "the Go peers are not built (make peers says why)"
    return None


def why_no_namespaces() -> str | None:
    from unblink.lab.hosts import sandbox

    reason = sandbox.why_forbidden()
    return reason and f"this machine forbids namespaces: {reason}"


def why_no_kube_apiserver() -> str | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return "KUBEBUILDER_ASSETS is not set"
    missing = [name for name in ("kube-apiserver", "etcd") if not os.access(Path(assets) / name, os.X_OK)]
    return f"KUBEBUILDER_ASSETS has no {' and no '.join(missing)}" if missing else None


REASONS: dict[str, Callable[[], str | None]] = {
    "needs_go": why_no_go,
    "needs_namespaces": why_no_namespaces,
    "needs_kube_apiserver": why_no_kube_apiserver,
}
REQUIRED_IN_CI = ("needs_go", "needs_namespaces")

_left_out = pytest.StashKey[dict[str, int]]()  # of the session: reason -> how many tests were left out for it
_missing = pytest.StashKey[str]()  # of a test in CI: why it cannot run


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what this machine cannot run; in CI, keep it and let it fail with the reason."""
    left_out = config.stash.setdefault(_left_out, {})
    wanted = {marker for marker in REASONS if any(item.get_closest_marker(marker) for item in items)}
    reasons = {marker: reason for marker in sorted(wanted) if (reason := REASONS[marker]())}
    kept, deselected = [], []
    for item in items:
        unmet = [marker for marker in reasons if item.get_closest_marker(marker)]
        if not unmet:
            kept.append(item)
        elif IN_CI and unmet[0] in REQUIRED_IN_CI:
            item.stash[_missing] = reasons[unmet[0]]
            kept.append(item)
        else:
            left_out[reasons[unmet[0]]] = left_out.get(reasons[unmet[0]], 0) + 1
            deselected.append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    if reason := item.stash.get(_missing, None):
        pytest.fail(f"CI must run this test: {reason}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped in CI: {skip_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI a module that skips itself is a failed one."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped in CI: {skip_reason(report.longrepr)}"
    return report


def skip_reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_left_out, {})
    if left_out:
        terminalreporter.section("left out on this machine", yellow=True)
        for reason, count in left_out.items():
            terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}")


@pytest.fixture(scope="session")
def whole_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Generator[dict[str, Future[Run]]]":
    """The long runs that the chosen tests read, side by side: each takes a minute of mostly waiting."""
    from tests.lab import runs

    names = ("incident", "faults", "informer")
    wanted = [name for name in names if any(name in _fixtures(item) for item in request.session.items)]
    with ThreadPoolExecutor() as pool:
        yield {name: pool.submit(runs.run, tmp_path_factory.mktemp(name), name) for name in wanted}


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


@pytest.fixture(scope="session")
def incident(whole_runs: "dict[str, Future[Run]]") -> "Run":
    """`unblink lab run incident`, once."""
    return whole_runs["incident"].result()


@pytest.fixture(scope="session")
def faults(whole_runs: "dict[str, Future[Run]]") -> "Run":
    """`unblink lab run faults`, once."""
    return whole_runs["faults"].result()


@pytest.fixture(scope="session")
def informer(whole_runs: "dict[str, Future[Run]]") -> "Run":
    """`unblink lab run informer`, once."""
    return whole_runs["informer"].result()
