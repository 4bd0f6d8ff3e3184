"""The real kubectl against a real store and apiserver, without flags that would spare it a question."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.lab.apiserver.peers import Files
from tests.lab.apiserver.test_transcripts import process

KUBECTL = Path(sys.executable).with_name("kubectl")
TOKEN = "kubectls-token"
MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: canary, namespace: lab}
data: {version: "%(version)s"}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: lab}
spec: {containers: [{name: c, image: i, env: [{name: V, value: "%(version)s"}]}]}
---
apiVersion: lab.dev/v1
kind: Widget
metadata: {name: w, namespace: lab}
spec: {size: %(version)s}
"""

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("kubectl")
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    (folder / "token").write_text(TOKEN)
    with ExitStack() as stack:
        store = stack.enter_context(process(folder, "unblink.lab.apiserver.store", {"address": "127.0.0.1", "port": 0}))
        config = {
            "name": "apiserver",
            "address": "127.0.0.1",
            "port": 0,
            "ca": str(files.ca),
            "certificate": str(files.certificate),
            "private_key": str(files.private_key),
            "token_file": "tokens.csv",
            "store_address": "127.0.0.1",
            "store_port": store["port"],
            "custom_resources": [{"group": "lab.dev", "version": "v1", "plural": "widgets", "kind": "Widget"}],
        }
        port = stack.enter_context(process(folder, "unblink.lab.apiserver", config))["port"]
        cluster = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(files.ca),
            "tls-server-name": "kubernetes",
        }
        (folder / "kubeconfig").write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"tokenFile": str(folder / "token")}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}],
                    "current-context": "x",
                }
            )
        )

        def run(*arguments: str, stdin: str = "", code: int = 0) -> str:
            done = _start(folder, *arguments)
            out, _ = done.communicate(stdin, timeout=30)
            assert done.returncode == code, out
            return out

        run.__dict__["start"] = lambda *arguments: _start(folder, *arguments)
        _until_bootstrapped(run)
        yield run


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig")}
    return subprocess.Popen(
        [KUBECTL, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until_bootstrapped(run: Kubectl) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if "lab" in run("get", "namespaces", "-o", "name", "--ignore-not-found"):
            return
    raise AssertionError("namespace lab was not made")


def test_apply(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=MANIFEST % {"version": 1}).count(" created\n") == 3
    assert kubectl("apply", "-f", "-", stdin=MANIFEST % {"version": 1}).count(" unchanged\n") == 3
    assert kubectl("apply", "-f", "-", stdin=MANIFEST % {"version": 2}).count(" configured\n") == 3
    assert kubectl("get", "pod", "web", "-o", "jsonpath={.spec.containers[*].env[*].value}") == "2"
    refused = kubectl(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=MANIFEST % {"version": 3}, code=1
    )
    assert "Apply failed with 1 conflict: conflict with" in refused
    forced = kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=MANIFEST % {"version": 3})
    assert forced.count(" serverside-applied\n") == 3
    assert kubectl("get", "widget", "w", "-o", "jsonpath={.spec.size}") == "3"


def test_get_prints_tables(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=MANIFEST % {"version": 3})
    lines = kubectl("get", "configmap,pod,widget").splitlines()
    assert lines[0].split() == ["NAME", "DATA", "AGE"]
    assert lines[1].split()[:2] == ["configmap/canary", "1"]
    assert [line.split()[:4] for line in lines if "pod/web" in line] == [["pod/web", "0/1", "Pending", "0"]]
    assert "No resources found" in kubectl("get", "secrets")
    assert 'configmaps "none" not found' in kubectl("get", "configmap", "none", code=1)


def test_create_patch_label_delete(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "made", "--from-literal=a=1")
    kubectl("patch", "configmap", "made", "--type=json", "-p", '[{"op":"add","path":"/data/b","value":"2"}]')
    kubectl("label", "configmap", "made", "on=yes")
    assert kubectl("get", "configmap", "-l", "on=yes", "-o", "jsonpath={.items[*].data}") == '{"a":"1","b":"2"}'
    kubectl("create", "secret", "generic", "s", "--from-literal=password=x")
    kubectl("create", "namespace", "temporary")
    for thing in ("configmap/made", "secret/s", "namespace/temporary"):
        assert "deleted" in kubectl("delete", thing)
    assert kubectl("get", "configmap", "made", "--ignore-not-found") == ""


def test_watch(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "first")
    kubectl("label", "configmap", "first", "w=1")
    watching: subprocess.Popen[str] = kubectl.__dict__["start"](
        "get", "configmaps", "-w", "--output-watch-events", "-l", "w=1", "--request-timeout=20s"
    )
    try:
        assert watching.stdout is not None
        first = [watching.stdout.readline().split()[:2] for _ in range(2)]
        assert first == [["EVENT", "NAME"], ["ADDED", "first"]]
        kubectl("create", "configmap", "seen")
        kubectl("label", "configmap", "seen", "w=1")
        kubectl("label", "configmap", "seen", "a=b")
        kubectl("delete", "configmap", "seen")
        seen = [watching.stdout.readline().split()[:2] for _ in range(3)]
        assert seen == [["ADDED", "seen"], ["MODIFIED", "seen"], ["DELETED", "seen"]]
    finally:
        watching.terminate()
        watching.communicate(timeout=10)


def test_versions_and_resources(kubectl: Kubectl) -> None:
    assert "v1.36.0-unblink.lab" in kubectl("version")
    assert {"configmaps", "pods", "widgets.lab.dev", "leases.coordination.k8s.io"} <= set(
        kubectl("api-resources", "-o", "name").split()
    )
