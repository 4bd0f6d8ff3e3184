"""Runs where namespaces are forbidden, and on a disk that is full: the lab's own sandbox makes such machines."""

import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path

from pyroute2 import AsyncIPRoute
from tests.inside import inside
from tests.lab import runs

from unblink.lab import folder

PR_CAPBSET_DROP = 24
TMPFS_BYTES = 300 << 20
libc = ctypes.CDLL(None, use_errno=True)


async def forbid_namespaces() -> None:
    """What starts from here on is as in an ordinary container: loopback, no capabilities, no more namespaces."""
    async with AsyncIPRoute() as netlink:
        await netlink.link("set", index=1, state="up")
    for kind in ("user", "net"):
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def mount_tmpfs(place: Path) -> None:
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={TMPFS_BYTES}".encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount(2)", str(place))


def fill(place: Path) -> None:
    with (place / "filling").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 20))
        except OSError:
            return


def until(lab: "subprocess.Popen[str]", word: str) -> None:
    assert lab.stderr is not None
    assert any(word in line for line in lab.stderr), f"the run ended before it said {word!r}"


def assert_nothing_left(out: Path) -> None:
    assert runs.processes(out) == []
    left = [path for pattern in (folder.SECRETS, folder.LOCK, "*.sock", "tls-keys.log") for path in out.rglob(pattern)]
    assert left == []


@inside
async def test_what_loopback_can_show_is_shown_and_the_rest_is_unknown(tmp_path: Path, out: Path) -> None:
    await forbid_namespaces()
    scenario = runs.write(
        tmp_path / "four.yaml",
        runs.QUICK,
        "{id: output, cure: none, fault: drop-gateway-output}",
        "{id: vanishes, cure: none, fault: host-vanishes}",
        "{id: store, cure: none, fault: store-cut}",
    )
    done = runs.run(out, scenario)
    assert done.code == 3, done.out + done.errors
    result = done.result
    assert result.mode == "loopback"
    assert result.mode_reason is not None
    assert result.mode_reason.startswith("unshare(2): ")
    assert f"No namespaces here ({result.mode_reason}): ran on loopback" in done.out
    assert [(row.id, row.verdict.value, row.ended_by) for row in result.cells] == [
        ("ping", "pass", "http2-ping"),
        ("output", "unknown", None),
        ("vanishes", "pass", None),
        ("store", "unknown", None),
    ]
    ping, output, vanishes, store = result.cells
    assert ping.blind_s is not None
    assert ping.bound_s is not None
    assert 0.5 < ping.blind_s <= ping.bound_s
    assert "netfilter needs network namespaces" in output.reason
    assert f"output reflector: unknown: {output.reason}" in done.out
    assert "a drop between apiserver and store needs network namespaces" in store.reason
    assert vanishes.blind_s is None
    assert vanishes.client_port_changed is False
    assert not list(done.place.rglob("*.pcapng"))
    assert (done.place / "report.html").stat().st_size > 5_000
    assert_nothing_left(out)


@inside
async def test_a_port_in_use_is_named(tmp_path: Path, out: Path) -> None:
    await forbid_namespaces()
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK)
    with socket.create_server(("127.1.11.10", 6443)):
        done = runs.run(out, scenario)
    assert done.code == 2, done.out + done.errors
    (said,) = [line for line in done.errors.splitlines() if line.startswith("unblink: ")]
    assert "127.1.11.10" in said
    assert "6443" in said
    assert "in use" in said
    assert "Traceback" not in done.errors
    assert_nothing_left(out)


@inside
async def test_two_runs_side_by_side_and_sigterm_leaves_nothing_of_either(tmp_path: Path, out: Path) -> None:
    await forbid_namespaces()
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK, observe_s=60)
    both = [runs.start(out, scenario) for _ in range(2)]
    for lab in both:
        until(lab, "clients")
    assert len(runs.processes(out)) >= 2 * 4
    for lab in both:
        lab.send_signal(signal.SIGTERM)
    for lab in both:
        _, errors = lab.communicate(timeout=20)
        assert lab.returncode == 128 + signal.SIGTERM, errors
        assert "Traceback" not in errors
    assert_nothing_left(out)


@inside
async def test_a_disk_that_is_full_from_the_start(tmp_path: Path, out: Path) -> None:
    mount_tmpfs(tmp_path)
    scenario = runs.write(tmp_path / "quick.yaml", runs.QUICK)
    fill(tmp_path)
    done = runs.run(out, scenario)
    assert done.code == 2
    assert done.errors == f"unblink: {out}: only 0 MB free, a run needs 256 MB\n"


@inside
async def test_a_disk_that_becomes_full_in_the_middle(tmp_path: Path, out: Path) -> None:
    mount_tmpfs(tmp_path)
    lab = runs.start(out, runs.write(tmp_path / "quick.yaml", runs.QUICK, observe_s=60))
    until(lab, "observing")
    fill(tmp_path)
    printed, errors = lab.communicate(timeout=30)
    assert lab.returncode == 2, printed + errors
    (said,) = errors.splitlines()
    assert said.startswith("unblink: ")
    assert os.strerror(28) in said
    assert_nothing_left(out)
