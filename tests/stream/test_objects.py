import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
