"""The feeder answers as a kube-apiserver does, with events that are known beforehand."""

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.informer import pods
from bench.informer.feeder import PROTOBUF, Feed, Server, json_lines, protobuf_templates, templates

JSON_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
WATCH = "/api/v1/pods?watch=true"


@contextmanager
def asked(server: Server, target: str, accept: str = "application/json") -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", target, headers={"Accept": accept})
        yield connection.getresponse()
    finally:
        connection.close()


@contextmanager
def serving(count: int, changes: int) -> Iterator[Server]:
    server = Server(Feed(count, changes, templates()))
    server.start()
    try:
        yield server
    finally:
        server.close()


def events(answer: http.client.HTTPResponse, count: int) -> list[dict[str, Any]]:
    return [json.loads(answer.readline()) for _ in range(count)]


def versions(read: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    metadata = [event["object"]["metadata"] for event in read]
    return [
        (event["type"], one.get("name", ""), one["resourceVersion"]) for event, one in zip(read, metadata, strict=True)
    ]


def test_a_list_has_every_pod_and_the_version_to_watch_from() -> None:
    with serving(3, 0) as server, asked(server, "/api/v1/pods") as answer:
        listed = json.loads(answer.read())
    assert listed["metadata"]["resourceVersion"] == str(pods.synced_version(3))
    assert [item["metadata"]["name"] for item in listed["items"]] == [pods.name(number) for number in range(3)]
    assert "kind" not in listed["items"][0]


def test_initial_events_end_with_their_bookmark() -> None:
    with serving(2, 0) as server, asked(server, f"{WATCH}&sendInitialEvents=true") as answer:
        read = events(answer, 3)
    first = pods.FIRST_VERSION
    assert versions(read)[:2] == [("ADDED", pods.name(0), f"{first}"), ("ADDED", pods.name(1), f"{first + 1}")]
    assert read[2]["type"] == "BOOKMARK"
    assert read[2]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_the_changes_come_after_go_round_the_pods() -> None:
    with serving(2, 3) as server, asked(server, f"{WATCH}&resourceVersion=1") as answer:
        server.go()
        read = versions(events(answer, 3))
    assert read == [("MODIFIED", pods.name(number % 2), str(pods.changed_version(2, number))) for number in range(3)]


def test_changes_differ_in_their_version_only() -> None:
    feed = Feed(1, 2, templates())
    first, second = feed.changed(feed.content("application/json"))
    before, after = (str(pods.changed_version(1, number)).encode() for number in (0, 1))
    assert first != second
    assert first.replace(before, after) == second


def test_metadata_only_is_what_was_asked_for() -> None:
    with serving(1, 0) as server, asked(server, f"{WATCH}&sendInitialEvents=true", JSON_METADATA) as answer:
        (added,) = events(answer, 1)
    assert added["object"]["kind"] == "PartialObjectMetadata"
    assert "spec" not in added["object"]


def frames() -> bytes:
    """Templates as the Go program gives them back, with the JSON itself for protobuf."""
    lines = json_lines().splitlines()
    return b"".join(struct.pack(">I", len(line)) + line for line in lines)


@pytest.mark.parametrize(
    ("accept", "kind", "protobuf"),
    [
        (PROTOBUF, b'"Pod"', True),
        (f"{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON_METADATA}", b'"PartialObjectMetadata"', True),
        ("application/json", b'"Pod"', False),
        (f"application/json, {PROTOBUF}", b'"Pod"', False),
    ],
)
def test_the_first_media_type_decides(accept: str, kind: bytes, *, protobuf: bool) -> None:
    content = Feed(1, 1, templates(), protobuf_templates(frames())).content(accept)
    assert kind in content.added
    assert content.content_type.startswith(PROTOBUF) is protobuf


def test_without_protobuf_templates_there_is_json() -> None:
    assert Feed(1, 1, templates()).content(PROTOBUF).content_type == "application/json"


def test_frames_of_protobuf_keep_their_length_prefix() -> None:
    whole, partial = protobuf_templates(frames())
    for made in (whole.added, whole.modified, whole.bookmark, partial.added, partial.modified, partial.bookmark):
        assert struct.unpack_from(">I", made)[0] == len(made) - 4


def test_other_paths_are_not_found() -> None:
    with serving(1, 0) as server, asked(server, "/version") as answer:
        assert answer.status == 404
