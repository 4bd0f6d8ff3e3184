"""Who ended a stream. The party decides the cost: a clean end is a re-watch, a reset is a relist."""

from dataclasses import dataclass
from enum import StrEnum


class EndedBy(StrEnum):
    """The party that ended a request or its stream."""

    SERVER_CLOSED = "server-closed"
    """END_STREAM: the server finished, as it does after timeoutSeconds."""
    STREAM_RESET = "stream-reset"
    """RST_STREAM: the next hop gave the stream up and kept the connection (Envoy does so when its upstream died)."""
    CONNECTION_LOST = "connection-lost"
    """FIN, RST or a time-out of our own connection, or none could be made."""
    DEADLINE = "deadline"
    """A limit of our own."""
    ERROR_EVENT = "error-event"
    """The stream itself said ERROR, or said what cannot be understood."""
    REFUSED = "refused"
    """Answered with a status other than 200."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One ending. ``code`` is the HTTP status of a refusal or an ERROR event, or the HTTP/2 error code of a reset."""

    by: EndedBy
    detail: str
    code: int | None = None
