import asyncio
import os
import pty
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from unblink.cli.freshness import Freshness, Line
from unblink.cli.output import Screen

FRESH = Line(Freshness.FRESH, "fresh: it is")
STALE = Line(Freshness.STALE, "STALE: it is not")
LIMIT_S = 10.0


@dataclass
class End:
    """What is written to a stream of ours comes out of ``descriptor``."""

    descriptor: int

    def read(self) -> str:
        """What came by now."""
        os.set_blocking(self.descriptor, False)
        found = b""
        try:
            while piece := os.read(self.descriptor, 65536):
                found += piece
        except BlockingIOError:
            pass
        return found.decode()


@contextmanager
def stream(monkeypatch: pytest.MonkeyPatch, name: str, *, terminal: bool) -> Iterator[End]:
    """Put a terminal or a pipe in the place of ``sys.stdout`` or ``sys.stderr``."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(writer, "w", buffering=1) as file:
        monkeypatch.setattr(sys, name, file)
        monkeypatch.setattr(sys, f"__{name}__", file)
        try:
            yield End(reader)
        finally:
            os.close(reader)


@pytest.fixture(autouse=True)
def a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


def test_elsewhere_each_new_state_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stream(monkeypatch, "stdout", terminal=False), stream(monkeypatch, "stderr", terminal=False) as errors:
        screen = Screen()
        for line in (FRESH, FRESH, Line(Freshness.FRESH, "fresh: still"), STALE, STALE, FRESH):
            screen.show(line)
        screen.clear()
        assert errors.read() == f"unblink: {FRESH.text}\nunblink: {STALE.text}\nunblink: {FRESH.text}\n"


def test_on_a_terminal_one_line_is_written_again_and_again_and_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    with stream(monkeypatch, "stdout", terminal=False), stream(monkeypatch, "stderr", terminal=True) as errors:
        screen = Screen()
        screen.show(FRESH)
        screen.show(STALE)
        screen.show(Line(Freshness.STALE, "x" * 100))
        screen.clear()
        said = errors.read()
    assert "\n" not in said
    assert said.count("\r\x1b[2K") == 4
    assert said.endswith("\r\x1b[2K")
    assert "\x1b[32mfresh: it is" in said
    assert "\x1b[1;31mSTALE: it is not" in said
    assert f"{'x' * 38}…" in said


def test_what_is_written_is_whole_and_the_live_line_stands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(out: End, errors: End) -> None:
        screen = Screen()
        screen.show(FRESH)
        await screen.write("a row\n")
        assert out.read() == "a row\r\n"
        assert errors.read().endswith("\r\x1b[2K")

    with stream(monkeypatch, "stdout", terminal=True) as out, stream(monkeypatch, "stderr", terminal=True) as errors:
        asyncio.run(run(out, errors))


def test_a_reader_that_stops_reading_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(out: End, errors: End) -> None:
        screen = Screen()
        text = "x" * 1_000_000
        writing = asyncio.create_task(screen.write(text))
        await asyncio.sleep(0)
        screen.show(STALE)
        assert STALE.text in errors.read()
        assert not writing.done()
        read = 0
        async with asyncio.timeout(LIMIT_S):
            while read < len(text):
                read += len(out.read())
                await asyncio.sleep(0)
            await writing

    with stream(monkeypatch, "stdout", terminal=False) as out, stream(monkeypatch, "stderr", terminal=False) as errors:
        asyncio.run(run(out, errors))


def test_where_nobody_reads_any_more_the_writer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        monkeypatch.setattr(sys, "__stdout__", file)
        with pytest.raises(BrokenPipeError):
            asyncio.run(Screen().write("a row\n"))
