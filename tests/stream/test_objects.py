import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream import recorded

from unblink.stream.objects import decode_page, decode_status


def test_a_page_gives_version_token_and_items_with_their_bytes() -> None:
    body = (
        b'{"metadata":{"resourceVersion":"7","continue":"abc"},"items":[{"metadata":{"name":"a","uid":"u"},"data":1}]}'
    )
    page = decode_page(body)
    assert (page.resource_version, page.continue_token) == ("7", "abc")
    assert page.items[0].metadata.name == "a"
    assert bytes(page.items[0].raw) == b'{"metadata":{"name":"a","uid":"u"},"data":1}'


def test_null_items_are_an_empty_list() -> None:
    assert decode_page(b'{"metadata":{"resourceVersion":"7"},"items":null}').items == ()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"metadata":{}}', b"<html>", b'{"metadata":{"resourceVersion":"1"},"items":[1]}']
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_page(body)


@given(st.integers(400, 599), st.binary(max_size=300))
def test_any_body_gives_a_status_with_a_code(code: int, body: bytes) -> None:
    assert decode_status(code, body).code == code


def test_the_shapes_of_an_unusable_version() -> None:
    assert decode_status(410, b'{"reason":"Expired","code":410}').expired
    assert decode_status(200, b'{"reason":"Gone"}').expired
    assert not decode_status(404, b'{"reason":"NotFound","code":404}').expired
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "m"}], "retryAfterSeconds": 1}
    future = decode_status(504, json.dumps({"code": 504, "reason": "Timeout", "details": details}).encode())
    assert future.too_large
    assert future.retry_after_s == 1.0
    assert not future.expired


DEEP = b'{"x":' + b"[" * 100_000


def test_json_that_is_nested_too_deeply_is_refused_and_no_crash() -> None:
    with pytest.raises(ValueError, match="recursion"):
        decode_page(DEEP)
    assert decode_status(500, DEEP).code == 500


@pytest.mark.parametrize(("seconds", "pause_s"), [(0, None), (-3, None), (7, 7.0), (10**400, 2.0**31 - 1)])
def test_the_pause_that_a_status_asks_for(seconds: int, pause_s: float | None) -> None:
    body = b'{"code":429,"details":{"retryAfterSeconds":' + str(seconds).encode() + b"}}"
    assert decode_status(429, body).retry_after_s == pause_s


def test_an_items_bytes_do_not_keep_the_page_alive() -> None:
    body = b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}'
    (item,) = decode_page(body).items
    assert type(item.raw) is bytes
    assert not item.enveloped


LISTS = {"list": 3, "list-page-1": 1, "list-page-2": 1, "list-rv0": 3, "list-label": 1, "list-field": 1, "list-gzip": 1}


@pytest.mark.parametrize("name", LISTS)
def test_recorded_lists_decode(name: str) -> None:
    page = decode_page(recorded.body(name))
    assert page.resource_version.isdigit()
    assert len(page.items) == LISTS[name]
    assert all(item.metadata.name and item.metadata.uid and item.metadata.resource_version for item in page.items)
    assert bool(page.continue_token) == name.startswith("list-page")


def test_the_recorded_table_is_a_page_without_items() -> None:
    """Its rows are no objects."""
    assert decode_page(recorded.body("list-table")).items == ()


@pytest.mark.parametrize(
    ("name", "expired", "too_large"), [("list-future-rv", False, True), ("list-bad-continue", False, False)]
)
def test_recorded_refusals_say_what_is_wrong(name: str, expired: bool, too_large: bool) -> None:
    status = decode_status(recorded.status(name), recorded.body(name))
    assert status.code == recorded.status(name)
    assert (status.expired, status.too_large) == (expired, too_large)
    assert status.message
