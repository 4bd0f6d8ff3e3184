from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from unblink.cli.columns import columns_of, human_duration

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [  # the cases of apimachinery/pkg/util/duration/duration_test.go, and those of its other branches
        (-2, "<invalid>"),
        (-1.5, "0s"),
        (0, "0s"),
        (1.9, "1s"),
        (70, "70s"),
        (119.9, "119s"),
        (2 * MINUTE, "2m"),
        (190, "3m10s"),
        (10 * MINUTE, "10m"),
        (70 * MINUTE, "70m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 10 * MINUTE, "3h10m"),
        (8 * HOUR, "8h"),
        (47 * HOUR, "47h"),
        (48 * HOUR, "2d"),
        (49 * HOUR, "2d1h"),
        (8 * DAY, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (733 * DAY, "2y3d"),
        (3000 * DAY, "8y"),
    ],
)
def test_durations_are_kubectls(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def shown(kind: str, group: str = "", **body: Any) -> dict[str, str]:
    headings, cells = columns_of(group, kind)
    return dict(zip(headings, cells(body, NOW), strict=True))


def test_what_is_not_known_has_its_age() -> None:
    assert shown("Widget", "lab.dev", metadata={"creationTimestamp": ago(190)}) == {"AGE": "3m10s"}


@pytest.mark.parametrize("metadata", [{}, {"creationTimestamp": None}, {"creationTimestamp": "yesterday"}])
def test_an_age_may_be_unknown(metadata: dict[str, Any]) -> None:
    assert shown("ConfigMap", metadata=metadata) == {"AGE": "<unknown>"}


def test_deployments() -> None:
    status = {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}
    found = shown("Deployment", "apps", metadata={"creationTimestamp": ago(5)}, spec={"replicas": 4}, status=status)
    assert found == {"READY": "2/4", "UP-TO-DATE": "3", "AVAILABLE": "1", "AGE": "5s"}
    found = shown("Deployment", "apps", metadata={"creationTimestamp": ago(5)}, spec={"replicas": 1})
    assert found == {"READY": "0/1", "UP-TO-DATE": "0", "AVAILABLE": "0", "AGE": "5s"}


RUNNING = {"ready": True, "state": {"running": {}}}


def waiting(reason: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason}}}


def terminated(exit_code: int, reason: str = "", signal: int = 0) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": exit_code, "reason": reason, "signal": signal}}}


def pod(
    *containers: dict[str, Any],
    initial: tuple[dict[str, Any], ...] = (),
    sidecars: tuple[str, ...] = (),
    deleting: bool = False,
    **status: Any,
) -> dict[str, Any]:
    """A pod by the states of its containers; init containers are named i0, i1, ..."""
    named = [{"name": f"i{number}"} | one for number, one in enumerate(initial)]
    always = [{"restartPolicy": "Always"} if one["name"] in sidecars else {} for one in named]
    return {
        "metadata": {"creationTimestamp": ago(5), **({"deletionTimestamp": ago(1)} if deleting else {})},
        "spec": {
            "containers": [{"name": f"c{number}"} for number in range(max(1, len(containers)))],
            "initContainers": [{"name": one["name"]} | more for one, more in zip(named, always, strict=True)],
        },
        "status": {"phase": "Running", "initContainerStatuses": named, "containerStatuses": containers} | status,
    }


READY_CONDITION = [{"type": "Ready", "status": "True"}]
GATED = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]

PODS: list[tuple[dict[str, Any], str, str]] = [
    (pod(RUNNING), "1/1", "Running"),
    (pod(phase="Pending"), "0/1", "Pending"),
    (pod(phase="Pending", conditions=GATED), "0/1", "SchedulingGated"),
    (pod(phase="Failed", reason="Evicted"), "0/1", "Evicted"),
    (pod(RUNNING, waiting("CrashLoopBackOff")), "1/2", "CrashLoopBackOff"),
    (pod(waiting("ImagePullBackOff"), phase="Pending"), "0/1", "ImagePullBackOff"),
    (pod(waiting(), phase="Pending"), "0/1", "Pending"),
    (pod(terminated(1, "Error")), "0/1", "Error"),
    (pod(terminated(137, signal=9)), "0/1", "Signal:9"),
    (pod(terminated(3)), "0/1", "ExitCode:3"),
    (pod(terminated(0, "Completed"), phase="Succeeded"), "0/1", "Completed"),
    (pod(terminated(0, "Completed"), RUNNING, conditions=READY_CONDITION), "1/2", "Running"),
    (pod(terminated(0, "Completed"), RUNNING), "1/2", "NotReady"),
    (pod(RUNNING, deleting=True), "1/1", "Terminating"),
    (pod(terminated(0, "Completed"), phase="Succeeded", deleting=True), "0/1", "Completed"),
    (pod(RUNNING, deleting=True, reason="NodeLost"), "1/1", "Unknown"),
    (pod(phase="Pending", initial=(terminated(0), waiting("PodInitializing"))), "0/1", "Init:1/2"),
    (pod(phase="Pending", initial=(waiting("ErrImagePull"),)), "0/1", "Init:ErrImagePull"),
    (pod(phase="Pending", initial=(terminated(1, "Error"),)), "0/1", "Init:Error"),
    (pod(phase="Pending", initial=(terminated(1),)), "0/1", "Init:ExitCode:1"),
    (pod(phase="Pending", initial=(terminated(1, signal=15),)), "0/1", "Init:Signal:15"),
    (pod(RUNNING, initial=(terminated(0, "Completed"),)), "1/1", "Running"),
    (pod(RUNNING, initial=({"started": True} | RUNNING,), sidecars=("i0",)), "2/2", "Running"),
    (pod(waiting("PodInitializing"), initial=({"started": False} | RUNNING,), sidecars=("i0",)), "0/2", "Init:0/1"),
]


@pytest.mark.parametrize(("body", "ready", "status"), PODS, ids=[status for _, _, status in PODS])
def test_pods_are_shown_as_kubectl_shows_them(body: dict[str, Any], ready: str, status: str) -> None:
    found = shown("Pod", **body)
    assert (found["READY"], found["STATUS"]) == (ready, status)
    assert found["AGE"] == "5s"


def test_restarts_count_all_that_still_runs_and_name_the_last() -> None:
    ended = {"lastState": {"terminated": {"finishedAt": ago(190)}}}
    earlier = {"lastState": {"terminated": {"finishedAt": ago(9000)}}}
    regular = pod(RUNNING | {"restartCount": 2} | earlier, RUNNING | {"restartCount": 1} | ended)
    assert shown("Pod", **regular)["RESTARTS"] == "3 (3m10s ago)"
    assert shown("Pod", **pod(RUNNING | {"restartCount": 2}))["RESTARTS"] == "2"
    done = terminated(0) | {"restartCount": 7}
    assert shown("Pod", **pod(RUNNING, initial=(done,)))["RESTARTS"] == "0"
    sidecar = RUNNING | {"started": True, "restartCount": 4}
    assert shown("Pod", **pod(RUNNING, initial=(sidecar,), sidecars=("i0",)))["RESTARTS"] == "4"
    failing = terminated(1, "Error") | {"restartCount": 5}
    assert shown("Pod", **pod(phase="Pending", initial=(failing,)))["RESTARTS"] == "5"


def test_a_pod_that_nobody_has_seen_yet_is_shown_too() -> None:
    assert shown("Pod", metadata={}) == {"READY": "0/0", "STATUS": "", "RESTARTS": "0", "AGE": "<unknown>"}
