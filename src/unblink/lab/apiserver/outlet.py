"""The sending side of one connection: says whether more may be sent now, and can be muted.

A muted outlet keeps what it is given, so that a deaf process is dumb as well (see ``deaf``).
"""

import asyncio
from collections.abc import Callable

MAX_UNSENT = 1 << 20


class Outlet:
    """Around an asyncio transport. ``on_open`` is called whenever sending becomes possible again."""

    def __init__(self, transport: asyncio.Transport, *, muted: bool) -> None:
        self.on_open: Callable[[], None] = lambda: None
        self._transport = transport
        self._full = False
        self._muted = muted
        self._held = bytearray()
        self._closing = False
        self._opened = asyncio.Event()
        self._update()

    @property
    def open(self) -> bool:
        """Whether bodies may be sent now; small control frames may always be."""
        return not self._full and not self._muted

    async def wait_open(self) -> None:
        """Wait until ``open``, or the connection is lost."""
        await self._opened.wait()

    def write(self, data: bytes) -> None:
        """Send ``data``, or hold it. A client that makes us answer without ever reading loses its connection."""
        if self._muted:
            self._held += data
        elif not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > MAX_UNSENT:
                self._transport.abort()

    def close(self) -> None:
        """Close when all is sent; when unmuted, if muted now: a FIN is a sound too."""
        self._closing = True
        if not self._muted:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_reading(self, paused: bool) -> None:
        """Stop or go on taking bytes from the client."""
        if self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def set_full(self, full: bool) -> None:
        """The transport's own buffer is over its high-water mark, or under its low one again."""
        self._full = full
        self._update()

    def set_muted(self, muted: bool) -> None:
        """Hold everything from now on, or let everything go."""
        self._muted = muted
        if not muted:
            held, self._held = bytes(self._held), bytearray()
            if held:
                self.write(held)
            if self._closing:
                self._transport.close()
        self._update()

    def lost(self) -> None:
        """The connection is no more: nobody waits any longer."""
        self._opened.set()

    def _update(self) -> None:
        if self.open:
            self._opened.set()
            self.on_open()
        else:
            self._opened.clear()
