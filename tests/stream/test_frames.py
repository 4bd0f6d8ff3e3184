import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream import recorded

from unblink.lab.apiserver import protobuf as encoder
from unblink.stream.frames import Decoder, Frame, FrameType, Framing, Lines, Messages, Protobuf, decoder
from unblink.stream.objects import INITIAL_EVENTS_END

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
versions = st.integers(1, 10**9).map(str)

Event = tuple[str, dict[str, Any]]
GOOD: Event = ("ADDED", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "resourceVersion": "1"}})


@st.composite
def events(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from([one.value for one in FrameType]))
    if kind == "ERROR":
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 410, "reason": "Expired"}
        return kind, status | {"message": draw(names)}
    metadata: dict[str, object] = {"resourceVersion": draw(versions)}
    if kind != "BOOKMARK":
        metadata |= {"name": draw(names), "namespace": draw(names), "uid": draw(names)}
    elif draw(st.booleans()):
        metadata["annotations"] = {INITIAL_EVENTS_END: "true", "other": "true"}
    return kind, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"x": draw(names)}}


def encoded(framing: Framing, event: Event) -> bytes:
    """The frame as it is on the wire."""
    kind, content = event
    if framing is Framing.PROTOBUF:
        return encoder.watch_frame(kind, content)
    return json.dumps({"type": kind, "object": content}, ensure_ascii=len(str(content)) % 2 == 0).encode() + b"\n"


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def decode(into: Decoder, chunks: Iterable[bytes]) -> list[Frame]:
    return [frame for chunk in chunks for frame in into.feed(chunk)]


STREAMS = pytest.mark.parametrize("framing", [Framing.LINES, Framing.PROTOBUF])
"""Framings whose bytes may be cut anywhere."""


@pytest.mark.parametrize("framing", Framing)
@given(sent=st.lists(events(), max_size=6), cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_every_split_gives_the_same_frames_and_every_byte_is_accounted_for(
    framing: Framing, sent: list[Event], cuts: list[int]
) -> None:
    wire = [encoded(framing, event) for event in sent]
    stream = b"".join(wire)
    into = decoder(framing)
    frames = decode(into, wire if framing is Framing.MESSAGES else split(stream, cuts))
    into.finish()
    assert (into.error, into.pending_bytes) == (None, 0)
    assert len(frames) == len(sent)
    head = 4 if framing is Framing.PROTOBUF else 0
    for frame, data, (kind, content) in zip(frames, wire, sent, strict=True):
        assert frame.raw == data[head:].removesuffix(b"" if head else b"\n")
        assert stream[frame.position :].startswith(data)
        metadata = content["metadata"]
        assert frame.type == kind
        assert frame.metadata.name == metadata.get("name", "")
        assert frame.metadata.namespace == metadata.get("namespace", "")
        assert frame.metadata.uid == metadata.get("uid", "")
        assert frame.metadata.resource_version == metadata.get("resourceVersion", "")
        assert frame.ends_initial_events == ("annotations" in metadata)
        assert (frame.status is not None) == (kind == "ERROR")
        if frame.status is not None:
            assert (frame.status.code, frame.status.message) == (410, content["message"])
        if framing is not Framing.PROTOBUF:
            assert json.loads(frame.object_json()) == content


@STREAMS
@given(
    sent=st.lists(events(), max_size=4),
    noise=st.binary(min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 5000), max_size=9),
)
def test_corruption_is_an_error_at_its_frame_and_nothing_after_it_is_given(
    framing: Framing, sent: list[Event], noise: bytes, cuts: list[int]
) -> None:
    stream = b"".join(encoded(framing, event) for event in sent)
    bad = noise + b"\n" if framing is Framing.LINES else len(noise).to_bytes(4) + noise
    into = decoder(framing)
    frames = decode(into, split(stream + bad + encoded(framing, GOOD), cuts))
    if framing is Framing.LINES and all(not line or line.isspace() for line in bad.split(b"\n")):
        assert into.error is None
        return
    assert into.error is not None
    assert len(frames) == len(sent)
    assert len(stream) <= into.error.position <= len(stream) + len(bad)
    assert into.feed(encoded(framing, GOOD)) == []


@STREAMS
@given(event=events(), which=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_wrong_byte_is_an_error_or_another_frame_and_never_an_exception(
    framing: Framing, event: Event, which: int, value: int
) -> None:
    wire = bytearray(encoded(framing, event))
    wire[which % len(wire)] = value
    into = decoder(framing)
    frames = into.feed(bytes(wire) + encoded(framing, GOOD))
    into.finish()
    assert into.error is not None or frames
    if into.error is not None:
        assert 0 <= into.error.position <= len(wire) + len(encoded(framing, GOOD))


NO_EVENTS = [
    b'{"type":"ADDED"}',
    b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}',
    b'{"type":"BOOKMARK","object":{"metadata":{}}}',
    b'{"type":"RENAMED","object":{"metadata":{"resourceVersion":"1"}}}',
    b'{"type":"ADDED","object":{"metadata":{"resourceVersion":7}}}',
    b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}} trailing',
    b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1","name":"\xff"}}}',
    b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1","annotations":{"a":"\xff"}}}}',
    b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1","annotations":[]}}}',
    b'{"type":"ERROR","object":{"code":"x"}}',
    b'{"type":"ADDED","object":' + b"[" * 100_000,
    b"null",
    b"[]",
]


@pytest.mark.parametrize("line", NO_EVENTS, ids=lambda line: line[:60].decode("latin-1"))
@pytest.mark.parametrize("framing", [Framing.LINES, Framing.MESSAGES])
def test_what_is_no_watch_event_is_an_error_with_its_place(framing: Framing, line: bytes) -> None:
    good = encoded(framing, GOOD)
    into = decoder(framing)
    assert len(into.feed(good + line + b"\n" + good)) == 1
    assert into.error is not None
    assert len(good) <= into.error.position < len(good) + len(line)
    assert str(into.error).startswith(f"watch frame at byte {into.error.position}: ")


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (encoder.watch_frame("ADDED", GOOD[1] | {"metadata": {}}), "ADDED without metadata.resourceVersion"),
        (encoder.watch_frame("RENAMED", GOOD[1]), "type 'RENAMED'"),
        (encoder.watch_frame("", GOOD[1]), "a watch event has a type and an object"),
        (b"\0\0\0\0", "a watch event has a type and an object"),
        (encoder.watch_frame("ADDED", GOOD[1]).replace(b"k8s\0", b"k9s\0"), "an object begins with k8s"),
    ],
)
def test_what_is_no_protobuf_event_is_an_error_with_its_place(frame: bytes, says: str) -> None:
    good = encoded(Framing.PROTOBUF, GOOD)
    into = Protobuf()
    assert len(into.feed(good + frame + good)) == 1
    assert into.error is not None
    assert says in str(into.error)
    assert len(good) <= into.error.position <= len(good) + len(frame)


@given(st.integers(1, 200), st.integers(0, 300), st.booleans())
def test_a_line_may_be_as_long_as_the_limit_and_no_longer(limit: int, length: int, ended: bool) -> None:
    into = Lines(limit)
    assert into.feed(b" " * length + (b"\n" if ended else b"")) == []
    assert (into.error is not None) == (length > limit)
    assert into.error is None or f"longer than {limit} bytes" in str(into.error)


@pytest.mark.parametrize("chunk_bytes", [1, 999, 1000])
def test_a_line_without_end_holds_no_more_than_the_limit(chunk_bytes: int) -> None:
    into = Lines(10_000)
    for _ in range(11_000 // chunk_bytes + 1):
        into.feed(b"x" * chunk_bytes)
        assert into.pending_bytes <= 10_000 + chunk_bytes
    assert str(into.error) == "watch frame at byte 10000: longer than 10000 bytes"
    assert not into._pending, "what was held is let go"


def test_a_protobuf_frame_that_is_announced_too_long_is_an_error_before_it_comes() -> None:
    good = encoded(Framing.PROTOBUF, GOOD)
    for length in (10_001, 2**31, 2**32 - 1):
        into = Protobuf(10_000)
        assert len(into.feed(good + length.to_bytes(4))) == 1
        assert str(into.error) == f"watch frame at byte {len(good)}: {length} bytes long, where 10000 are allowed"
    into = Protobuf(10_000)
    for _ in range(20):
        into.feed((10_000).to_bytes(4) if not into.pending_bytes else b"x" * 500)
        assert into.pending_bytes <= 10_004
    assert into.error is None


def test_a_message_that_is_too_long_is_an_error() -> None:
    into = Messages(100)
    into.feed(b"x" * 101)
    assert "longer than 100 bytes" in str(into.error)


def test_a_message_needs_no_newline() -> None:
    into = Messages()
    message = encoded(Framing.MESSAGES, GOOD)
    assert [frame.raw for frame in into.feed(message) + into.feed(message[:-1])] == [message[:-1]] * 2


@STREAMS
def test_a_clean_end_inside_a_frame_is_an_error(framing: Framing) -> None:
    good = encoded(framing, GOOD)
    into = decoder(framing)
    into.feed(good + good[:15])
    assert into.error is None
    into.finish()
    assert f"at byte {len(good)}: the stream ended inside this frame, after 15 bytes" in str(into.error)


def test_space_between_lines_is_none_of_their_business() -> None:
    into = Lines()
    good = encoded(Framing.LINES, GOOD)
    assert [frame.position for frame in into.feed(b"\n \r\n" + good + b"\n" + good + b"  ")] == [4, 5 + len(good)]
    into.finish()
    assert into.error is None


WATCHES = {
    "watch-from-rv": ["MODIFIED"],
    "watch-no-rv": ["ADDED"] * 3,
    "watch-rv0": ["ADDED"] * 3,
    "watch-label": ["ADDED"],
    "watch-one": ["ADDED"],
    "watch-bookmarks-short": ["MODIFIED", "BOOKMARK"],
    "watch-list": ["ADDED", "ADDED", "ADDED", "BOOKMARK"],
    "watch-rv-expired": ["ERROR"],
    "watch-rv-future": [],
    "watch-table": ["ADDED"] * 3,
    "watch-protobuf": ["ADDED"] * 3,
    "watch-protobuf-plain-accept": ["ADDED"] * 3,
    "watch-gzip": ["ADDED"] * 3,
    "watch-legacy-path": ["ADDED"] * 3,
    "watch-delete-event": ["MODIFIED", "DELETED"],
}


@pytest.mark.parametrize("name", WATCHES)
def test_recorded_watches_decode(name: str) -> None:
    assert recorded.status(name) == 200
    into = decoder(Framing.PROTOBUF if recorded.is_protobuf(name) else Framing.LINES)
    frames = decode(into, [bytes([byte]) for byte in recorded.body(name)])
    into.finish()
    assert into.error is None
    assert [frame.type.value for frame in frames] == WATCHES[name]
    objects = [frame for frame in frames if frame.type in ("ADDED", "MODIFIED", "DELETED")]
    assert all(frame.metadata.resource_version.isdigit() for frame in objects)
    if name != "watch-table":  # a Table's frame has its name in its row
        assert all(frame.metadata.name and frame.metadata.uid for frame in objects)
    assert [frame.ends_initial_events for frame in frames if frame.type == "BOOKMARK"] == [True] * (
        name == "watch-list"
    ) + [False] * (name == "watch-bookmarks-short")


def test_protobuf_and_json_of_the_same_watch_say_the_same() -> None:
    as_json, as_protobuf = Lines().feed(recorded.body("watch-no-rv")), Protobuf().feed(recorded.body("watch-protobuf"))
    assert [(one.type, one.metadata) for one in as_json] == [(one.type, one.metadata) for one in as_protobuf]


def test_the_recorded_error_says_that_the_version_expired() -> None:
    (frame,) = Lines().feed(recorded.body("watch-rv-expired"))
    assert frame.status is not None
    assert frame.status.expired
    assert frame.status.code == 410
