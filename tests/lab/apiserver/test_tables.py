from datetime import UTC, datetime, timedelta

import pytest

from unblink.lab.apiserver.config import CustomResource
from unblink.lab.apiserver.resources import Resource, Resources
from unblink.lab.apiserver.tables import age, columns, partial, table

RESOURCES = Resources([CustomResource(group="lab.dev", version="v1", plural="widgets", kind="Widget")])


def resource(plural: str) -> Resource:
    return next(r for r in RESOURCES.all if r.plural == plural)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_000, "3h3m"),
        (8 * 3600, "8h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86_400, "8d"),
        (800 * 86_400, "2y70d"),
        (3_000 * 86_400, "8y"),
        (-1, "0s"),
        (-5, "<invalid>"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).isoformat(), now) == text


def test_no_age() -> None:
    assert age("") == "<unknown>"


POD = {
    "metadata": {"name": "p", "creationTimestamp": ""},
    "spec": {"containers": [{}, {}]},
    "status": {"phase": "Running", "containerStatuses": [{"ready": True, "restartCount": 3}, {"ready": False}]},
}


def test_cells() -> None:
    assert table(resource("pods"), [POD], {})["rows"][0]["cells"] == ["p", "1/2", "Running", "3", "<unknown>"]
    event = {
        "metadata": {"name": "e"},
        "type": "Normal",
        "reason": "Made",
        "message": "hello",
        "involvedObject": {"kind": "Pod", "name": "p"},
    }
    assert table(resource("events"), [event], {})["rows"][0]["cells"] == [
        "<unknown>",
        "Normal",
        "Made",
        "pod/p",
        "hello",
    ]


@pytest.mark.parametrize("served", RESOURCES.all, ids=lambda r: r.plural)
def test_every_resource_has_columns_for_an_object_with_nothing_in_it(served: Resource) -> None:
    made = table(served, [{"metadata": {"name": "x"}}], {})
    assert len(made["rows"][0]["cells"]) == len(made["columnDefinitions"]) == len(columns(served))


def test_what_is_included() -> None:
    def included(include: str) -> object:
        return table(resource("pods"), [POD], {}, include=include)["rows"][0]["object"]

    assert included("None") is None
    assert included("Metadata") == partial(POD)
    assert included("Object") == POD


def test_later_events_of_a_watch_carry_no_definitions() -> None:
    assert table(resource("pods"), [POD], {}, definitions=False)["columnDefinitions"] is None
