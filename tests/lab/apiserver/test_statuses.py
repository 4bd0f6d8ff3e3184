import json

from unblink.lab.apiserver import statuses


def test_a_response_has_the_status_as_its_body() -> None:
    code, headers, body = statuses.response(statuses.unauthorized())
    assert code == 401
    assert json.loads(body) == statuses.unauthorized().status
    assert dict(headers)[b"content-length"] == str(len(body)).encode()


def test_a_retry_after_comes_with_it() -> None:
    _, headers, _ = statuses.response(statuses.resource_version_too_large(5, 3))
    assert dict(headers)[b"retry-after"] == b"1"


def test_names_of_groups() -> None:
    error = statuses.not_found("lab.dev", "widgets", "w")
    assert str(error) == 'widgets.lab.dev "w" not found'
    assert error.status["details"] == {"name": "w", "group": "lab.dev", "kind": "widgets"}


def test_forbidden_names_what_was_asked_for() -> None:
    assert str(statuses.forbidden("u", "get", "g", "ws/status", "", "x")) == (
        'ws.g "x" is forbidden: User "u" cannot get resource "ws/status" in API group "g" at the cluster scope'
    )
    assert str(statuses.forbidden_path("u", "get", "/x")) == 'forbidden: User "u" cannot get path "/x"'


def test_apply_conflicts() -> None:
    one = statuses.apply_conflict([('"m" using v1', ".data.a")])
    assert str(one) == 'Apply failed with 1 conflict: conflict with "m" using v1: .data.a'
    two = statuses.apply_conflict([("m", ".a"), ("n", ".b")])
    assert str(two).startswith("Apply failed with 2 conflicts: ")
    assert [cause["field"] for cause in two.status["details"]["causes"]] == [".a", ".b"]
