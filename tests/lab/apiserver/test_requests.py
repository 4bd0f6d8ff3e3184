import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.requests import (
    Info,
    check_list_options,
    flag,
    info_of,
    integer,
    query_of,
    revision,
    selection,
    takes_method,
)
from unblink.lab.apiserver.statuses import ApiError


@pytest.mark.parametrize(
    ("method", "path", "query", "info"),
    [
        ("GET", "/api/v1/namespaces/n/pods", "", Info("list", "", "v1", "n", "pods", "", "")),
        ("GET", "/api/v1/pods", "watch=true", Info("watch", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/pods", "watch=0", Info("list", "", "v1", "", "pods", "", "")),
        ("GET", "/api/v1/watch/namespaces/n/pods/p", "", Info("watch", "", "v1", "n", "pods", "p", "")),
        ("GET", "/api/v1/namespaces/n/pods/p", "watch=1", Info("get", "", "v1", "n", "pods", "p", "")),
        ("POST", "/api/v1/namespaces/n/pods/p/exec", "", Info("create", "", "v1", "n", "pods", "p", "exec")),
        ("GET", "/api/v1/namespaces", "", Info("list", "", "v1", "", "namespaces", "", "")),
        ("DELETE", "/api/v1/namespaces/n", "", Info("delete", "", "v1", "", "namespaces", "n", "")),
        ("PUT", "/api/v1/namespaces/n/status", "", Info("update", "", "v1", "", "namespaces", "n", "status")),
        ("PATCH", "/apis/g/v1/namespaces/n/ws/w", "", Info("patch", "g", "v1", "n", "ws", "w", "")),
        ("DELETE", "/apis/g/v1/namespaces/n/ws", "", Info("deletecollection", "g", "v1", "n", "ws", "", "")),
        ("GET", "/api/v1/watch", "", Info("list", "", "v1", "", "watch", "", "")),
        ("GET", "/api/v1", "", None),
        ("GET", "/apis/g/v1", "", None),
        ("GET", "/livez", "", None),
        ("GET", "/", "", None),
    ],
)
def test_paths(method: str, path: str, query: str, info: Info | None) -> None:
    assert info_of(method, path, query_of(query.encode())) == info


@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "X"]),
    st.text(max_size=30),
    st.binary(max_size=20),
)
def test_any_path_is_taken_apart(method: str, path: str, query: bytes) -> None:
    info_of(method, "/api/v1/" + path, query_of(query))
    info_of(method, "/apis/" + path, query_of(query))


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("PATCH", "/api/v1/namespaces/n/pods", False),
        ("PUT", "/api/v1/namespaces/n/pods", False),
        ("POST", "/api/v1/namespaces/n/pods/p", False),
        ("POST", "/api/v1/namespaces/n/pods/p/exec", True),
        ("POST", "/api/v1/namespaces/n/pods", True),
        ("DELETE", "/api/v1/namespaces/n/pods", True),
    ],
)
def test_methods(method: str, path: str, takes: bool) -> None:
    info = info_of(method, path, {})
    assert info is not None
    assert takes_method(info) is takes


def test_query_values() -> None:
    query = query_of(b"watch&limit=5&empty=&watch=0&b=False")
    assert flag(query, "watch")
    assert not flag(query, "b")
    assert not flag(query, "absent")
    assert integer(query, "limit") == 5
    assert integer(query, "empty") == 0
    assert revision({}) is None
    assert revision({"resourceVersion": "0"}) == 0


@pytest.mark.parametrize("text", ["x", "1_000", " 1", "9" * 5_000])
def test_bad_integer(text: str) -> None:
    with pytest.raises(ApiError, match="ParseInt"):
        integer({"limit": text}, "limit")


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "٣", "9" * 5_000])
def test_bad_revision(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        revision({"resourceVersion": text})
    assert caught.value.code == 500


@pytest.mark.parametrize(
    ("query", "watch", "says"),
    [
        ({"resourceVersionMatch": "Exact"}, False, "forbidden unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, False, '"exact" is forbidden'),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "5", "continue": "x"}, False, "when continue"),
        ({"resourceVersionMatch": "Sometimes", "resourceVersion": "5"}, False, "Unsupported value"),
        ({"resourceVersionMatch": "NotOlderThan", "resourceVersion": "5"}, True, "unless sendInitialEvents"),
        ({"sendInitialEvents": "true", "resourceVersionMatch": "Exact"}, True, "to NotOlderThan"),
        ({"sendInitialEvents": "true"}, False, "forbidden for list"),
    ],
)
def test_options_that_do_not_go_together(query: dict[str, str], watch: bool, says: str) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        check_list_options(query, watch=watch)
    assert caught.value.code == 422


def test_options_that_do() -> None:
    check_list_options({"resourceVersionMatch": "Exact", "resourceVersion": "5"}, watch=False)
    check_list_options({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, watch=True)
    check_list_options({}, watch=True)


def test_a_bad_selector_is_a_bad_request() -> None:
    with pytest.raises(ApiError) as caught:
        selection({"labelSelector": "a in"}, ())
    assert caught.value.code == 400
