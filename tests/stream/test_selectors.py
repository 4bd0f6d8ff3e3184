import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.stream.selectors import SelectorError, parse_labels


def selects(text: str, labels: dict[str, str]) -> bool:
    return all(requirement.holds(labels) for requirement in parse_labels(text))


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a=b", {}, False),
        ("a=", {"a": ""}, True),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": "x"}, True),
        ("!a", {"a": "x"}, False),
        ("!a", {}, True),
        ("a in (b,c)", {"a": "c"}, True),
        ("a in (b, c),d", {"a": "c"}, False),
        ("a notin (b,c)", {}, True),
        ("a in ()", {"a": ""}, True),
        ("a in (b,)", {"a": ""}, True),
        ("a>5", {"a": "6"}, True),
        ("a<5", {"a": "6"}, False),
        ("a>5", {"a": "x"}, False),
        ("example.com/a = b , c", {"example.com/a": "b", "c": ""}, True),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], selected: bool) -> None:
    assert selects(text, labels) is selected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a,", "expected: identifier after ','"),
        ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", r"expected: '\('"),
        ("a in (b", r"expected: ',' or '\)'"),
        ("a>x", "must be an integer"),
        ("=b", "expected: identifier"),
    ],
)
def test_bad_label_selectors(text: str, says: str) -> None:
    with pytest.raises(SelectorError, match=says):
        parse_labels(text)


@given(st.text(alphabet="ab=!(),<> in", max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(SelectorError):
        parse_labels(text)


@given(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
    st.sampled_from("abc"),
    st.sets(st.sampled_from("xyz")),
)
def test_notin_is_not_in(labels: dict[str, str], key: str, values: set[str]) -> None:
    listed = f"({','.join(sorted(values))})"
    assert selects(f"{key} in {listed}", labels) is not selects(f"{key} notin {listed}", labels)
