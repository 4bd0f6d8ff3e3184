import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.clients.conftest import Process, Rig

from unblink.lab.clients.writer import next_tick


@given(st.floats(0, 1e6), st.floats(0.001, 100))
def test_the_next_moment_is_always_ahead_and_at_most_a_period(elapsed_s: float, period_s: float) -> None:
    ahead_s = next_tick(elapsed_s, period_s) * period_s - elapsed_s
    assert -1e-6 <= ahead_s <= period_s + 1e-6


@pytest.mark.usefixtures("cluster")
def test_it_makes_the_object_and_keeps_its_rate(rig: Rig) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "50")
    written = writer.wait_for("written", 20)
    versions = [int(line["rv"]) for line in written]
    assert versions == sorted(set(versions))
    assert all(line["sent_t"] <= line["t"] for line in written)
    assert written[19]["t"] - written[0]["t"] == pytest.approx(19 * 0.05, abs=0.5)
    assert writer.stop() == 0


def test_it_goes_on_when_its_apiserver_comes_back(rig: Rig, cluster: Process) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "50")
    writer.wait_for("written", 2)
    cluster.popen.kill()
    cluster.popen.wait()
    writer.wait_for("not-written")
    port = cluster.said("ready")[0]["port"]
    config = (rig.folder / "apiserver.json").read_text().replace('"port": 0', f'"port": {port}')
    (rig.folder / "again.json").write_text(config)
    rig.start("unblink.lab.apiserver", "--config", "again.json")
    before = len(writer.said("written"))
    writer.wait_for("written", before + 2)
    assert writer.stop() == 0
