import json

import pytest

from unblink.client.guard.failures import Listing, now_ms, page, refusal, told
from unblink.stream.frames import Lines
from unblink.stream.guarding import Kind


def body(names: list[str], continue_token: str = "") -> bytes:
    items = [{"metadata": {"name": name}} for name in names]
    metadata = {"resourceVersion": "7", "continue": continue_token}
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}).encode()


def test_a_list_is_all_its_pages() -> None:
    listing = Listing()
    assert not listing.take(body(["a"], "next"))
    assert listing.continue_token == "next"
    assert listing.take(body(["b"]))
    assert [item.metadata.name for item in listing.items] == ["a", "b"]
    assert listing.resource_version == "7"


def test_items_say_their_kind() -> None:
    [one] = page(body(["a"])).items
    assert json.loads(one.raw)["kind"] == "Pod"


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"metadata": {}}'])
def test_what_is_no_list_is_a_value_error(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Listing().take(answer)


def test_a_refusal_keeps_the_clients_error_and_the_pause_asked_for() -> None:
    error = RuntimeError("refused")
    found = refusal(error, 503, b"not JSON", {"Retry-After": "3"})
    assert (found.kind, found.error, found.retry_after_s) == (Kind.BUSY, error, 3.0)
    in_body = json.dumps({"code": 429, "details": {"retryAfterSeconds": 2}}).encode()
    assert refusal(error, 429, in_body, None).retry_after_s == 2.0
    assert refusal(error, 500, b"", {"retry-after": "soon"}).kind is Kind.FAILED
    assert refusal(error, 403, b"", {}).kind is Kind.FATAL


def test_an_error_event_is_told_in_words() -> None:
    status = {"code": 500, "reason": "InternalError", "message": "no store"}
    [frame] = Lines().feed(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
    assert told(frame) == "500 InternalError: no store"


def test_the_clock_does_not_go_back() -> None:
    assert now_ms() <= now_ms()
