from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.protobuf import MAGIC, ProtobufError, decode, encode, encodes, varint, watch_frame

TEXT = st.text(min_size=1, max_size=5)
METADATA = st.fixed_dictionaries(
    {"name": TEXT},
    optional={
        "namespace": TEXT,
        "uid": TEXT,
        "resourceVersion": TEXT,
        "generation": st.integers(1, 2**62),
        "creationTimestamp": st.just("2026-11-22T22:48:57Z"),
        "labels": st.dictionaries(TEXT, st.text(max_size=3), min_size=1, max_size=3),
        "finalizers": st.lists(TEXT, min_size=1, max_size=3),
        "ownerReferences": st.just([{"kind": "A", "name": "b", "uid": "c", "controller": False}]),
        "managedFields": st.just(
            [{"manager": "m", "time": "2026-11-22T22:48:57Z", "fieldsV1": {"f:data": {".": {}, "f:a": {}}}}]
        ),
    },
)
OBJECTS = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("ConfigMap"), "apiVersion": st.just("v1"), "metadata": METADATA},
        optional={
            "data": st.dictionaries(TEXT, TEXT, min_size=1, max_size=3),
            "binaryData": st.dictionaries(TEXT, st.just("aGVsbG8="), min_size=1, max_size=2),
            "immutable": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("Lease"),
            "apiVersion": st.just("coordination.k8s.io/v1"),
            "metadata": METADATA,
            "spec": st.fixed_dictionaries(
                {"holderIdentity": TEXT},
                optional={
                    "leaseDurationSeconds": st.integers(-5, 2**31),
                    "renewTime": st.just("2026-11-22T22:48:57.123456Z"),
                },
            ),
        }
    ),
)


@given(OBJECTS)
def test_what_is_encoded_is_decoded(thing: dict[str, Any]) -> None:
    assert decode(encode(thing)) == thing


def test_an_empty_metadata_field_is_written_as_gogo_writes_it() -> None:
    raw = encode({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}})
    metadata = bytes.fromhex("0a00 1200 1a00 2200 2a00 3200 3800 4200")
    assert raw.startswith(MAGIC)
    assert metadata in raw


def test_known_and_unknown_types() -> None:
    assert encodes("v1", "ConfigMap")
    assert not encodes("v1", "Pod")
    envelope = MAGIC + bytes.fromhex("0a09") + b"\x0a\x02v1\x12\x03Pod"
    assert decode(envelope) is None


def test_a_watch_frame_has_its_length_before_it() -> None:
    frame = watch_frame("ADDED", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x"}})
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert frame[4:].startswith(b"\x0a\x05ADDED\x12")


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    config_map = bytes.fromhex("0a0f0a027631") + b"\x12\x09ConfigMap"
    for raw in (body, MAGIC + body, MAGIC + config_map + b"\x12" + varint(len(body)) + body):
        try:
            decode(raw)
        except ProtobufError:
            continue


@pytest.mark.parametrize("body", [b"{}", b"", b"k8s", MAGIC + b"\x0a\x05x", MAGIC + b"\x0b", MAGIC + b"\xff" * 12])
def test_what_is_refused(body: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode(body)
