"""Standard output and standard error of a command that runs for long: a reader that is slow stops nobody else."""

import asyncio
import os
import queue
import sys
import threading

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from unblink.cli.freshness import COLOURS, Freshness, Line

CLEAR_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


class Screen:
    """Text on standard output; on standard error a live line below it, or where that is no terminal each new state.

    Standard output is written by a thread: when its reader stops reading, the event loop goes on.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._shared = self._console.is_terminal and sys.stdout.isatty()
        self._said: Freshness | None = None
        self._writing = asyncio.Lock()
        self._texts: queue.SimpleQueue[tuple[bytes, asyncio.Future[None], asyncio.AbstractEventLoop]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._write_texts, name="unblink-stdout", daemon=True).start()

    async def write(self, text: str) -> None:
        """Write to standard output, and wait until its reader took it.

        :raises OSError: if it cannot be written, BrokenPipeError where nobody reads.
        """
        loop = asyncio.get_running_loop()
        async with self._writing:
            if self._shared:
                self.clear()
            written: asyncio.Future[None] = loop.create_future()
            self._texts.put((text.encode("utf-8", "surrogateescape"), written, loop))
            await written

    def show(self, line: Line) -> None:
        """Show how fresh the view is; not while standard output is written to the same terminal."""
        if self._console.is_terminal:
            if not (self._shared and self._writing.locked()):
                text = Text(line.text, style=COLOURS[line.state])
                text.truncate(self._console.width - 1, overflow="ellipsis")
                self._console.control(CLEAR_LINE)
                self._console.print(text, end="")
        elif line.state is not self._said:
            self._console.print(f"unblink: {line.text}", soft_wrap=True)
        self._said = line.state

    def clear(self) -> None:
        """Take the live line away."""
        if self._console.is_terminal:
            self._console.control(CLEAR_LINE)

    def _write_texts(self) -> None:
        while True:
            data, written, loop = self._texts.get()
            try:
                # Not by sys.stdout: a thread that waits there would hold a lock that the interpreter wants at its end.
                while data:
                    data = data[os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, data) :]
            except OSError as error:
                loop.call_soon_threadsafe(_fail, written, error)
            else:
                loop.call_soon_threadsafe(_finish, written)


def _finish(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _fail(written: asyncio.Future[None], error: OSError) -> None:
    if not written.done():
        written.set_exception(error)
