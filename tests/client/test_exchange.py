import asyncio
import socket
import ssl

import pytest

from unblink.client.exchange import BodyTooLarge, RequestEnded, Response, checked_target, plain_reason, request_headers
from unblink.client.kubeconfig import Access
from unblink.stream.endings import EndedBy, Ending

ACCESS = Access("https", "server", 443, token="hush")
CLEAN = Ending(EndedBy.SERVER_CLOSED, "end of stream")
LOST = Ending(EndedBy.CONNECTION_LOST, "gone")


def test_a_chunk_is_all_that_came_and_what_came_before_an_ending_is_given_first() -> None:
    async def run() -> None:
        consumed: list[int] = []
        response = Response(consumed.append, lambda: None)
        response.pieces += [b"a", b"bc"]
        assert await response.chunk() == b"abc"
        response.pieces.append(b"d")
        response.end(LOST)
        response.end(CLEAN)
        assert await response.chunk() == b"d"
        for _ in range(2):
            with pytest.raises(RequestEnded, match="gone"):
                await response.chunk()
        assert consumed == [3, 1]

    asyncio.run(run())


def test_many_pieces_wake_their_reader_once() -> None:
    async def run() -> None:
        response = Response(lambda _: None, lambda: None)
        reading = asyncio.ensure_future(response.chunk())
        await asyncio.sleep(0)
        for _ in range(3):
            response.pieces.append(b"x")
            response.wake()
        assert await reading == b"xxx"
        response.end(CLEAN)
        assert await response.chunk() is None

    asyncio.run(run())


def test_a_body_over_its_limit_is_given_up() -> None:
    async def run() -> None:
        cancelled: list[bool] = []
        response = Response(lambda _: None, lambda: cancelled.append(True))
        response.pieces.append(b"12345")
        with pytest.raises(BodyTooLarge, match="longer than 4 bytes"):
            await response.body(4)
        assert cancelled
        with pytest.raises(RequestEnded, match="given up by us") as caught:
            await response.chunk()
        assert caught.value.ending.by is EndedBy.DEADLINE

    asyncio.run(run())


def test_headers_are_in_lower_case_with_our_name_and_token() -> None:
    assert request_headers(ACCESS, {"Accept": "x"}) == [
        ("user-agent", "unblink"),
        ("accept", "x"),
        ("authorization", "Bearer hush"),
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("a\nb", "x"), ("", "x"), ("a:", "x"), ("a", "se\r\ncret"), ("a", " secret"), ("a", "\0secret")]
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected a") as caught:
        request_headers(ACCESS, {name: value})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "x"), ("GET", "/a b"), ("GET", "/a\r\nb"), ("G T", "/"), ("GET", "/ä")]
)
def test_a_target_that_cannot_be_sent(method: str, target: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        checked_target(method, target)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "asyncio's own words"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name resolution: Name or service not known"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_reasons_are_the_operating_systems(error: Exception, reason: str) -> None:
    assert reason in plain_reason(error)


def test_a_wait_that_is_cancelled_gives_the_response_up() -> None:
    async def run() -> None:
        cancelled: list[bool] = []
        response = Response(lambda _: None, lambda: cancelled.append(True))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await response.chunk()
        assert cancelled

    asyncio.run(run())
