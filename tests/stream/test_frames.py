import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.frames import Frame, FrameDecoder, FrameError, FrameType
from unblink.stream.objects import INITIAL_EVENTS_END

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
versions = st.integers(1, 10**9).map(str)


@st.composite
def events(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]))
    if kind == "ERROR":
        return {"type": kind, "object": {"kind": "Status", "metadata": {}, "code": 410, "reason": "Expired"}}
    metadata: dict[str, object] = {"resourceVersion": draw(versions)}
    if kind != "BOOKMARK":
        metadata |= {"name": draw(names), "namespace": draw(names), "uid": draw(names)}
    elif draw(st.booleans()):
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    return {"type": kind, "object": {"kind": "ConfigMap", "metadata": metadata, "data": {"x": draw(names)}}}


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def decode(chunks: Iterable[bytes], decoder: FrameDecoder | None = None) -> list[Frame]:
    decoder = decoder or FrameDecoder()
    frames = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    return frames


@given(st.lists(events(), max_size=6), st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_every_split_gives_the_same_frames_and_every_byte_is_accounted_for(
    sent: list[dict[str, object]], cuts: list[int], ascii_only: bool
) -> None:
    lines = [json.dumps(event, ensure_ascii=ascii_only).encode() for event in sent]
    stream = b"".join(line + b"\n" for line in lines)
    decoder = FrameDecoder()
    frames = decode(split(stream, cuts), decoder)
    decoder.finish()
    assert [frame.raw for frame in frames] == lines
    assert [stream[frame.position : frame.position + len(frame.raw)] for frame in frames] == lines
    for frame, event in zip(frames, sent, strict=True):
        content = event["object"]
        assert isinstance(content, dict)
        assert frame.type == event["type"]
        assert frame.metadata.name == content["metadata"].get("name", "")
        assert frame.metadata.resource_version == content["metadata"].get("resourceVersion", "")
        assert frame.ends_initial_events == ("annotations" in content["metadata"])
        assert (frame.status is not None) == (frame.type is FrameType.ERROR)
        assert json.loads(bytes(frame.object_json())) == content


@given(st.lists(events(), max_size=4), st.binary(min_size=1, max_size=40), st.lists(st.integers(0, 5000), max_size=9))
def test_corruption_is_an_error_at_its_byte_or_no_corruption_at_all(
    sent: list[dict[str, object]], noise: bytes, cuts: list[int]
) -> None:
    stream = b"".join(json.dumps(event).encode() + b"\n" for event in sent)
    decoder = FrameDecoder()
    frames: list[Frame] = []
    try:
        for chunk in split(stream + noise + b"\n", cuts):
            decoder.feed(chunk)
            while (frame := decoder.next_frame()) is not None:
                frames.append(frame)
    except FrameError as error:
        assert error.position >= len(stream)
        assert len(frames) == len(sent)
        with pytest.raises(FrameError) as again:
            decoder.next_frame()
        assert again.value is error
    else:
        assert noise.isspace()


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}',
        b'{"type":"RENAMED","object":{"metadata":{"resourceVersion":"1"}}}',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":7}}}',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}} trailing',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1","name":"\xff"}}}',
        b"null",
        b"[]",
    ],
)
def test_what_is_no_watch_event_is_an_error_with_its_place(line: bytes) -> None:
    good = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}\n'
    decoder = FrameDecoder()
    decoder.feed(good + line + b"\n" + good)
    assert decoder.next_frame() is not None
    with pytest.raises(FrameError, match=f"at byte {len(good)}: ") as caught:
        decoder.next_frame()
    assert caught.value.position == len(good)


@given(st.integers(1, 200), st.integers(0, 300), st.booleans())
def test_a_frame_may_be_as_long_as_the_limit_and_no_longer(limit: int, length: int, ended: bool) -> None:
    decoder = FrameDecoder(max_frame_bytes=limit)
    decoder.feed(b" " * length + (b"\n" if ended else b""))
    if length > limit:
        with pytest.raises(FrameError, match=f"longer than {limit} bytes"):
            decoder.next_frame()
    else:
        assert decoder.next_frame() is None


def test_a_frame_without_end_holds_no_more_than_limit_and_one_chunk() -> None:
    decoder = FrameDecoder(max_frame_bytes=10_000)
    with pytest.raises(FrameError, match="at byte 0: longer than 10000 bytes"):
        for _ in range(1000):
            decoder.feed(b"x" * 1000)
            assert decoder.pending_bytes <= 11_000
            decoder.next_frame()


def test_a_clean_end_inside_a_frame_is_an_error() -> None:
    decoder = FrameDecoder()
    decoder.feed(b'{"type":"ADDED"')
    assert decoder.next_frame() is None
    with pytest.raises(FrameError, match="at byte 0: the stream ended inside this frame, after 15 bytes"):
        decoder.finish()
