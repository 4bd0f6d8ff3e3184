"""What every lab client's process does alike: flags, the guard, SIGTERM, the first connection, a fatal line."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn

from unblink.client.kubeconfig import Access, KubeconfigError, load
from unblink.client.transport import Connection, Limits, Unreachable, connect
from unblink.lab.clients import guard
from unblink.lab.log import emit

FIRST_CONNECT_S = 10.0
CONNECT_LIMITS = Limits(connect_ms=2000, tls_ms=2000)
RETRY_S = 0.1


class Fatal(Exception):
    """The client cannot work; its text is for the lab."""


class Flags(argparse.ArgumentParser):
    """Flags whose errors are a ``fatal`` line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description)
        self.add_argument("--kubeconfig", type=Path, required=True)
        self.add_argument("--namespace", default="default")

    def error(self, message: str) -> NoReturn:
        raise Fatal(message)


def access(kubeconfig: Path) -> Access:
    """The kubeconfig's server and identity, if the client may speak to it.

    :raises Fatal: if not.
    """
    try:
        loaded = load(kubeconfig)
        guard.check(loaded.host)
    except (KubeconfigError, guard.NotInLab) as error:
        raise Fatal(str(error)) from None
    return loaded


async def first_connection(to: Access) -> Connection:
    """Connect, for ten seconds again and again: the server may come up later than its clients.

    :raises Fatal: if nothing answers.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + FIRST_CONNECT_S
    while True:
        try:
            return await connect(to, CONNECT_LIMITS)
        except Unreachable as error:
            if loop.time() > until:
                raise Fatal(str(error)) from None
        except KubeconfigError as error:
            raise Fatal(str(error)) from None
        await asyncio.sleep(RETRY_S)


async def until(stop: asyncio.Event, work: Awaitable[object]) -> None:
    """Let the work run until it ends or until the stop, which cancels it."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


def run(client: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a client's coroutine; its event is set by SIGTERM and SIGINT. Exit code 0, or 2 after a ``fatal`` line."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await client(stop)

    errors: list[Exception] = []
    try:
        asyncio.run(main())
    except* (Fatal, KubeconfigError) as group:
        errors += _leaves(group)
    if errors:
        emit("fatal", error=str(errors[0]))
        sys.exit(2)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
