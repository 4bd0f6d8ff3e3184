import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.patches import PatchError, json_patch, merge, strategic_merge

# RFC 7396, appendix A
CASES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), CASES)
def test_merge_as_in_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON)
def test_merge_is_idempotent_and_changes_neither_argument(target: Any, patch: Any) -> None:
    before = json.dumps([target, patch])
    once = merge(target, patch)
    assert merge(once, patch) == once
    assert json.dumps([target, patch]) == before


def test_json_patch() -> None:
    target = {"a": {"b": [1, 2]}}
    assert json_patch(target, [{"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/a/b/0"}]) == {
        "a": {"b": [2, 3]}
    }
    assert target == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize(
    "operations", [[{"op": "remove", "path": "/x"}], [{"op": "test", "path": "/a", "value": 2}], [{"op": "?"}], 5, "x"]
)
def test_json_patch_that_does_not_fit(operations: Any) -> None:
    with pytest.raises(PatchError):
        json_patch({"a": 1}, operations)


def test_strategic_merge_of_lists_with_a_merge_key() -> None:
    pod = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "args": [1, 2]}
    patch = {
        "containers": [{"name": "b", "image": "2"}, {"name": "c"}, {"name": "a", "$patch": "delete"}],
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}],
        "args": [3],
    }
    assert strategic_merge(pod, patch) == {"containers": [{"name": "c"}, {"name": "b", "image": "2"}], "args": [3]}


def test_strategic_merge_directives() -> None:
    assert strategic_merge({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}
    assert strategic_merge({"a": 1, "b": 2}, {"$retainKeys": ["b"], "b": 3}) == {"b": 3}
    assert strategic_merge({"finalizers": ["x", "y"]}, {"$deleteFromPrimitiveList/finalizers": ["x"]}) == {
        "finalizers": ["y"]
    }
    assert strategic_merge({"finalizers": ["x"]}, {"finalizers": ["y", "x"]}) == {"finalizers": ["x", "y"]}
    assert strategic_merge({"env": [{"name": "a"}]}, {"env": [{"$patch": "replace"}, {"name": "b"}]}) == {
        "env": [{"name": "b"}]
    }


def test_strategic_merge_without_a_merge_key() -> None:
    with pytest.raises(PatchError, match="merge key: name"):
        strategic_merge({"containers": []}, {"containers": [{"image": "x"}]})


@given(JSON, JSON)
def test_strategic_merge_is_a_merge_where_nothing_is_special(target: Any, patch: Any) -> None:
    assert strategic_merge(target, patch) == merge(target, patch)
