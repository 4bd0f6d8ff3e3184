import pytest
from tests.lab.clients.conftest import Process, Rig

WATCH = ("--resource", "configmaps", "--field-selector", "metadata.name=canary")


@pytest.mark.parametrize("flags", [(), ("--watch-list",)])
@pytest.mark.usefixtures("cluster")
def test_it_lists_then_gets_every_event_once(rig: Rig, flags: tuple[str, ...]) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "20")
    writer.wait_for("written", 3)
    reflector = rig.client("reflector", *WATCH, *flags)
    reflector.wait_for("object", 10, source="watch")
    last = writer.wait_for("written", 20)[-1]["rv"]
    reflector.wait_for("object", source="watch", rv=last)
    reflector.wait_for("alive")
    assert reflector.stop() == 0
    assert writer.stop() == 0
    (listed,) = reflector.said("list")
    assert (listed["items"], listed["reason"]) == (1, "initial")
    assert len(reflector.said("object", source="list", type="ADDED", name="canary")) == 1
    (watch,) = reflector.said("watch")
    assert 300 <= watch["timeout_s"] <= 600
    got = [int(line["rv"]) for line in reflector.said("object", source="watch", type="MODIFIED")]
    written = [int(line["rv"]) for line in writer.said("written")]
    assert got == [version for version in written if int(listed["rv"]) < version <= got[-1]]
    assert reflector.said("alive")[0]["watch_age_s"] > 0


def test_it_watches_on_when_its_apiserver_comes_back(rig: Rig, cluster: Process) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "20")
    writer.wait_for("written")
    reflector = rig.client("reflector", *WATCH)
    reflector.wait_for("object", source="watch")
    cluster.popen.kill()
    ended = reflector.wait_for("ended")[0]
    assert ended["by"] == "connection-lost"
    config = (rig.folder / "apiserver.json").read_text()
    (rig.folder / "again.json").write_text(config.replace('"port": 0', f'"port": {cluster.said("ready")[0]["port"]}'))
    rig.start("unblink.lab.apiserver", "--config", "again.json")
    again = reflector.wait_for("watch", 2)[1]
    held = [line["rv"] for line in reflector.said("object") if line["t"] < ended["t"]]
    assert again["rv"] == held[-1]
    assert len(reflector.said("list")) == 1


def test_a_draining_apiserver_ends_the_watch_cleanly_and_it_is_resumed(rig: Rig, cluster: Process) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "20")
    writer.wait_for("written")
    reflector = rig.client("reflector", *WATCH)
    reflector.wait_for("object", source="watch")
    assert cluster.stop() == 0
    assert reflector.wait_for("ended")[0]["by"] == "server-closed"
    assert len(reflector.said("list")) == 1


def test_a_wrong_resource_is_fatal(rig: Rig) -> None:
    (rig.folder / "ca.crt").touch()
    from tests.lab.clients.conftest import write_kubeconfig

    write_kubeconfig(rig, "https://127.0.0.1:1")
    process = rig.client("reflector", "--resource", "deployments.apps")
    assert process.popen.wait(20) == 2
    assert "expected RESOURCE or RESOURCE.VERSION.GROUP" in process.said("fatal")[0]["error"]
