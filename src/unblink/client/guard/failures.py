"""What the guarded clients have in common: refusals by HTTP status, pages of lists, the events' frames."""

import random
import time
from collections.abc import Mapping
from typing import Any

from unblink.stream.frames import Frame
from unblink.stream.guarding import Guard, Kind, Timers, Trouble, kind_of
from unblink.stream.known import Known, with_kind
from unblink.stream.objects import Item, Page, decode_page, decode_status

PAGE_LIMIT = 500
"""As client-go's pager (tools/pager)."""


OURS = (
    "watch",
    "resource_version",
    "resource_version_match",
    "send_initial_events",
    "timeout_seconds",
    "allow_watch_bookmarks",
    "limit",
    "_continue",
    "_preload_content",
    "_request_timeout",
)
"""Arguments of a generated API function that the guard sets itself."""


def now_ms() -> int:
    """The monotonic clock."""
    return time.monotonic_ns() // 1_000_000


def new_guard(timers: Timers, since: str | None, known: Known | None = None) -> Guard:
    """A guard on the real clock."""
    return Guard(timers, now_ms, random.random, since, known)


def refusal(error: BaseException, status: int, body: bytes, headers: Mapping[str, Any] | None) -> Trouble:
    """An answer with another status than 200, which the client tells by ``error``."""
    retry_after_s = _retry_after_s(headers or {})
    told = decode_status(status, body)
    return Trouble(kind_of(told, retry_after_s), error, None, retry_after_s or told.retry_after_s)


def _retry_after_s(headers: Mapping[str, Any]) -> float | None:
    text = str(headers.get("Retry-After") or headers.get("retry-after") or "")
    return float(text) if text.isascii() and text.isdigit() else None


def page(body: bytes) -> Page:
    """One page of a list, its items with their kind.

    :raises ValueError: if it is not a list with a resourceVersion.
    """
    decoded = decode_page(body)
    return Page(decoded.resource_version, decoded.continue_token, with_kind(body, decoded.items))


class Listing:
    """The pages of one list, as they come."""

    def __init__(self) -> None:
        self.items: tuple[Item, ...] = ()
        self.resource_version = ""
        self.continue_token = ""

    def take(self, body: bytes) -> bool:
        """Take a page; true if it was the last.

        :raises ValueError: if it is not a list with a resourceVersion.
        """
        one = page(body)
        self.items += one.items
        self.resource_version, self.continue_token = one.resource_version, one.continue_token
        return not one.continue_token


def told(frame: Frame) -> str:
    """An ERROR event in words."""
    status = frame.status
    return f"{status.code} {status.reason}: {status.message}" if status else "ERROR event"


NOT_UNDERSTOOD = Trouble(Kind.FAILED)
"""An answer that is no list."""
