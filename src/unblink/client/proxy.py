"""The proxy on the way to a server."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT; ``authorization`` is the value of its Proxy-Authorization header."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
