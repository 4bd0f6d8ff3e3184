"""The official ``kubernetes`` client: its Watch, and its SharedInformer.

The requests go through the user's own API function, bound to a copy of its API object: the copy has a connection pool
of its own, so that a fresh connection can be had, and no retries of its own, which would multiply every deadline.
"""

import copy
import inspect
import json
import random
import threading
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from unblink.client.guard.blocking import Silent, follow
from unblink.client.guard.failures import OURS, PAGE_LIMIT, new_guard, now_ms, refusal, told
from unblink.stream.frames import Frame, FrameType
from unblink.stream.guarding import AskWatch, Kind, Timers, Trouble
from unblink.stream.policy import Backoff


class GuardedWatch:
    """A ``kubernetes.watch.Watch`` whose ``stream`` is guarded; everything else is the Watch's own."""

    def __init__(self, watch: Any, timers: Timers) -> None:
        self._watch = watch
        self._timers = timers
        self._stopping = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def stop(self) -> None:
        """End the stream, also one that another thread is waiting for."""
        self._stopping.set()
        self._watch.stop()

    def stream(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As ``Watch.stream``: ``timeout_seconds`` bounds the whole stream, as it does there. Logs are not guarded."""
        if self._watch.get_watch_argument_name(func) == "follow":
            return iter(self._watch.stream(func, *args, **kwargs))
        self._stopping.clear()
        self._watch._stop = False
        since = kwargs.get("resource_version")
        lifetime_s = kwargs.get("timeout_seconds")
        client = _Official(self._watch, self._stopping, func, args, kwargs)
        guard = new_guard(self._timers, None if since is None else str(since))
        return follow(client, guard, PAGE_LIMIT, lifetime_s)


class _Official:
    def __init__(
        self,
        watch: Any,
        stopping: threading.Event,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._watch = watch
        self._stopping = stopping
        self._return_type = watch.get_return_type(func)
        self._decoded = kwargs.get("deserialize", True)
        self._bookmarks = kwargs.get("allow_watch_bookmarks", False)
        self._func, self._rest = _own(func)
        self._args = args
        self._kwargs = {name: value for name, value in kwargs.items() if name not in (*OURS, "deserialize")}
        self._errors = import_module("urllib3.exceptions")
        self._refused = import_module("kubernetes.client.exceptions").ApiException

    def stopped(self) -> bool:
        return bool(self._watch._stop)

    def watch(self, command: AskWatch, timers: Timers, wait_s: float) -> "_Stream":
        if command.fresh:
            self._renew()
        response = self._ask(
            (timers.connect_ms / 1000, timers.head_ms / 1000),
            watch=True,
            resource_version=command.resource_version,
            timeout_seconds=command.timeout_s,
            allow_watch_bookmarks=True,
        )
        self._watch._resp = response  # where Watch.stop finds the socket to shut down
        return _Stream(response, self._errors)

    def page(self, limit: int, continue_token: str, wait_s: float, *, fresh: bool) -> bytes:
        if fresh:
            self._renew()
        more = {"_continue": continue_token} if continue_token else {}
        response = self._ask((wait_s, wait_s), limit=limit, **more)
        try:
            return bytes(response.data)
        finally:
            response.release_conn()

    def _ask(self, request_timeout: tuple[float, float], **kwargs: Any) -> Any:
        return self._func(
            *self._args, **self._kwargs, **kwargs, _preload_content=False, _request_timeout=request_timeout
        )

    def _renew(self) -> None:
        if self._rest is not None:
            self._rest.pool_manager.clear()

    def event(self, frame: Frame) -> Any:
        text = frame.raw.decode("utf-8", "replace")
        event = self._watch.unmarshal_event(text, self._return_type) if self._decoded else json.loads(text)
        return event if frame.type is not FrameType.BOOKMARK or self._bookmarks else None

    def trouble(self, error: Exception) -> Trouble:
        if isinstance(error, self._refused):
            status, body = getattr(error, "status", 0) or 0, getattr(error, "body", "") or ""
            return refusal(error, status, str(body).encode(), getattr(error, "headers", None))
        if isinstance(error, self._errors.TimeoutError):
            return Trouble(Kind.LATE, error)
        if isinstance(error, self._errors.HTTPError | OSError):
            return Trouble(Kind.FAILED, error)
        raise error

    def exception(self, trouble: Trouble) -> BaseException:
        if trouble.frame is None or trouble.frame.status is None:
            return trouble.error or AssertionError("a failure without its error")
        refused: BaseException = self._refused(status=trouble.frame.status.code, reason=told(trouble.frame))
        return refused

    def sleep(self, wait_s: float) -> None:
        self._stopping.wait(wait_s)

    def close(self) -> None:
        self._watch._resp = None
        self._renew()


class _Stream:
    fixed_ms: int | None = None

    def __init__(self, response: Any, errors: Any) -> None:
        self._response = response
        self._errors = errors
        self._chunks = response.stream(amt=None, decode_content=False)

    def read(self, wait_s: float) -> bytes | None:
        socket = getattr(getattr(self._response, "connection", None), "sock", None)
        if socket is not None:
            socket.settimeout(wait_s)
        try:
            return next(self._chunks, None)
        except self._errors.ReadTimeoutError as error:
            raise Silent from error

    def close(self) -> None:
        self._response.close()
        self._response.release_conn()


def _own(func: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """The same function on a copy of its API object with a pool of its own, and that pool's owner.

    A function that is no method of an API object is called as it is, on whatever connections its client has.
    """
    api = getattr(func, "__self__", None)
    client = getattr(api, "api_client", None)
    if api is None or client is None or not inspect.ismethod(func):
        return func, None
    configuration = copy.copy(client.configuration)
    configuration.retries = False
    own_api, own_client = copy.copy(api), copy.copy(client)
    own_client.rest_client = type(client.rest_client)(configuration)
    own_api.api_client = own_client
    return getattr(own_api, func.__name__), own_client.rest_client


def guard_informer(informer: Any, timers: Timers) -> Any:
    """The same SharedInformer, with every watch of its loop guarded and a pause after every error.

    Its loop stays its own code and is given a guarded ``Watch`` in the place of the global one. Call before ``start``.
    """
    pauses = Backoff(timers.backoff, now_ms, random.random)
    list_func, watch_class = informer._list_func, import_module("kubernetes.watch").Watch

    class PatientWatch(GuardedWatch):
        """Raises what it has to raise after a pause: the informer's loop goes on at once."""

        def __init__(self) -> None:
            super().__init__(watch_class(), timers)

        def stream(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                del func  # the informer's list function with its deadline: the guard sets its own
                yield from super().stream(list_func, *args, **kwargs)
            except Exception:
                informer._stop_event.wait(pauses.pause_ms() / 1000)
                raise

    def list_in_time(**kwargs: Any) -> Any:
        return list_func(**kwargs, _request_timeout=(timers.connect_ms / 1000, timers.page_ms / 1000))

    run = type(informer)._run_loop
    loop = types.FunctionType(run.__code__, {**run.__globals__, "Watch": PatientWatch}, run.__name__)
    informer._run_loop = types.MethodType(loop, informer)
    informer._list_func = list_in_time
    return informer
