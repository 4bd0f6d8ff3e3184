"""lightkube's ``Client`` and ``AsyncClient``: requests and events are made by lightkube's own code."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from importlib import import_module
from typing import Any

from unblink.client.guard import awaiting, blocking, pools
from unblink.client.guard.failures import PAGE_LIMIT, new_guard, refusal
from unblink.stream.frames import Frame, FrameType
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble


class _Guarded:
    """Everything but ``watch`` is the client's own."""

    def __init__(self, client: Any, timers: Timers) -> None:
        self._inner = client
        self._timers = timers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class GuardedClient(_Guarded):
    """A lightkube ``Client`` whose ``watch`` is guarded."""

    def watch(self, res: Any, **kwargs: Any) -> Iterator[Any]:
        """As ``Client.watch``. ``on_error`` is asked about what retrying cannot heal; ``server_timeout`` is the guard's
        own."""
        client = _Blocking(self._inner, self._timers, res, kwargs)
        return blocking.follow(client, new_guard(self._timers, kwargs.get("resource_version")), PAGE_LIMIT)

    def __enter__(self) -> "GuardedClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()


class GuardedAsyncClient(_Guarded):
    """A lightkube ``AsyncClient`` whose ``watch`` is guarded."""

    def watch(self, res: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """As ``AsyncClient.watch``. ``on_error`` is asked about what retrying cannot heal; ``server_timeout`` is the
        guard's own."""
        return self._follow(res, kwargs)

    async def _follow(self, res: Any, kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        client = _Awaiting(self._inner, self._timers, res, kwargs)
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        guard = new_guard(self._timers, kwargs.get("resource_version"))
        events = awaiting.follow(client, guard, PAGE_LIMIT, never)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def __aenter__(self) -> "GuardedAsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()


class _Lightkube:
    """What both have in common: requests without sending them, events, failures."""

    def __init__(self, client: Any, timers: Timers, res: Any, kwargs: dict[str, Any]) -> None:
        self._generic = client._client
        self._timers = timers
        self._res = res
        self._namespace = kwargs.get("namespace")
        self._on_error = kwargs.get("on_error")
        selectors = import_module("lightkube.core.client").build_selector
        labels, fields = kwargs.get("labels"), kwargs.get("fields")
        self._selected = {
            "labelSelector": selectors(labels) if labels else None,
            "fieldSelector": selectors(fields, for_fields=True) if fields else None,
        }
        driver = import_module("lightkube.core.generic_client").WatchDriver
        generic = self._generic
        self._driver = driver(self._basic(watch=True), generic._client.build_request, getattr(generic, "_lazy", True))
        self._http: Any = generic._client
        self._made: list[Any] = []
        self._old: list[Any] = []
        self._renew()
        # lightkube's own errors and its httpx, whichever module that is in this version
        self._refused = import_module("lightkube.core.exceptions").ApiError
        self._library = import_module(self._refused.__mro__[1].__module__.partition(".")[0])
        self._errors = 0

    def _basic(self, **params: Any) -> Any:
        watch = params.pop("watch", False)
        return self._generic.prepare_request(
            "list", res=self._res, namespace=self._namespace, watch=watch, params=self._selected | params
        )

    def _watch_request(self, command: AskWatch, wait: Any) -> Any:
        return self._request(
            self._basic(
                watch=True,
                allowWatchBookmarks="true",
                timeoutSeconds=command.timeout_s,
                resourceVersion=command.resource_version,
            ),
            wait,
        )

    def _page_request(self, limit: int, continue_token: str, wait: Any) -> Any:
        return self._request(self._basic(limit=limit, **({"continue": continue_token} if continue_token else {})), wait)

    def _request(self, basic: Any, wait: Any) -> Any:
        return self._http.build_request(basic.method, basic.url, params=basic.params, timeout=wait)

    def _renew(self) -> None:
        """From now on with connections that nothing has used before."""
        self._old += self._made
        self._http, self._made = pools.own(self._generic._client)

    def _take_old(self) -> list[Any]:
        """What the watch before had, to be closed with it."""
        old, self._old = self._old, []
        return old

    def event(self, frame: Frame) -> Any:
        return None if frame.type is FrameType.BOOKMARK else self._driver.process_one_line(frame.raw)

    def trouble(self, error: Exception) -> Trouble:
        found: Trouble
        if isinstance(error, _Refused):
            found = refusal(error.told, error.status, error.body, error.headers)
            return self._asked_for(found) if found.kind is Kind.FATAL else found
        if isinstance(error, self._library.TimeoutException | TimeoutError):
            return Trouble(Kind.LATE, error)
        if isinstance(error, self._library.HTTPError | self._library.StreamError | OSError):
            return Trouble(Kind.FAILED, error)
        raise error

    def _asked_for(self, fatal: Trouble) -> Trouble:
        """What the user's ``on_error`` makes of it; by default it is raised."""
        if self._on_error is None:
            return fatal
        self._errors += 1
        wanted = self._on_error(fatal.error, self._errors)
        return {
            "RETRY": Trouble(Kind.BUSY, fatal.error, None, wanted.sleep or None),
            "STOP": Trouble(Kind.FATAL, None),
        }.get(wanted.action.name, fatal)

    def exception(self, trouble: Trouble) -> BaseException | None:
        if trouble.frame is None:
            return trouble.error
        try:
            self._driver.process_one_line(trouble.frame.raw)
        except self._refused as error:
            asked: Trouble = self._asked_for(Trouble(Kind.FATAL, error))
            return asked.error
        raise AssertionError("lightkube takes an ERROR event for another")

    def _told(self, response: Any) -> "_Refused | None":
        if response.status_code == 200:
            return None
        try:
            self._generic.raise_for_status(response)
        except self._library.HTTPError as error:
            return _Refused(error, response)
        return _Refused(self._library.HTTPError(f"unexpected status {response.status_code}"), response)


class _Refused(Exception):
    """``told`` is lightkube's own exception for it."""

    def __init__(self, told: BaseException, response: Any) -> None:
        super().__init__(str(told))
        self.told = told
        self.status = response.status_code
        self.body = response.content
        self.headers = response.headers


class _Blocking(_Lightkube):
    def stopped(self) -> bool:
        return False

    def watch(self, command: AskWatch, timers: Timers, wait_s: float) -> "_BlockingStream":
        if command.fresh:
            self._renew()
        wait = self._library.Timeout(timers.head_ms / 1000, connect=timers.connect_ms / 1000)
        request = self._watch_request(command, wait)
        response = self._http.send(request, stream=True)
        self._check(response)
        # httpcore takes the body's time-out from here once, when the body is begun.
        request.extensions["timeout"]["read"] = wait_s
        _close(self._take_old())
        return _BlockingStream(response, wait_s, self._library)

    def page(self, limit: int, continue_token: str, wait_s: float, *, fresh: bool) -> bytes:
        http, made = (self._http, self._made) if not fresh else pools.own(self._generic._client)
        try:
            basic = self._page_request(limit, continue_token, self._library.Timeout(wait_s))
            response = http.send(basic)
            self._check(response)
            return bytes(response.content)
        finally:
            if fresh:
                _close(made)

    def _check(self, response: Any) -> None:
        if response.status_code != 200:
            response.read()
        refused = self._told(response)
        if refused is not None:
            raise refused

    def sleep(self, wait_s: float) -> None:
        time.sleep(wait_s)

    def close(self) -> None:
        _close(self._take_old() + self._made)


def _close(transports: list[Any]) -> None:
    for transport in transports:
        transport.close()


class _BlockingStream:
    def __init__(self, response: Any, wait_s: float, library: Any) -> None:
        self.fixed_ms: int | None = int(wait_s * 1000)
        self._response = response
        self._chunks = response.iter_bytes()
        self._library = library

    def read(self, wait_s: float) -> bytes | None:
        try:
            return next(self._chunks, None)
        except self._library.ReadTimeout as error:
            raise blocking.Silent from error

    def close(self) -> None:
        self._response.close()


class _Awaiting(_Lightkube):
    async def watch(self, command: AskWatch) -> "_AwaitingStream":
        if command.fresh:
            self._renew()
        response = await self._http.send(self._watch_request(command, self._library.Timeout(None)), stream=True)
        await self._check(response)
        await _aclose(self._take_old())
        return _AwaitingStream(response)

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        http, made = (self._http, self._made) if not fresh else pools.own(self._generic._client)
        try:
            response = await http.send(self._page_request(limit, continue_token, self._library.Timeout(None)))
            await self._check(response)
            return bytes(response.content)
        finally:
            if fresh:
                await _aclose(made)

    async def _check(self, response: Any) -> None:
        if response.status_code != 200:
            await response.aread()
        refused = self._told(response)
        if refused is not None:
            raise refused

    async def close(self) -> None:
        await _aclose(self._take_old() + self._made)


async def _aclose(transports: list[Any]) -> None:
    for transport in transports:
        await transport.aclose()


class _AwaitingStream:
    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes | None:
        data: bytes | None = await anext(self._chunks, None)
        return data

    async def close(self) -> None:
        await self._response.aclose()
