import signal

import pytest
from tests.lab.clients.conftest import Process, Rig

POLL = ("--resource", "configmaps", "--name", "canary", "--period-ms", "20")


@pytest.mark.usefixtures("cluster")
def test_every_request_is_said_with_its_status(rig: Rig) -> None:
    poller = rig.client("poller", *POLL)
    assert poller.wait_for("request", 3)[0]["status"] == 404
    rig.client("writer", "--name", "canary")
    poller.wait_for("request", status=200)
    assert poller.stop() == 0
    assert all(line["error"] is None and 0 < line["seconds"] < 2 for line in poller.said("request"))


def test_requests_overlap_while_nobody_answers_and_time_out_alone(rig: Rig, cluster: Process) -> None:
    poller = rig.client("poller", *POLL)
    poller.wait_for("request")
    cluster.popen.send_signal(signal.SIGSTOP)
    try:
        late = poller.wait_for("request", 5, error="no answer within 2 s")
    finally:
        cluster.popen.send_signal(signal.SIGCONT)
    assert late[4]["t"] - late[0]["t"] < 1.5
    assert all(line["status"] is None and 1.9 < line["seconds"] < 3 for line in late)
    answered = len(poller.said("request", error=None))
    poller.wait_for("request", answered + 1, error=None)
