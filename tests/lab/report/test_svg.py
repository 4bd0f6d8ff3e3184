import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.report import made_run

from unblink.lab.report.figure import Figure, Lane, Mark, Sample, Strip, figure
from unblink.lab.report.svg import axis_ticks, draw, shape

times = st.floats(0, 1000, allow_nan=False)
marks = st.builds(
    Mark,
    times,
    st.sampled_from(["fault-on", "watch", "relist", "ended", "first", "detector", "unheard-of"]),
    st.text(max_size=40),
    st.text(max_size=20),
)
lanes = st.builds(
    Lane,
    name=st.text(max_size=12),
    ticks=st.lists(times, max_size=10),
    marks=st.lists(marks, max_size=8),
    blind=st.none() | st.tuples(times, times).map(lambda pair: (min(pair), max(pair))),
    blind_label=st.just("blind"),
    bound_at=st.none() | times,
    bound_label=st.just("bound"),
)
samples = st.builds(Sample, times, st.sampled_from(["no timer", "keepalive", "persist", "else"]), st.integers(0, 9))
strips = st.builds(
    Strip,
    name=st.text(max_size=10),
    note=st.text(max_size=10),
    samples=st.lists(samples, min_size=1, max_size=8).map(lambda found: sorted(found, key=lambda sample: sample.t)),
    gone_at=st.none() | times,
)


@st.composite
def any_figure(pick: st.DrawFn) -> Figure:
    start, end = sorted((pick(times), pick(times)))
    return Figure(
        start=start,
        end=end,
        cell_end=end,
        fault_on=pick(st.none() | times),
        fault_off=pick(st.none() | times),
        proof="",
        lanes=pick(st.lists(lanes, max_size=3)),
        strips=pick(st.lists(strips, max_size=2)),
        left_out=0,
        story=pick(st.lists(st.tuples(times, st.text(max_size=5), st.text(max_size=5)), max_size=3)),
        untold=0,
    )


CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]  # noqa: S314 - our own


@settings(max_examples=40)
@given(any_figure())
def test_any_figure_is_drawn_as_well_formed_xml_inside_its_frame(drawn: Figure) -> None:
    svg = CONTROL.sub("", draw(drawn, "cell", "A <title> & more"))
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    assert root.findtext("title") == "A <title> & more"
    width, height = list(map(float, root.attrib["viewBox"].split()))[2:]
    for box in root.iter("rect"):
        left, top = float(box.get("x", 0)), float(box.get("y", 0))
        assert left >= 0
        assert float(box.attrib["width"]) >= 0
        assert left + float(box.attrib["width"]) <= width
        assert top + float(box.attrib["height"]) <= height


@settings(max_examples=40)
@given(any_figure())
def test_labels_of_a_lane_do_not_lie_on_each_other(drawn: Figure) -> None:
    root = ElementTree.fromstring(CONTROL.sub("", draw(drawn, "cell", "")))  # noqa: S314 - our own
    rows: dict[str, list[tuple[float, float]]] = {}
    for label in root.iter("text"):
        if label.attrib["class"].startswith(("label", "bound-label")):
            half = len(label.text or "") * 6.3 / 2
            rows.setdefault(label.attrib["y"], []).append(
                (float(label.attrib["x"]) - half, float(label.attrib["x"]) + half)
            )
    for spans in rows.values():
        spans.sort()
        assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_what_matters_is_labelled(tmp_path: Path) -> None:
    result = made_run.make(tmp_path)
    rows = [row for row in result["cells"] if row["evidence"] == "c-tcp-keepalive"]
    drawn = figure(rows, tmp_path / "c-tcp-keepalive")
    assert drawn
    found = texts(draw(drawn, "cell", "Timeline"))
    for label in (
        "fault on",
        "proof that it hit",
        "last event",
        "detector: tcp_keepalive",
        "ended: stream-reset",
        "first event after",
        "blind 4.6 s",
        "bound 5.8 s",
        "keepalive",
        "3 unacked",
        "gone",
    ):
        assert label in found, label


def test_thousands_of_events_make_a_small_picture() -> None:
    writer = Lane("writer", ticks=[number / 100 for number in range(50_000)])
    relists = Lane("client", marks=[Mark(number / 10, "relist", "relist", "") for number in range(5_000)])
    socket = Strip("a", "b", [Sample(number / 50, "off", number % 3) for number in range(25_000)], None)
    drawn = Figure(0, 500, 500, None, None, "", [writer, relists], [socket], 0, [], 0)
    assert len(draw(drawn, "cell", "")) < 100_000


def test_a_bound_beyond_the_picture_is_told() -> None:
    drawn = Figure(0, 10, 10, 1, None, "", [Lane("client", bound_at=50, bound_label="bound 49.0 s")], [], 0, [], 0)
    assert "bound 49.0 s, after the end →" in texts(draw(drawn, "cell", ""))


@given(times, st.floats(0.01, 10_000))
def test_ticks_are_few_and_in_the_picture(start: float, span: float) -> None:
    ticks = axis_ticks(start, start + span)
    assert len(ticks) <= 13
    assert all(start - 1e-5 <= tick <= start + span + 1e-5 for tick in ticks)


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), (3.5, 60, list(range(5, 61, 5)))]
)
def test_ticks_are_round(start: float, end: float, expected: list[float]) -> None:
    assert axis_ticks(start, end) == expected


def test_each_shape_is_its_own() -> None:
    kinds = ["fault-on", "fault-off", "proof", "watch", "list", "ended", "last", "first", "detector", "echo"]
    assert len({re.sub('class="mark [a-z-]*"', "", shape(kind)) for kind in kinds}) == len(kinds)
