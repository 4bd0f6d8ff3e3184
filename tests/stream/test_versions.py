import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.frames import Frame, FrameType
from unblink.stream.objects import Metadata
from unblink.stream.versions import Progress, number, reached


def frame(version: int | str, uid: str = "u", kind: FrameType = FrameType.MODIFIED) -> Frame:
    return Frame(kind, Metadata("a", "n", uid, str(version)), b"", 0)


def versions(frames: list[Frame]) -> list[str]:
    return [one.metadata.resource_version for one in frames]


@pytest.mark.parametrize(
    ("version", "value"),
    [
        ("0", 0),
        ("17", 17),
        ("18446744073709551615", 2**64 - 1),
        ("", None),
        ("-1", None),
        ("1_0", None),
        ("1.5", None),
        ("abc", None),
        ("\u0663", None),
        ("9" * 5000, None),
    ],
)
def test_what_counts_as_a_number(version: str, value: int | None) -> None:
    assert number(version) == value


@pytest.mark.parametrize(
    ("held", "wanted", "there"),
    [
        ("10", "10", True),
        ("10", "9", True),
        ("9", "10", False),
        ("x", "x", True),
        ("y", "x", False),
        ("10", "x", False),
        ("", "1", False),
    ],
)
def test_what_is_reached(held: str, wanted: str, there: bool) -> None:
    assert reached(held, wanted) is there


@given(st.integers(0, 50), st.lists(st.lists(st.integers(0, 100), max_size=10), max_size=6))
def test_integer_versions_never_go_back_and_come_once(start: int, chunks: list[list[int]]) -> None:
    progress = Progress(str(start))
    held, given_out = start, 0
    for chunk in chunks:
        for version in map(int, versions(progress.news([frame(one) for one in chunk]))):
            assert version > held
            held, given_out = version, given_out + 1
        assert progress.version == str(held)
    assert progress.duplicates == sum(map(len, chunks)) - given_out


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.lists(st.booleans(), min_size=80, max_size=80))
def test_overlapping_streams_of_opaque_versions_bring_every_event_once(
    before: int, first: int, second: int, turns: list[bool]
) -> None:
    """Both streams bring the same events in order, each from the version held when it was asked for."""
    names = [f"v-{one}" for one in range(before + max(first, second))]
    frames = [frame(name, uid=f"u{at % 3}") for at, name in enumerate(names)]
    progress = Progress("start")
    assert versions(progress.news(frames[:before])) == names[:before]
    progress.overlap(expected=True)
    old, new = before, before
    seen: list[str] = []
    while old < before + first or new < before + second:
        take_old = new >= before + second or (old < before + first and turns[old + new - 2 * before])
        if take_old:
            seen += versions(progress.news([frames[old]]))
            old += 1
        else:
            seen += versions(progress.news([frames[new]]))
            new += 1
    assert seen == names[before : before + max(first, second)]


def test_without_an_overlap_only_the_version_held_is_a_duplicate() -> None:
    progress = Progress("a")
    assert versions(progress.news([frame("a"), frame("b"), frame("b"), frame("a")])) == ["b", "a"]
    assert progress.duplicates == 2


def test_opaque_versions_are_told_apart_by_uid() -> None:
    """One write may give two objects one version only on a server that counts per object."""
    progress = Progress("a")
    progress.overlap(expected=True)
    assert len(progress.news([frame("b", "u1"), frame("c", "u2"), frame("b", "u2"), frame("b", "u1")])) == 3


def test_what_is_remembered_ends_with_the_overlap_and_with_a_list() -> None:
    progress = Progress("a")
    progress.overlap(expected=True)
    progress.news([frame("b"), frame("c")])
    progress.overlap(expected=True)
    assert progress.news([frame("b")]) == [], "said twice, it is still the same overlap"
    progress.move("l")
    assert versions(progress.news([frame("b"), frame("c")])) == ["b", "c"]
    progress.overlap(expected=False)
    assert versions(progress.news([frame("b")])) == ["b"]


def test_a_list_may_move_it_back() -> None:
    progress = Progress("50")
    progress.move("40")
    assert progress.version == "40"
    assert versions(progress.news([frame(40), frame(41)])) == ["41"]


def test_bookmarks_move_it_like_events() -> None:
    progress = Progress("5")
    assert len(progress.news([frame(9, "", FrameType.BOOKMARK), frame(9, "", FrameType.BOOKMARK)])) == 1
    assert progress.version == "9"


def test_a_version_that_is_no_number_amid_numbers_is_news_once() -> None:
    progress = Progress("5")
    assert versions(progress.news([frame(6), frame("x"), frame("x"), frame(8), frame(7)])) == ["6", "x", "8"]
    assert progress.version == "8"
