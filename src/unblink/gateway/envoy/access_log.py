"""Envoy's access log as `config` sets it up: typed rows, the table of open watches, and who ended a stream."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One line. None is what Envoy does not know (yet); addresses are ``ip:port``, bytes those of bodies.

    ``type`` is DownstreamStart, DownstreamPeriodic (once a second while the stream is open) or DownstreamEnd.
    """

    start_s: float
    """Unix time, seconds."""
    type: str
    stream: str
    """The same on every line of one stream."""
    method: str | None
    path: str | None
    """With its query."""
    protocol: str | None
    user_agent: str | None
    status: int
    """0 before the response."""
    flags: str
    """`%RESPONSE_FLAGS%`: short names, by comma; ``-`` is none."""
    details: str | None
    bytes_received: int
    bytes_sent: int
    duration_ms: int
    client: str | None
    listener: str | None
    client_connection: int
    """Envoy's number of the connection; 0 is none."""
    cluster: str | None
    server: str | None
    server_leg: str | None
    """The gateway's own address on the server leg."""
    server_connection: int
    server_failure: str | None

    @property
    def server_leg_port(self) -> int | None:
        """The gateway's local port on the server leg, as a socket table or a capture shows it."""
        return None if self.server_leg is None else int(self.server_leg.rpartition(":")[2])

    @property
    def is_watch(self) -> bool:
        """Whether the request is a watch, by the route's own rule."""
        if self.path is None:
            return False
        return parse_qs(urlsplit(self.path).query).get("watch", [""])[0].lower() in {"true", "1"}


_decode = msgspec.json.Decoder(Row, strict=False).decode


def rows(lines: Iterable[bytes]) -> Iterable[Row]:
    """The rows of ``lines``; a last line that is still being written (no newline) is left out.

    Raises msgspec.DecodeError for a line that is not of this access log.
    """
    return (_decode(line) for line in lines if line.endswith(b"\n"))


def read(path: Path) -> list[Row]:
    """All rows of the file. Raises OSError, and as `rows`."""
    with path.open("rb") as file:
        return list(rows(file))


def open_watches(log: Iterable[Row]) -> list[Row]:
    """The watches that have not ended, each by its latest row, oldest watch first.

    A row's ``duration_ms`` is the watch's age when the row was written, up to a second ago.
    """
    latest: dict[str, Row] = {}
    for row in log:
        if row.type == "DownstreamEnd":
            latest.pop(row.stream, None)
        elif row.is_watch:
            latest[row.stream] = row
    return sorted(latest.values(), key=lambda row: row.start_s)


# Who ended a stream, by Envoy's response flag; the first flag of the table that a row has decides.
# https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage, %RESPONSE_FLAGS%
# UC says that the connection under the stream ended, not why: the server's FIN or RST, an unanswered PING, TCP's
# keepalive or user timeout all look alike here (measured with 1.40). What Envoy's stats add is
# `cluster.apiserver.http2.keepalive_timeout`, which counts the PINGs.
ENDINGS = {
    "SI": "gateway-stream-idle-timeout",
    "UT": "gateway-request-timeout",
    "UMSDR": "gateway-max-stream-duration",
    "DT": "gateway-max-connection-duration",
    "OM": "gateway-overload",
    "UO": "gateway-circuit-breaker",
    "RL": "gateway-rate-limit",
    "NR": "gateway-no-route",
    "NC": "gateway-no-cluster",
    "UH": "gateway-no-healthy-server",
    "DF": "gateway-no-server-name",
    "UF": "server-connect-failed",
    "UC": "server-connection-lost",
    "UR": "server-reset",
    "UPE": "server-protocol-error",
    "LR": "gateway-reset",
    "URX": "gateway-retries-exhausted",
    "DPE": "client-protocol-error",
    "IH": "client-invalid-headers",
    "DR": "client-reset",
    "DC": "client-closed",
}

# Without a flag the details decide.
# https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_conn_man/response_code_details
_DETAILS = {
    "via_upstream": "server-closed",
    "downstream_remote_disconnect": "client-closed",
    "downstream_remote_reset": "client-reset",
    "downstream_local_disconnect": "gateway-closed",
}


def ending(row: Row) -> str | None:
    """Who ended the stream and how, as a code ``client-...``, ``gateway-...`` or ``server-...``; None if it is open.

    ``server-closed`` is the clean end. ``unknown`` is a flag or detail that stands in neither table.
    """
    if row.type != "DownstreamEnd":
        return None
    flags = set(row.flags.split(","))
    for flag, code in ENDINGS.items():
        if flag in flags:
            return code
    return _DETAILS.get(row.details or "", "unknown")
