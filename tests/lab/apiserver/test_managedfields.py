from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.managedfields import after_update, apply, from_fields_v1, leaves, to_fields_v1
from unblink.lab.apiserver.statuses import ApiError

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"


def configmap(data: dict[str, Any], entries: list[Any] | None = None, **metadata: Any) -> dict[str, Any]:
    thing: dict[str, Any] = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", **metadata}}
    if entries is not None:
        thing["metadata"]["managedFields"] = entries
    return thing | {"data": data}


def fields(entries: list[Any]) -> dict[str, Any]:
    return {f"{entry['manager']}/{entry['operation']}": entry["fieldsV1"] for entry in entries}


def test_what_a_creation_owns() -> None:
    made = after_update(None, configmap({"a": "1"}, labels={"x": "y"}, generateName="c-"), "m", T1)
    assert made == [
        {
            "manager": "m",
            "operation": "Update",
            "apiVersion": "v1",
            "time": T1,
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {".": {}, "f:a": {}},
                "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:x": {}}},
            },
        }
    ]


def test_who_changes_a_field_takes_it_and_who_removes_it_frees_it() -> None:
    old = configmap({"a": "1", "b": "1", "c": "1"})
    old["metadata"]["managedFields"] = after_update(None, old, "one", T1)
    entries = after_update(old, configmap({"a": "2", "b": "1"}), "two", T2)
    assert fields(entries) == {
        "one/Update": {"f:data": {".": {}, "f:b": {}}},
        "two/Update": {"f:data": {"f:a": {}}},
    }
    assert [entry["time"] for entry in entries] == [T1, T2]


def test_no_change_leaves_all_as_it_is() -> None:
    old = configmap({"a": "1"})
    old["metadata"]["managedFields"] = entries = after_update(None, old, "one", T1)
    assert after_update(old, old, "two", T2) == entries


def test_a_status_has_an_entry_of_its_own() -> None:
    old = {"apiVersion": "v1", "metadata": {}, "status": {"a": 1}}
    old["metadata"] = {"managedFields": after_update(None, old, "m", T1)}
    entries = after_update(old, {**old, "status": {"a": 2}}, "m", T2, "status")
    assert [entry.get("subresource") for entry in entries] == ["status"]


def test_apply_removes_what_is_no_longer_wanted_unless_another_holds_it() -> None:
    live = apply(None, configmap({"a": "1", "b": "1"}), "one", T1, force=False)
    live = apply(live, configmap({"b": "1"}), "two", T1, force=False)
    live = apply(live, configmap({"c": "1"}), "one", T2, force=False)
    assert live["data"] == {"b": "1", "c": "1"}


def test_apply_of_nothing_empties_the_containers() -> None:
    live = apply(None, configmap({"a": "1"}), "one", T1, force=False)
    nothing = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}}
    assert "data" not in apply(live, nothing, "one", T2, force=False)


def test_apply_conflicts_with_another_manager_unless_forced() -> None:
    live = configmap({"a": "1"})
    live["metadata"]["managedFields"] = after_update(None, live, "one", T1)
    with pytest.raises(ApiError, match=r'conflict with "one" using v1: \.data\.a'):
        apply(live, configmap({"a": "2"}), "two", T2, force=False)
    forced = apply(live, configmap({"a": "2"}), "two", T2, force=True)
    assert forced["data"] == {"a": "2"}
    assert fields(forced["metadata"]["managedFields"]) == {
        "one/Update": {"f:data": {".": {}}},
        "two/Apply": {"f:data": {".": {}, "f:a": {}}},
    }


def test_the_same_value_is_shared() -> None:
    live = configmap({"a": "1"})
    live["metadata"]["managedFields"] = after_update(None, live, "one", T1)
    shared = apply(live, configmap({"a": "1"}), "two", T2, force=False)
    assert {"one/Update", "two/Apply"} == set(fields(shared["metadata"]["managedFields"]))


OBJECTS = st.dictionaries(
    st.sampled_from(["spec", "data", "status"]),
    st.recursive(
        st.integers() | st.lists(st.integers(), max_size=2),
        lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
        max_leaves=6,
    ),
)


@given(OBJECTS)
def test_fields_v1_holds_the_same_paths(thing: dict[str, Any]) -> None:
    paths = set(leaves(thing))
    assert from_fields_v1(to_fields_v1(paths)) == paths


@given(OBJECTS, OBJECTS)
def test_applying_twice_is_applying_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    head: dict[str, Any] = {"kind": "X", "apiVersion": "v1", "metadata": {"name": "x"}}
    live = apply(None, {**head, **first}, "one", T1, force=True)
    once = apply(live, {**head, **second}, "two", T1, force=True)
    assert apply(once, {**head, **second}, "two", T1, force=True) == once


@given(OBJECTS, OBJECTS)
def test_alone_on_an_object_a_manager_gets_what_it_applies(first: dict[str, Any], second: dict[str, Any]) -> None:
    head: dict[str, Any] = {"kind": "X", "apiVersion": "v1", "metadata": {"name": "x"}}
    live = apply(None, {**head, **first}, "one", T1, force=False)
    wanted = {**head, **second}
    assert set(leaves(apply(live, wanted, "one", T1, force=False))) >= set(leaves(wanted))
