"""Which proxy leads to a server, by the rules that kubectl follows: those of Go's golang.org/x/net/http/httpproxy."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from unblink.client.credentials import KubeconfigError, basic

DEFAULT_PORTS = {"http": 80, "https": 443}
VARIABLES = {"https": ("HTTPS_PROXY", "https_proxy"), "http": ("HTTP_PROXY", "http_proxy")}

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, reached over TLS if ``scheme`` is https. ``authorization`` is its Proxy-Authorization value."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def split(url: str) -> SplitResult | None:
    """A URL's parts, with a host and a good port; None for anything else: urllib's errors would quote a password."""
    if not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def parse(url: str, place: str) -> Proxy:
    """A proxy's URL; ``host:port`` alone is one of http. ``place`` names it in an error.

    :raises KubeconfigError: if it is none, or one that is not supported.
    """
    parts = split(url if "://" in url else f"http://{url}")
    if parts is not None and parts.scheme.startswith("socks"):
        raise KubeconfigError(f"{place}: a {parts.scheme} proxy is not supported; give one of http or https")
    if parts is None or parts.hostname is None or parts.scheme not in DEFAULT_PORTS:
        raise KubeconfigError(f"{place}: expected a URL such as http://proxy.example:3128")
    named = parts.username is not None or parts.password is not None
    return Proxy(
        parts.scheme,
        parts.hostname,
        parts.port or DEFAULT_PORTS[parts.scheme],
        basic(unquote(parts.username or ""), unquote(parts.password or "")) if named else None,
    )


def choose(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for a server, None to connect to it directly.

    ``HTTPS_PROXY`` or ``HTTP_PROXY`` by the server's scheme, then ``NO_PROXY``; capitals before small letters.

    :raises KubeconfigError: if the variable holds no proxy; and for HTTP_PROXY in a CGI program, where the client
        sets it (https://golang.org/s/cgihttpproxy).
    """
    variable = next((name for name in VARIABLES[scheme] if environment.get(name)), None)
    if variable is None or not _wants_proxy(_ascii(host), port, _first(environment, "NO_PROXY", "no_proxy")):
        return None
    if scheme == "http" and environment.get("REQUEST_METHOD"):
        raise KubeconfigError(f"{variable}: not believed in a CGI program; give the cluster's proxy-url instead")
    return parse(environment[variable], variable)


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _wants_proxy(host: str, port: int, no_proxy: str) -> bool:
    ip = _ip(host)
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return False
    entries = [entry for part in no_proxy.split(",") if (entry := part.strip().lower())]
    return "*" not in entries and not any(_matches(entry, host, port, ip) for entry in entries)


def _matches(entry: str, host: str, port: int, ip: _Ip | None) -> bool:
    """Whether an entry of NO_PROXY names the host: a network, an address or a domain; the latter may have a port."""
    if (network := _network(entry)) is not None:
        return ip is not None and ip in network
    name, entry_port = _host_and_port(entry)
    if not name or (entry_port and entry_port != str(port)):
        return False
    if (entry_ip := _ip(name)) is not None:
        return entry_ip == ip
    name = _ascii(name.removeprefix("*") if name.startswith("*.") else name)
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)


def _host_and_port(entry: str) -> tuple[str, str]:
    """As Go's net.SplitHostPort does; an address of IPv6 without brackets has no port."""
    name, colon, port = entry.rpartition(":")
    if not colon or port.endswith("]"):
        return entry, ""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1], port
    return (entry, "") if ":" in name else (name, port)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if not entry.rpartition("/")[2].isdecimal() or "/" not in entry:
        return None
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _ip(text: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _ascii(name: str) -> str:
    name = name.lower().strip()
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name
