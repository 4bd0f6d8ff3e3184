import pytest
from tests.lab.clients.conftest import Process, Rig, ask


@pytest.fixture
def pod(rig: Rig, cluster: Process) -> Process:
    body = {"metadata": {"name": "exec-target"}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    assert ask(rig, "POST", "/api/v1/namespaces/default/pods", body) == 201
    return cluster


@pytest.mark.usefixtures("pod")
def test_one_echo_at_the_beginning_and_one_at_the_end(rig: Rig) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    assert session.stop() == 0
    assert [line["event"] for line in session.lines] == ["ready", "opened", "echo", "echo"]
    assert [line["ok"] for line in session.said("echo")] == [True, True]
    assert all(0 < line["seconds"] < 3 for line in session.said("echo"))


def test_a_killed_apiserver_closes_it_and_the_last_echo_fails(rig: Rig, pod: Process) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    pod.popen.kill()
    assert session.wait_for("closed")[0]["by"] == "connection-lost"
    assert session.stop() == 0
    assert session.said("echo")[-1]["ok"] is False


def test_an_apiserver_that_ends_says_goodbye(rig: Rig, pod: Process) -> None:
    session = rig.client("exec_session", "--pod", "exec-target")
    session.wait_for("echo", ok=True)
    assert pod.stop() == 0
    assert session.wait_for("closed")[0]["by"] in {"server-closed", "connection-lost"}
