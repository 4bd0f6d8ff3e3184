from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream import recorded

from unblink.lab.apiserver import protobuf as encoder
from unblink.stream.objects import INITIAL_EVENTS_END, Metadata
from unblink.stream.protobuf import ProtobufError, fields, metadata, page, status, text, unknown, watch_event

words = st.text(st.characters(codec="utf-8"), max_size=8)


def config_map(
    name: str = "a", namespace: str = "n", uid: str = "u", version: str = "7", **more: Any
) -> dict[str, Any]:
    head = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version} | more
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": {"k": "v" * 300}}


def config_maps(items: list[dict[str, Any]], version: str = "9", token: str = "") -> bytes:
    head = {"resourceVersion": version, "continue": token}
    return encoder.encode({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": head, "items": items})


def event(kind: str, thing: dict[str, Any]) -> bytes:
    """A WatchEvent without its length."""
    return encoder.watch_frame(kind, thing)[4:]


@given(words, words, words, words, st.dictionaries(words, words, max_size=4))
def test_metadata_is_what_was_encoded(
    name: str, namespace: str, uid: str, version: str, annotations: dict[str, str]
) -> None:
    thing = config_map(name, namespace, uid, version, annotations=annotations, labels={"a": "b"}, generation=2**40)
    data = event("MODIFIED", thing)
    kind, span = watch_event(data)
    assert kind == "MODIFIED"
    ends = annotations.get(INITIAL_EVENTS_END) == "true"
    assert metadata(data, span) == (Metadata(name, namespace, uid, version), ends)


@pytest.mark.parametrize(
    ("annotations", "ends"),
    [
        ({INITIAL_EVENTS_END: "true"}, True),
        ({"a": "b", INITIAL_EVENTS_END: "true", "z": "true"}, True),
        ({INITIAL_EVENTS_END: "false"}, False),
        ({"other": "true"}, False),
        ({}, False),
    ],
)
def test_the_annotation_that_ends_the_initial_events(annotations: dict[str, str], ends: bool) -> None:
    data = event("BOOKMARK", config_map(annotations=annotations))
    assert metadata(data, watch_event(data)[1])[1] is ends


def test_a_status_with_its_causes_and_its_pause() -> None:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "m"}], "retryAfterSeconds": 3}
    thing = {"apiVersion": "v1", "kind": "Status", "code": 504, "reason": "Timeout", "message": "m", "details": details}
    data = event("ERROR", thing)
    found = status(data, watch_event(data)[1])
    assert (found.code, found.reason, found.message) == (504, "Timeout", "m")
    assert found.too_large
    assert found.retry_after_s == 3.0


def test_a_status_without_details() -> None:
    data = event("ERROR", {"apiVersion": "v1", "kind": "Status", "code": 410, "reason": "Expired"})
    found = status(data, watch_event(data)[1])
    assert found.expired
    assert found.details is None
    assert found.retry_after_s is None


@given(st.lists(st.tuples(words, words), max_size=5), words)
def test_a_page_gives_version_token_and_items_with_their_bytes(named: list[tuple[str, str]], token: str) -> None:
    items = [config_map(name, uid=uid) for name, uid in named]
    found = page(config_maps(items, token=token))
    assert (found.resource_version, found.continue_token) == ("9", token)
    assert [(one.metadata.name, one.metadata.uid) for one in found.items] == named
    for one, item in zip(found.items, items, strict=True):
        body = encoder.encode(item)
        at, end = unknown(body, (0, len(body)))
        assert one.raw == body[at:end]


def test_a_page_without_version_is_refused() -> None:
    with pytest.raises(ProtobufError, match=r"no metadata\.resourceVersion"):
        page(config_maps([], version=""))


def test_recorded_events_name_their_objects() -> None:
    body = recorded.body("watch-protobuf")
    length = int.from_bytes(body[:4])
    data = body[4 : 4 + length]
    kind, span = watch_event(data)
    found, ends = metadata(data, span)
    assert (kind, found.namespace, ends) == ("ADDED", "default", False)
    assert found.name.startswith("gen-")


@pytest.mark.parametrize(
    ("data", "position", "reason"),
    [
        (b"\x80" * 11, 0, "a varint without end"),
        (b"\x08", 1, "a varint without end"),
        (b"\x00\x01", 0, "field number 0"),
        (b"\x08\x01\x0b", 2, "wire type 3"),
        (b"\x0a\x05abc", 2, "field 1 reaches 2 bytes beyond its message"),
        (b"\x09\x00", 0, "field 1 reaches 7 bytes beyond its message"),
        (b"\x0d\x00", 0, "field 1 reaches 3 bytes beyond its message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "beyond its message"),
    ],
)
def test_bytes_that_are_no_message_say_where(data: bytes, position: int, reason: str) -> None:
    with pytest.raises(ProtobufError, match=reason) as caught:
        list(fields(data, 0, len(data)))
    assert caught.value.position == position
    assert str(caught.value).endswith(f"(byte {position})")


def test_every_wire_type_is_walked_over() -> None:
    data = b"\x08\x96\x01\x11" + bytes(8) + b"\x1a\x03abc\x25" + bytes(4) + b"\xa2\x06\x00"
    assert [(number, value) for number, value, _ in fields(data, 0, len(data))] == [
        (1, 150),
        (2, 0),
        (3, 0),
        (4, 0),
        (100, 0),
    ]


def test_text_that_is_not_utf_8_says_where() -> None:
    with pytest.raises(ProtobufError, match="not UTF-8") as caught:
        text(b"..a\xff", (2, 4))
    assert caught.value.position == 3


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (watch_event, page, lambda one: metadata(one, (0, len(one))), lambda one: status(one, (0, len(one)))):
        try:
            read(data)
        except ProtobufError as error:
            assert 0 <= error.position <= len(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_wrong_byte_is_another_message_or_an_error_inside_it(which: int, value: int) -> None:
    data = bytearray(event("ADDED", config_map()))
    data[which % len(data)] = value
    try:
        metadata(bytes(data), watch_event(bytes(data))[1])
    except ProtobufError as error:
        assert 0 <= error.position <= len(data)
