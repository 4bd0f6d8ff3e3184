from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.bookmarks import Bookmarks


def test_nothing_is_assumed() -> None:
    assert Bookmarks() == Bookmarks(longest_gap_ms=None, missed=0, never=False)


@given(st.lists(st.one_of(st.none(), st.integers(0, 100_000))))
def test_the_longest_gap_is_kept(gaps: list[int | None]) -> None:
    bookmarks = Bookmarks()
    for gap_ms in gaps:
        bookmarks.came(gap_ms, quiet=False)
    assert bookmarks.longest_gap_ms == max((gap_ms for gap_ms in gaps if gap_ms is not None), default=None)


def test_only_a_bookmark_on_a_quiet_watch_says_that_they_come() -> None:
    bookmarks = Bookmarks(never=True, missed=1)
    bookmarks.came(None, quiet=False)
    assert bookmarks == Bookmarks(never=True, missed=1)
    bookmarks.came(None, quiet=True)
    assert bookmarks == Bookmarks(never=False, missed=1)
