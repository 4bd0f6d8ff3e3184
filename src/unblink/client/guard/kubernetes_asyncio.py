"""``kubernetes_asyncio``, and the same code as the official client ships it in ``kubernetes.aio``.

The requests go through the user's own API function, bound to a copy of its API object that has sessions of its own.
"""

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from unblink.client.guard.awaiting import follow
from unblink.client.guard.failures import OURS, PAGE_LIMIT, new_guard, refusal, told
from unblink.stream.frames import Frame, FrameType
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble

NEVER_S = 3600
"""Longer than any deadline of ours: kubernetes.aio has one of 5 minutes for a whole response, where none is given."""


class GuardedWatch:
    """A ``Watch`` whose ``stream`` is guarded; everything else is the Watch's own."""

    def __init__(self, watch: Any, timers: Timers) -> None:
        self._watch = watch
        self._timers = timers
        self._stopping: asyncio.Future[None] | None = None
        self._streams: list[AsyncGenerator[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def stop(self) -> None:
        """End the stream, also one that waits."""
        self._watch.stop()
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)

    def stream(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """As ``Watch.stream``: ``timeout_seconds`` bounds the whole stream, as it does there. Logs are not guarded."""
        if self._watch.get_watch_argument_name(func) == "follow":
            theirs: AsyncIterator[Any] = self._watch.stream(func, *args, **kwargs)
            return theirs
        stream = self._follow(func, args, kwargs)
        self._streams.append(stream)
        return stream

    async def _follow(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        self._watch._stop = False
        self._stopping = asyncio.get_running_loop().create_future()
        since = kwargs.get("resource_version")
        client = _Asyncio(self._watch, func, args, kwargs)
        guard = new_guard(self._timers, None if since is None else str(since))
        events = follow(client, guard, PAGE_LIMIT, self._stopping, kwargs.get("timeout_seconds"))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            await self._watch.close()

    async def close(self) -> None:
        """Close the stream, and the Watch."""
        for stream in self._streams:
            await stream.aclose()
        self._streams.clear()
        await self._watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Asyncio:
    def __init__(self, watch: Any, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._watch = watch
        self._return_type = watch.get_return_type(func)
        self._bookmarks = kwargs.get("allow_watch_bookmarks", False)
        self._func = func
        self._call: Callable[..., Any]
        self._args = args
        self._kwargs = {name: value for name, value in kwargs.items() if name not in OURS}
        self._rests: list[Any] = []
        root = type(watch).__module__.removesuffix(".watch.watch")
        self._refused = import_module(f"{root}.client.exceptions").ApiException
        self._network = import_module("aiohttp").ClientError
        self._renew()

    async def watch(self, command: AskWatch) -> "_Stream":
        if command.fresh:
            self._renew()
        response = await self._ask(
            watch=True,
            resource_version=command.resource_version,
            timeout_seconds=command.timeout_s,
            allow_watch_bookmarks=True,
            _request_timeout=command.timeout_s + NEVER_S,
        )
        await self._close_all_but_last()
        return _Stream(response)

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        if fresh:
            self._renew()
        more = {"_continue": continue_token} if continue_token else {}
        response = await self._ask(limit=limit, **more)
        return bytes(await response.read())

    async def _ask(self, **kwargs: Any) -> Any:
        response = await self._call(*self._args, **self._kwargs, **kwargs)
        if not 200 <= response.status <= 299:
            body = await response.read()
            raise _Refused(self._refused(status=response.status, reason=response.reason), response, body)
        return response

    def _renew(self) -> None:
        """From now on with connections that nothing has used before."""
        self._call, rest = _own(self._func)
        if rest is not None:
            self._rests.append(rest)

    async def _close_all_but_last(self) -> None:
        # The watch before this one is read no more; its session ends with it.
        while len(self._rests) > 1:
            await self._rests.pop(0).close()

    def event(self, frame: Frame) -> Any:
        event = self._watch.unmarshal_event(frame.raw, self._return_type)
        return event if frame.type is not FrameType.BOOKMARK or self._bookmarks else None

    def trouble(self, error: Exception) -> Trouble:
        if isinstance(error, _Refused):
            return refusal(error.told, error.response.status, error.body, error.response.headers)
        if isinstance(error, TimeoutError):
            return Trouble(Kind.LATE, error)
        if isinstance(error, self._network | OSError):
            return Trouble(Kind.FAILED, error)
        raise error

    def exception(self, trouble: Trouble) -> BaseException:
        if trouble.frame is None or trouble.frame.status is None:
            return trouble.error or AssertionError("a failure without its error")
        refused: BaseException = self._refused(status=trouble.frame.status.code, reason=told(trouble.frame))
        return refused

    async def close(self) -> None:
        while self._rests:
            await self._rests.pop().close()


class _Refused(Exception):
    """``told`` is the client's own exception for it."""

    def __init__(self, told: Any, response: Any, body: bytes) -> None:
        super().__init__(str(told))
        told.body = body.decode("utf-8", "replace")
        told.headers = response.headers
        self.told = told
        self.response = response
        self.body = body


class _Stream:
    def __init__(self, response: Any) -> None:
        self._response = response

    async def read(self) -> bytes | None:
        return await self._response.content.readany() or None

    async def close(self) -> None:
        self._response.close()


def _own(func: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """The same function on a copy of its API object with a session of its own, and that session's owner.

    A function that is no method of an API object is called as it is, on whatever connections its client has.
    """
    api = getattr(func, "__self__", None)
    client = getattr(api, "api_client", None)
    if api is None or client is None or not inspect.ismethod(func):
        return _raw(func), None
    own_api, own_client = copy.copy(api), copy.copy(client)
    own_client.rest_client = type(client.rest_client)(client.configuration)
    own_api.api_client = own_client
    return _raw(getattr(own_api, func.__name__)), own_client.rest_client


def _raw(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that gives the response itself: the clients differ in how one asks for it."""
    sibling = getattr(getattr(func, "__self__", None), f"{getattr(func, '__name__', '')}_without_preload_content", None)
    return sibling or partial(func, _preload_content=False)
