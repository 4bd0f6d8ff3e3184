import json

import pytest
from tests.lab.clients.conftest import Rig
from tests.loopback import Exchange, serve

from unblink.lab.clients.kubectl_loop import Run, ending
from unblink.stream.endings import EndedBy

WATCH = ("--resource", "configmaps", "--field-selector", "metadata.name=canary")


@pytest.mark.parametrize(
    ("exit_code", "last_error", "stream_error", "by"),
    [
        (0, "", "", EndedBy.SERVER_CLOSED),
        (0, "", "unable to decode: stream error: stream ID 9; INTERNAL_ERROR", EndedBy.STREAM_RESET),
        (0, "", "read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer", EndedBy.CONNECTION_LOST),
        (0, "", "unexpected EOF", EndedBy.CONNECTION_LOST),
        (0, "", "http2: client connection lost", EndedBy.CONNECTION_LOST),
        (0, "", "too old resource version: 1 (1756)", EndedBy.ERROR_EVENT),
        (1, "Error from server (Forbidden): no", "", EndedBy.REFUSED),
        (1, "The connection to the server 127.0.0.1:1 was refused", "", EndedBy.CONNECTION_LOST),
        (1, "Unable to connect to the server: EOF", "", EndedBy.CONNECTION_LOST),
        (1, "error: unknown flag", "", EndedBy.ERROR_EVENT),
    ],
)
def test_who_ended_it(exit_code: int, last_error: str, stream_error: str, by: EndedBy) -> None:
    assert ending(exit_code, last_error, stream_error)[0] is by


def test_output_that_is_no_frame_is_an_ending(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = Run("/configmaps", "initial")
    run.take_output(b"{}\n")
    run.ended(0)
    line = json.loads(capfdbinary.readouterr().out)
    assert line["by"] == "error-event"
    assert "kubectl's output: watch frame at byte 0" in line["detail"]


@pytest.mark.usefixtures("cluster")
def test_kubectl_against_the_embedded_apiserver(rig: Rig) -> None:
    writer = rig.client("writer", "--name", "canary", "--period-ms", "50")
    writer.wait_for("written", 3)
    loop = rig.client("kubectl_loop", *WATCH)
    loop.wait_for("object", 5, source="watch")
    loop.wait_for("alive")
    assert loop.stop() == 0
    (listed,) = loop.said("list")
    assert listed["reason"] == "initial"
    (watch,) = loop.said("watch")
    got = [int(line["rv"]) for line in loop.said("object", source="watch")]
    written = [int(line["rv"]) for line in writer.said("written")]
    assert got == [version for version in written if int(watch["rv"]) < version <= got[-1]]
    assert not (rig.folder / "home").exists()


CONFIGMAPS = {
    "name": "configmaps",
    "singularName": "configmap",
    "namespaced": True,
    "kind": "ConfigMap",
    "verbs": ["get", "list", "watch"],
}
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [CONFIGMAPS]},
}


def configmap(version: int) -> dict[str, object]:
    metadata = {"name": "canary", "namespace": "default", "uid": "u", "resourceVersion": str(version)}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}


def test_kubectl_is_started_again_and_every_ending_is_named(rig: Rig) -> None:
    endings = [Exchange.reset, Exchange.abort_connection, Exchange.end]

    async def handler(exchange: Exchange) -> None:
        if exchange.path in DISCOVERY:
            exchange.respond(body=json.dumps(DISCOVERY[exchange.path]).encode())
        elif "watch" not in exchange.query:
            metadata = {"resourceVersion": "10"}
            listed = {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": [configmap(9)]}
            exchange.respond(body=json.dumps(listed).encode())
        elif endings:
            exchange.respond()
            exchange.data(json.dumps({"type": "MODIFIED", "object": configmap(11)}).encode() + b"\n")
            await exchange.drained()
            loop.wait_for("object", 4 - len(endings), rv="11")
            endings.pop(0)(exchange)
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "Forbidden"}
            exchange.respond(403, body=json.dumps(status | {"code": 403}).encode())

    with serve(handler) as server:
        server.kubeconfig(rig.folder)
        loop = rig.client("kubectl_loop", *WATCH)
        ended = loop.wait_for("ended", 4)
        assert loop.stop() == 0
    assert [line["by"] for line in ended[:4]] == ["stream-reset", "connection-lost", "server-closed", "refused"]
    assert [line["reason"] for line in loop.said("list")[:3]] == ["initial", "relist", "relist"]
    assert [line["source"] for line in loop.said("object")[:2]] == ["list", "watch"]
