"""Carries out a guard's commands for clients that block, without a thread: every wait is a time-out of the socket."""

from collections.abc import Iterator
from typing import Any, Protocol

from unblink.client.guard.failures import NOT_UNDERSTOOD, Listing, now_ms
from unblink.stream.frames import Frame, Lines
from unblink.stream.guarding import (
    AskList,
    AskProbe,
    AskWatch,
    Command,
    GiveUp,
    Guard,
    Pause,
    Read,
    Timers,
    Trouble,
)


class Silent(Exception):
    """No byte came in time, and the client has lost its response by waiting."""


class Stream(Protocol):
    """The body of an open watch. ``fixed_ms`` is how long a read may last where ``wait_s`` cannot change it."""

    fixed_ms: int | None

    def read(self, wait_s: float) -> bytes | None:
        """What has arrived, None at the clean end.

        :raises Silent: if nothing came in time.
        """

    def close(self) -> None:
        """Drop the response and its connection."""


class Client(Protocol):
    """One resource, watched with a client's own functions."""

    def stopped(self) -> bool:
        """Whether the user has had enough."""

    def watch(self, command: AskWatch, timers: Timers, wait_s: float) -> Stream:
        """Open the watch; the client's own exceptions where that fails. ``wait_s`` is for reads that need it now."""

    def page(self, limit: int, continue_token: str, wait_s: float, *, fresh: bool) -> bytes:
        """One page of a consistent list; the client's own exceptions where that fails."""

    def event(self, frame: Frame) -> Any:
        """The event as the client's own watch would give it, None for one that it would not give."""

    def trouble(self, error: Exception) -> Trouble:
        """What a failure means.

        :raises Exception: the error itself, if it is none of the network or the server.
        """

    def exception(self, trouble: Trouble) -> BaseException | None:
        """What the client's own watch would raise; None if it would just end."""

    def sleep(self, wait_s: float) -> None:
        """Wait, or less if the user has stopped the watch."""

    def close(self) -> None:
        """Close what was opened for the guard alone."""


def follow(client: Client, guard: Guard, page_limit: int, lifetime_s: float | None = None) -> Iterator[Any]:
    """The events of the guarded watch, for ``lifetime_s`` or until the client is stopped."""
    over_ms = None if lifetime_s is None else now_ms() + int(lifetime_s * 1000)
    run = _Run(client, guard, page_limit)
    try:
        command = guard.start()
        while not client.stopped() and (over_ms is None or now_ms() < over_ms):
            command = run.carry_out(command, None if over_ms is None else over_ms - now_ms())
            for frame in guard.take():
                event = client.event(frame)
                if event is not None:
                    yield event
                if client.stopped():
                    return
    except _Ended:
        return
    finally:
        run.close()
        client.close()


class _Ended(Exception):
    """The client's own watch would end here without an exception."""


class _Run:
    def __init__(self, client: Client, guard: Guard, page_limit: int) -> None:
        self._client = client
        self._guard = guard
        self._page_limit = page_limit
        self._stream: Stream | None = None
        self._lines = Lines()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def carry_out(self, command: Command, left_ms: int | None) -> Command:
        guard, client = self._guard, self._client
        match command:
            case Read():
                return self._read(left_ms)
            case Pause(ms):
                self.close()
                client.sleep((ms if left_ms is None else min(ms, max(left_ms, 0))) / 1000)
                return guard.resumed()
            case AskWatch():
                try:
                    stream = client.watch(command, guard.timers, guard.first_patience_ms() / 1000)
                except Exception as error:
                    return guard.failed(self._trouble(error))
                self.close()
                self._stream, self._lines = stream, Lines()
                return guard.opened()
            case AskProbe():
                try:
                    body = client.page(1, "", guard.timers.probe_ms / 1000, fresh=True)
                except Exception as error:
                    return guard.failed(self._trouble(error))
                listing = Listing()
                try:
                    listing.take(body)
                except ValueError:
                    return guard.failed(NOT_UNDERSTOOD)
                return guard.probed(listing.resource_version)
            case AskList():
                return self._list()
            case GiveUp(trouble):
                raised = client.exception(trouble)
                raise _Ended if raised is None else raised

    def _read(self, left_ms: int | None) -> Command:
        guard, stream = self._guard, self._stream
        if stream is None:
            raise AssertionError("a read without a watch")
        if stream.fixed_ms is not None:
            command = guard.idle(unable_ms=stream.fixed_ms)
            if not isinstance(command, Read):
                return command
        patience_ms = guard.patience_ms()
        wait_ms = patience_ms if left_ms is None else min(patience_ms, max(left_ms, 1))
        try:
            data = stream.read(wait_ms / 1000)
        except Silent:
            self.close()
            return guard.idle(lost=True)
        except Exception as error:
            self.close()
            return guard.failed(self._trouble(error))
        if data is None:
            self.close()
            return guard.ended()
        return guard.received(self._lines.feed(data), broken=self._lines.error is not None)

    def _list(self) -> Command:
        listing = Listing()
        try:
            while not listing.take(
                self._client.page(
                    self._page_limit, listing.continue_token, self._guard.timers.page_ms / 1000, fresh=False
                )
            ):
                pass
        except ValueError:
            return self._guard.failed(NOT_UNDERSTOOD)
        except Exception as error:
            return self._guard.failed(self._trouble(error))
        return self._guard.listed(listing.resource_version, listing.items)

    def _trouble(self, error: Exception) -> Trouble:
        return self._client.trouble(error)
