import json

import pytest
from tests.lab.clients.conftest import Process, Rig, write_kubeconfig

from unblink.lab.clients import informer, process
from unblink.stream.messages import Doubted, Proven, Stale, WatchStarted

WATCH = ("--resource", "configmaps", "--field-selector", "metadata.name=canary")
BOUND = ("--max-staleness-ms", "10000")


@pytest.mark.parametrize(
    ("resource", "api_version", "plural"),
    [("pods", "v1", "pods"), ("deployments.v1.apps", "apps/v1", "deployments"), ("w.v1.lab.dev", "lab.dev/v1", "w")],
)
def test_what_is_watched_is_spelled_as_for_kubectl(resource: str, api_version: str, plural: str) -> None:
    assert informer.kind(resource) == (api_version, plural)


@pytest.mark.parametrize("resource", ["", "deployments.apps", ".v1.apps"])
def test_a_wrong_resource_is_fatal(resource: str) -> None:
    with pytest.raises(process.Fatal, match=r"expected RESOURCE or RESOURCE\.VERSION\.GROUP"):
        informer.kind(resource)


def test_a_doubt_is_said_from_its_beginning_to_its_end(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    said = informer.Said()
    assert said.watch_since_s is None
    for command in (Doubted(6500), Stale(7000, True, "the probe is ahead"), WatchStarted("7", 3), Proven("a bookmark")):
        said.take(command)
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [{**line, "t": 0} for line in lines] == [
        {"t": 0, "event": "doubted", "silent_s": 6.5},
        {"t": 0, "event": "stale", "silent_s": 7.0, "why": "the probe is ahead"},
        {"t": 0, "event": "watch", "rv": "7", "timeout_s": 3},
        {"t": 0, "event": "proven", "by": "a bookmark"},
    ]
    assert said.watch_since_s == pytest.approx(lines[2]["t"], abs=0.1)


@pytest.mark.usefixtures("cluster")
def test_it_gets_every_event_once_and_says_how_fresh_it_is(rig: Rig) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "20")
    writer.wait_for("written", 3)
    watcher = rig.client("informer", *WATCH, *BOUND)
    watcher.wait_for("object", 10, source="watch")
    watcher.wait_for("alive", 2)
    last = writer.wait_for("written", 20)[-1]["rv"]
    watcher.wait_for("object", source="watch", rv=last)
    assert watcher.stop() == 0
    assert writer.stop() == 0
    (listed,) = watcher.said("list")
    assert (listed["items"], listed["reason"]) == (1, "initial")
    got = [int(line["rv"]) for line in watcher.said("object", source="watch", type="MODIFIED")]
    written = [int(line["rv"]) for line in writer.said("written")]
    assert got == [version for version in written if int(listed["rv"]) < version <= got[-1]]
    alive = watcher.said("alive")[-1]
    assert alive["watch_age_s"] > 0
    assert 0 <= alive["staleness_s"] <= 10


def test_it_goes_on_without_a_list_when_its_apiserver_comes_back(rig: Rig, cluster: Process) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "20")
    writer.wait_for("written")
    watcher = rig.client("informer", *WATCH, *BOUND)
    watcher.wait_for("object", source="watch")
    assert cluster.stop() == 0
    watcher.wait_for("ended")
    assert len(watcher.said("list")) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--resource", "deployments.apps", *BOUND), "expected RESOURCE or RESOURCE.VERSION.GROUP"),
        ((*WATCH, "--max-staleness-ms", "10"), "max_staleness"),
        (WATCH, "--max-staleness-ms"),
    ],
)
def test_what_cannot_be_kept_is_fatal(rig: Rig, flags: tuple[str, ...], said: str) -> None:
    (rig.folder / "ca.crt").touch()
    write_kubeconfig(rig, "https://127.0.0.1:1")
    watcher = rig.client("informer", *flags)
    assert watcher.popen.wait(20) == 2
    assert said in watcher.said("fatal")[0]["error"]
