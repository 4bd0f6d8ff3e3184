"""The hops of a watch's chain and their settings: the one vocabulary that every verb shares.

A chain is client -> gateway -> apiservers. A setting stands here once, with its unit in its name or
type; ``None`` means that the hop does not use the setting at all.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """SO_KEEPALIVE with TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT (tcp(7)), in whole seconds."""

    time_s: int
    interval_s: int
    probes: int

    @property
    def detects_after_s(self) -> int:
        """Seconds from the last received segment until an idle connection ends: T + I*P."""
        return self.time_s + self.interval_s * self.probes


@dataclass(frozen=True, slots=True)
class Http2Ping:
    """Envoy's ``connection_keepalive``: a PING each interval (15 % jitter), the connection ends without its ack."""

    interval_ms: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active HTTP health check of each apiserver."""

    path: str
    interval_ms: int
    timeout_ms: int
    unhealthy_threshold: int
    close_connections_on_host_health_failure: bool = True


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server leg: how the gateway talks to the apiservers, and what it notices there."""

    connect_timeout_ms: int = 1000
    retries: int = 2
    tcp_keepalive: TcpKeepalive | None = None
    tcp_user_timeout_ms: int | None = None
    http2_ping: Http2Ping | None = None
    health_check: HealthCheck | None = None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side of a TLS connection."""

    ca: Path
    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the gateway accepts clients; plain text where ``tls`` is None, as the incident's port 80."""

    address: str
    port: int
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class Apiserver:
    """One kube-apiserver instance behind the gateway."""

    name: str
    address: str
    port: int = 6443


@dataclass(frozen=True, slots=True)
class Gateway:
    """The L7 gateway in the middle. ``*_timeout_ms`` of None is off (Envoy: 0 s)."""

    upstream: Upstream = field(default_factory=Upstream)
    stream_idle_timeout_ms: int | None = None
    watch_idle_timeout_ms: int | None = None
    hosts: tuple[str, ...] = ("*",)
    listeners: tuple[Listener, ...] = ()
    apiserver_ca: Path | None = None
    apiserver_sni: str = "kubernetes"


@dataclass(frozen=True, slots=True)
class Client:
    """The watcher's policy, as far as it decides how long the watch can be blind.

    ``deadline_ms`` is a limit of the client's own on a silent watch; client-go has none.
    ``retry_after_reset_ms`` is the longest it waits between a broken stream and its next request, and
    ``requests_until_state`` counts the requests from there until it holds the present state again. After a clean end
    of its stream it goes on from its last resourceVersion where ``resumes_after_clean_end``, after any other end where
    ``resumes_after_reset``, and relists elsewhere. ``max_staleness_ms`` is how old its view becomes at most, whatever
    the others do: a watch without proof of life is replaced by then; None where it asks for no proof.
    """

    kind: str
    retry_after_reset_ms: int
    requests_until_state: int
    resumes_after_clean_end: bool = True
    resumes_after_reset: bool = False
    deadline_ms: int | None = None
    max_staleness_ms: int | None = None


CLIENTS: dict[str, Client] = {
    client.kind: client
    for client in (
        # wait.Backoff of client-go's Reflector: 800 ms, factor 2, jitter 1.0 (client-go/tools/cache)
        Client("client-go", retry_after_reset_ms=1600, requests_until_state=1),
        Client("reflector", retry_after_reset_ms=1600, requests_until_state=1),
        # `kubectl get -w` ends with its stream; the lab's loop starts it again after 500 ms: discovery, then a list
        Client("kubectl", retry_after_reset_ms=1000, requests_until_state=3, resumes_after_clean_end=False),
        # unblink.Informer goes on at once, or after client-go's pause where a young watch brought nothing
        Client(
            "informer",
            retry_after_reset_ms=1600,
            requests_until_state=1,
            resumes_after_reset=True,
            max_staleness_ms=10_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Chain:
    """Client, gateway and apiservers of one watch.

    ``busy_period_ms`` is the longest time between other requests on the watch's server connection, None where the
    watch has the connection to itself. ``event_period_ms`` is the time between two events of the watched resource.
    """

    client: Client
    gateway: Gateway
    apiservers: tuple[Apiserver, ...] = ()
    event_period_ms: int = 500
    busy_period_ms: int | None = None
