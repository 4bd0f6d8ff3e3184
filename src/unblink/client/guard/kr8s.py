"""kr8s: its modules, its ``Api`` and its objects, in asyncio and in its blocking guise (kr8s runs that on a loop of its
own in another thread, and so does the guard)."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from unblink.client.guard.awaiting import follow
from unblink.client.guard.failures import PAGE_LIMIT, new_guard, refusal, told
from unblink.stream.frames import Frame, FrameType, Lines
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble
from unblink.stream.known import Known


class GuardedModule:
    """``kr8s`` or ``kr8s.asyncio`` with a guarded ``watch``; everything else is the module's own."""

    def __init__(self, module: ModuleType, timers: Timers) -> None:
        self._module = module
        self._timers = timers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def watch(self, kind: Any, api: Any = None, **kwargs: Any) -> Any:
        """As ``kr8s.watch``, and as ``kr8s.asyncio.watch``."""
        asynchronous = self._module.__name__ == "kr8s.asyncio"

        async def get_api() -> Any:
            return api or await import_module("kr8s.asyncio").api(_asyncio=asynchronous)

        return _run(_watch(get_api, self._timers, kind, **kwargs), blocking=not asynchronous)


class GuardedApi:
    """A kr8s ``Api`` with a guarded ``watch``; everything else is the Api's own."""

    def __init__(self, api: Any, timers: Timers) -> None:
        self._api = api
        self._timers = timers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def watch(self, kind: Any, **kwargs: Any) -> Any:
        """As ``Api.watch``."""
        return _run(self.async_watch(kind, **kwargs), blocking=not self._api._asyncio)

    def async_watch(self, kind: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        """As ``Api.async_watch``."""

        async def get_api() -> Any:
            return self._api

        return _watch(get_api, self._timers, kind, **kwargs)


class GuardedObject:
    """A kr8s object with a guarded ``watch``; everything else is the object's own."""

    def __init__(self, made: Any, timers: Timers) -> None:
        self._made = made
        self._timers = timers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def watch(self) -> Any:
        """As ``APIObject.watch``: what happens from the object's own resourceVersion on, the object kept up to date."""
        return _run(self.async_watch(), blocking=not self._made._asyncio)

    async def async_watch(self) -> AsyncGenerator[Any]:
        """As ``APIObject.async_watch``."""
        made = self._made

        async def get_api() -> Any:
            return made.api

        known = Known()
        if made.metadata.get("resourceVersion"):
            added = json.dumps({"type": "ADDED", "object": made.raw}, separators=(",", ":")).encode()
            for frame in Lines().feed(added + b"\n"):
                known.note(frame)
        events = _watch(
            get_api,
            self._timers,
            type(made),
            namespace=made.namespace,
            field_selector=f"metadata.name={made.name}",
            known=known,
        )
        try:
            async for event, now in events:
                made.raw = now.raw
                yield event, made
        finally:
            await events.aclose()


async def _watch(
    get_api: Callable[[], Any],
    timers: Timers,
    kind: Any,
    namespace: str | None = None,
    label_selector: Any = None,
    field_selector: Any = None,
    since: str | None = None,
    allow_unknown_type: bool = True,
    known: Known | None = None,
) -> AsyncGenerator[Any]:
    asked = {
        "namespace": namespace,
        "label_selector": label_selector,
        "field_selector": field_selector,
        "allow_unknown_type": allow_unknown_type,
    }
    client = _Kr8s(await get_api(), kind, asked)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    events = follow(client, new_guard(timers, since, known), PAGE_LIMIT, never)
    try:
        async for event in events:
            yield event
    finally:
        await events.aclose()


class _Kr8s:
    """``kind`` becomes the class of the objects with the first answer, so that discovery is asked once."""

    def __init__(self, api: Any, kind: Any, asked: dict[str, Any]) -> None:
        self._api = api
        self._kind = kind
        self._asked = asked
        self._sessions: list[Any] = []
        self._own = self._renewed()
        self._refused = import_module("kr8s").ServerError
        self._late = import_module("kr8s").APITimeoutError
        self._library = import_module("httpx")

    def _renewed(self) -> Any:
        """A copy of the user's api, with the same credentials and connections that nothing has used before."""
        own = copy.copy(self._api)
        own._session = None
        self._sessions.append(own)
        return own

    @contextlib.asynccontextmanager
    async def _get(self, own: Any, params: dict[str, str], *, watch: bool) -> AsyncGenerator[Any]:
        # kr8s adds the selectors to ``params``
        async with own.async_get_kind(self._kind, params=params, watch=watch, timeout=None, **self._asked) as answer:
            self._kind, response = answer
            yield response

    async def watch(self, command: AskWatch) -> "_Stream":
        own = self._renewed() if command.fresh else self._own
        params = {
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(command.timeout_s),
            "resourceVersion": command.resource_version,
        }
        context = self._get(own, params, watch=True)
        response = await context.__aenter__()
        self._own = own
        await self._close(but=own)
        return _Stream(context, response)

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        own = self._renewed() if fresh else self._own
        params = {"limit": str(limit)} | ({"continue": continue_token} if continue_token else {})
        async with self._get(own, params, watch=False) as response:
            return bytes(response.content)

    async def _close(self, but: Any = None) -> None:
        for own in self._sessions:
            if own is not but and own._session is not None:
                await own._session.aclose()
        self._sessions = [but] if but is not None else []

    def event(self, frame: Frame) -> Any:
        if frame.type is FrameType.BOOKMARK:
            return None
        event = json.loads(frame.raw)
        return event["type"], self._kind(event["object"], api=self._api)

    def trouble(self, error: Exception) -> Trouble:
        response = getattr(error, "response", None)
        if isinstance(error, self._refused) and response is not None:
            return refusal(error, response.status_code, response.content, response.headers)
        if isinstance(error, self._late | self._library.TimeoutException | TimeoutError):
            return Trouble(Kind.LATE, error)
        if isinstance(error, self._refused | self._library.HTTPError | self._library.StreamError | OSError):
            return Trouble(Kind.FAILED, error)
        raise error

    def exception(self, trouble: Trouble) -> BaseException:
        if trouble.frame is None or trouble.frame.status is None:
            return trouble.error or AssertionError("a failure without its error")
        refused: BaseException = self._refused(
            told(trouble.frame), status=json.loads(trouble.frame.raw)["object"], response=None
        )
        return refused

    async def close(self) -> None:
        await self._close()


class _Stream:
    def __init__(self, context: Any, response: Any) -> None:
        self._context = context
        self._response = response
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes | None:
        data: bytes | None = await anext(self._chunks, None)
        return data

    async def close(self) -> None:
        await self._response.aclose()
        with contextlib.suppress(Exception):  # what a dropped stream still has to say
            await self._context.__aexit__(None, None, None)


def _run(events: AsyncGenerator[Any], *, blocking: bool) -> Any:
    return _block(events) if blocking else events


def _block(events: AsyncGenerator[Any]) -> Iterator[Any]:
    """As kr8s's own ``iter_over_async``, and the watch is closed when the loop is left."""
    portal = import_module("kr8s._async_utils").Portal()
    ended = object()

    async def take() -> Any:
        return await anext(events, ended)

    try:
        while (event := portal.call(take)) is not ended:
            yield event
    finally:
        portal.call(events.aclose)
