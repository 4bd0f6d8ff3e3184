"""kopf: its settings for the bound, and its watch requests guarded where the settings fall short.

By its settings kopf leaves a watch that is silent for ``inactivity_timeout``. What they cannot do: bookmarks whose
resourceVersion stands still count as activity, a watch that is closed at once is asked again at once, and an ERROR
event other than 410, an HTTP 410 or a 5xx that outlasts the retries end the operator (kopf 1.45,
``clients/watching.py``).
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Sized
from contextlib import aclosing
from importlib import import_module
from typing import Any

from unblink.client.guard.awaiting import follow
from unblink.client.guard.failures import PAGE_LIMIT, new_guard, now_ms, refusal
from unblink.stream.frames import Frame
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble
from unblink.stream.policy import Backoff

_MARK = "_unblink_guard"

logger = logging.getLogger(__name__)


def guard_settings(settings: Any, timers: Timers) -> Any:
    """The same settings, with the bound in them; watches of an operator with these settings are guarded from then on.

    Call it in a handler of ``@kopf.on.startup``. The list that kopf begins with stays kopf's own.
    """
    settings.watching.server_timeout = timers.timeout_max_s
    settings.watching.inactivity_timeout = timers.silence_ms / 1000
    settings.watching.connect_timeout = timers.connect_ms / 1000
    settings.watching.reconnect_backoff = max(settings.watching.reconnect_backoff, timers.backoff.base_ms / 1000)
    setattr(settings, _MARK, (timers, Backoff(timers.backoff, now_ms, random.random)))
    _install()
    return settings


def _install() -> None:
    """Put ``watch_objs`` into kopf's module, once; operators with other settings go the way they went before."""
    watching: Any = import_module("kopf._cogs.clients.watching")
    if hasattr(watching.watch_objs, _MARK):
        return
    original = watching.watch_objs

    async def watch_objs(
        *, settings: Any, resource: Any, namespace: Any, operator_pause_waiter: asyncio.Future[Any], since: Any = None
    ) -> AsyncGenerator[Any]:
        guarded = getattr(settings, _MARK, None)
        # Without a version it is the stream of all there is (initial_streaming), which kopf takes for the list.
        if guarded is None or since is None:
            events = original(
                settings=settings,
                resource=resource,
                namespace=namespace,
                since=since,
                operator_pause_waiter=operator_pause_waiter,
            )
        else:
            client = _Kopf(settings, resource, namespace)
            timers, pauses = guarded
            events = _follow(client, timers, pauses, since, operator_pause_waiter)
        async with aclosing(events):
            async for event in events:
                yield event

    setattr(watch_objs, _MARK, True)
    watching.watch_objs = watch_objs


async def _follow(
    client: "_Kopf", timers: Timers, pauses: Backoff, since: str, stopping: asyncio.Future[Any]
) -> AsyncGenerator[Any]:
    async with aclosing(follow(client, new_guard(timers, since), PAGE_LIMIT, stopping)) as events:
        try:
            async for event in events:
                yield event
        except _ErrorEvent as error:
            # kopf lists after a 410 and ends the operator after any other; a list in vain is not repeated at once.
            await asyncio.wait((stopping,), timeout=pauses.pause_ms() / 1000)
            yield error.event


class _ErrorEvent(Exception):
    """kopf is to see this ERROR event."""

    def __init__(self, event: Any) -> None:
        super().__init__(str(event))
        self.event = event


class _Kopf:
    def __init__(self, settings: Any, resource: Any, namespace: Any) -> None:
        self._settings = settings
        self._resource = resource
        self._namespace = namespace
        self._api = import_module("kopf._cogs.clients.api")
        self._refused = import_module("kopf._cogs.clients.errors").APIError
        self._aiohttp = import_module("aiohttp")
        self._forbidden = 0

    def _selected(self) -> dict[str, str]:
        watching = self._settings.watching
        labels = ",".join(sorted(set(watching.label_selectors.collect(self._resource))))
        fields = ",".join(sorted(set(watching.field_selectors.collect(self._resource))))
        shard, *_ = watching.shard_selectors.collect(self._resource) or [""]
        asked = {"labelSelector": labels, "fieldSelector": fields, "shardSelector": shard}
        return {name: value for name, value in asked.items() if value}

    async def _ask(self, params: dict[str, str]) -> Any:
        return await self._api.request(
            method="get",
            url=self._resource.get_url(namespace=self._namespace, params=self._selected() | params),
            settings=self._settings,
            timeout=self._aiohttp.ClientTimeout(total=None),
            backoffs=(),
            logger=logger,
        )

    async def watch(self, command: AskWatch) -> "_Stream":
        response = await self._ask(
            {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": command.resource_version,
                "timeoutSeconds": str(command.timeout_s),
            }
        )
        self._forbidden = 0
        return _Stream(response)

    async def page(self, limit: int, continue_token: str, *, fresh: bool) -> bytes:
        async with await self._ask({"limit": str(limit)}) as response:
            return bytes(await response.read())

    def event(self, frame: Frame) -> Any:
        return json.loads(frame.raw)

    def trouble(self, error: Exception) -> Trouble:
        if isinstance(error, self._refused):
            payload = json.dumps(getattr(error, "_payload", None) or {}).encode()
            found = refusal(error, getattr(error, "status", 0), payload, getattr(error, "headers", None))
            return self._retried(found) if found.kind is Kind.FATAL else found
        if isinstance(error, TimeoutError):
            return Trouble(Kind.LATE, error)
        if isinstance(error, self._aiohttp.ClientError | OSError):
            return Trouble(Kind.FAILED, error)
        raise error

    def _retried(self, fatal: Trouble) -> Trouble:
        """kopf retries a 403 as often as any error, because clusters answer so while they are upgraded."""
        backoffs = self._settings.networking.error_backoffs
        self._forbidden += getattr(fatal.error, "status", 0) == 403
        patience = len(backoffs) if isinstance(backoffs, Sized) else 0
        return Trouble(Kind.FAILED, fatal.error) if 0 < self._forbidden <= patience else fatal

    def exception(self, trouble: Trouble) -> BaseException:
        if trouble.frame is not None:
            return _ErrorEvent(json.loads(trouble.frame.raw))
        if trouble.kind is Kind.EXPIRED:
            return _ErrorEvent({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        return trouble.error or AssertionError("a failure without its error")

    async def close(self) -> None:
        """The session is kopf's."""


class _Stream:
    def __init__(self, response: Any) -> None:
        self._response = response

    async def read(self) -> bytes | None:
        return await self._response.content.readany() or None

    async def close(self) -> None:
        self._response.close()
