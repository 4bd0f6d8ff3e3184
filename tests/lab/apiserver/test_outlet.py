import asyncio
from collections.abc import Callable
from typing import cast

from unblink.lab.apiserver.outlet import MAX_UNSENT, Outlet


class Transport:
    """What of an asyncio transport an outlet uses."""

    def __init__(self) -> None:
        self.sent = b""
        self.unsent = 0
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


def outlet(transport: Transport, *, muted: bool = False) -> Outlet:
    return Outlet(cast(asyncio.Transport, transport), muted=muted)


def test_muted_it_holds_bytes_and_the_close_in_their_order() -> None:
    transport = Transport()
    out = outlet(transport, muted=True)
    opened: list[bool] = []
    out.on_open = lambda: opened.append(True)
    out.write(b"a")
    out.write(b"b")
    out.close()
    assert (transport.sent, transport.closed, out.open, opened) == (b"", False, False, [])
    out.set_muted(False)
    assert (transport.sent, transport.closed, out.open, opened) == (b"ab", True, True, [True])


def test_full_or_muted_is_not_open() -> None:
    out = outlet(Transport())
    steps: list[tuple[Callable[[bool], None], bool, bool]] = [
        (out.set_full, False, True),
        (out.set_full, True, False),
        (out.set_muted, True, False),
        (out.set_full, False, False),
        (out.set_muted, False, True),
    ]
    for change, value, is_open in steps:
        change(value)
        assert out.open is is_open


def test_a_client_that_never_reads_loses_its_connection() -> None:
    transport = Transport()
    out = outlet(transport)
    transport.unsent = MAX_UNSENT
    out.write(b"pong")
    assert not transport.aborted
    transport.unsent += 1
    out.write(b"pong")
    assert transport.aborted


def test_nobody_waits_for_a_lost_connection() -> None:
    async def scenario() -> None:
        out = outlet(Transport(), muted=True)
        out.lost()
        await out.wait_open()

    asyncio.run(scenario())
