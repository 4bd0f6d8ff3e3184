"""The chain model as an Envoy bootstrap.

Field names and defaults: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api. Where Envoy and Istio
differ, the values are those that Istio's gateway sends.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec

from unblink.chain import Gateway, HealthCheck, Http2Ping, Listener, TcpKeepalive, Upstream

APISERVER = "apiserver"
APISERVER_UPGRADE = "apiserver-upgrade"
CLUSTERS = (APISERVER, APISERVER_UPGRADE)

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_MANAGER = f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_EXTENSIONS}filters.http.router.v3.Router"
_FILE_LOG = f"{_EXTENSIONS}access_loggers.file.v3.FileAccessLog"
_DOWNSTREAM_TLS = f"{_EXTENSIONS}transport_sockets.tls.v3.DownstreamTlsContext"
_UPSTREAM_TLS = f"{_EXTENSIONS}transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions"
_PREVIOUS_HOSTS = f"{_EXTENSIONS}retry.host.previous_hosts.v3.PreviousHostsPredicate"

_UPGRADES = ("websocket", "spdy/3.1")
_NO_LIMIT = 4294967295

# What kube-apiserver allows on one connection. Left to itself Envoy takes more for as long as a new connection has
# not brought the server's SETTINGS, and what a burst of watches has over 100 is then refused.
_STREAMS_PER_CONNECTION = 100

_TCP_USER_TIMEOUT = {"level": 6, "name": 18}

# Streams that stay open are logged when they start, then once a second, then when they end.
_OPEN_STREAM_PERIOD_MS = 1000

# What a line of the access log holds; no request header that can carry a secret. `access_log.Row` reads it.
_ACCESS_LOG_FIELDS = {
    "start_s": "%START_TIME(%s.%6f)%",
    "type": "%ACCESS_LOG_TYPE%",
    "stream": "%STREAM_ID%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "user_agent": "%REQ(USER-AGENT)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "listener": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "client_connection": "%CONNECTION_ID%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "server": "%UPSTREAM_HOST%",
    "server_leg": "%UPSTREAM_LOCAL_ADDRESS%",
    "server_connection": "%UPSTREAM_CONNECTION_ID%",
    "server_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

_Json = dict[str, object]


def bootstrap(
    gateway: Gateway, *, endpoints: Path, admin: str, access_log: Path, key_log: Path | None, node_id: str
) -> _Json:
    """The bootstrap of one Envoy process, as JSON values.

    ``endpoints`` is the folder that `endpoints.write_endpoints` fills, one file for each of `CLUSTERS`; Envoy does
    not start before they are there.
    ``admin`` is the path of a Unix socket, at most 107 bytes; a relative one is under Envoy's working directory.
    ``key_log`` takes the TLS secrets of both legs in NSS key log format, for captures of a lab.

    Raises ValueError when the gateway has no ``apiserver_ca`` (an unverified server leg is not offered), no
    listener or no host, when a value is outside what Envoy or the kernel takes, or when ``admin`` is too long.
    """
    _check(gateway, admin)
    clusters = [
        _cluster(gateway, APISERVER, endpoints, key_log, http2=True),
        _cluster(gateway, APISERVER_UPGRADE, endpoints, key_log, http2=False),
    ]
    return {
        "node": {"id": node_id, "cluster": "unblink"},
        "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                _listener(gateway, number, listener, access_log, key_log)
                for number, listener in enumerate(gateway.listeners)
            ],
            "clusters": clusters,
        },
    }


def write(path: Path, config: Mapping[str, object]) -> None:
    """Write ``config`` as JSON that a person can read."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")


def _check(gateway: Gateway, admin: str) -> None:
    if gateway.apiserver_ca is None:
        raise ValueError("gateway.apiserver_ca is not set: Envoy would not verify the apiservers")
    if not gateway.listeners:
        raise ValueError("gateway.listeners is empty")
    if not gateway.hosts or "" in gateway.hosts or len(set(gateway.hosts)) < len(gateway.hosts):
        raise ValueError(f"gateway.hosts is empty, or has an empty name or one twice: {gateway.hosts}")
    if len(admin.encode()) > 107:
        raise ValueError(f"the path of a Unix socket has at most 107 bytes (unix(7)): {admin}")
    upstream = gateway.upstream
    for settings in (gateway, upstream, upstream.tcp_keepalive, upstream.http2_ping, upstream.health_check):
        for name, value in asdict(settings).items() if settings else ():
            lowest = 0 if name == "retries" else 1
            if type(value) is int and not lowest <= value < 2**31:
                raise ValueError(f"{type(settings).__name__}.{name} is {value}: at least {lowest}, less than 2**31")
    keepalive = upstream.tcp_keepalive
    if keepalive and (max(keepalive.time_s, keepalive.interval_s) > 32767 or keepalive.probes > 127):
        raise ValueError(f"{keepalive} is over what the kernel takes: 32767 s, 32767 s, 127 probes (linux/tcp.h)")


def _listener(gateway: Gateway, number: int, listener: Listener, access_log: Path, key_log: Path | None) -> _Json:
    chain: _Json = {"filters": [_typed_as("manager", _MANAGER, _connection_manager(gateway, access_log))]}
    if listener.tls is not None:
        tls = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(listener.tls.certificate)},
                    "private_key": {"filename": str(listener.tls.private_key)},
                }
            ],
            **_key_log(key_log),
        }
        chain["transport_socket"] = _typed_as("tls", _DOWNSTREAM_TLS, {"common_tls_context": tls})
    return {
        "name": f"client-leg-{number}",
        "address": _address(listener.address, listener.port),
        # With SO_REUSEPORT a second Envoy would share a port that is in use, instead of telling that it is.
        "enable_reuse_port": False,
        "filter_chains": [chain],
    }


def _connection_manager(gateway: Gateway, access_log: Path) -> _Json:
    return {
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "use_remote_address": True,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": _duration(gateway.stream_idle_timeout_ms or 0),
        "upgrade_configs": [{"upgrade_type": upgrade} for upgrade in _UPGRADES],
        "access_log": [
            _typed_as("file", _FILE_LOG, {"path": str(access_log), "log_format": {"json_format": _ACCESS_LOG_FIELDS}})
        ],
        "access_log_options": {
            "flush_access_log_on_new_request": True,
            "access_log_flush_interval": _duration(_OPEN_STREAM_PERIOD_MS),
        },
        "http_filters": [_typed_as("router", _ROUTER, {"suppress_envoy_headers": True})],
        "route_config": {
            "name": "hosts",
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [{"name": "apiservers", "domains": list(gateway.hosts), "routes": _routes(gateway)}],
        },
    }


def _routes(gateway: Gateway) -> list[_Json]:
    """First match wins: upgrades (HTTP/1.1 upstream), then watches, then the rest."""
    # kube-apiserver has no extended CONNECT (RFC 8441), so an upgrade needs HTTP/1.1 to it.
    upgrade = "(?i)(" + "|".join(re.escape(name) for name in _UPGRADES) + ")"
    # client-go sends watch=true, a person watch=1, and the official Python client watch=True.
    watch: _Json = {"name": "watch", "string_match": {"safe_regex": {"regex": "(?i)(true|1)"}}}
    common: _Json = {"timeout": "0s", **_retry_policy(gateway.upstream)}
    watch_idle: _Json = (
        {} if gateway.watch_idle_timeout_ms is None else {"idle_timeout": _duration(gateway.watch_idle_timeout_ms)}
    )
    return [
        {
            "name": "upgrade",
            "match": {
                "prefix": "/",
                "headers": [{"name": "upgrade", "string_match": {"safe_regex": {"regex": upgrade}}}],
            },
            "route": {"cluster": APISERVER_UPGRADE, **common},
        },
        {
            "name": "watch",
            "match": {"prefix": "/", "query_parameters": [watch]},
            "route": {"cluster": APISERVER, **common, **watch_idle},
        },
        {"name": "rest", "match": {"prefix": "/"}, "route": {"cluster": APISERVER, **common}},
    ]


def _retry_policy(upstream: Upstream) -> _Json:
    """Istio's default policy, https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRetry.

    But for how often a host that was tried is passed over. A dead host has the fewest requests, so LEAST_REQUEST takes
    it for three of four choices between two: with Istio's 5, every sixth retry goes to it again.
    """
    if upstream.retries == 0:
        return {}
    return {
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
            "num_retries": upstream.retries,
            "retry_host_predicate": [_typed_as("previous_hosts", _PREVIOUS_HOSTS, {})],
            "host_selection_retry_max_attempts": 100,
        }
    }


def _cluster(gateway: Gateway, name: str, endpoints: Path, key_log: Path | None, *, http2: bool) -> _Json:
    upstream = gateway.upstream
    tls = {
        "sni": gateway.apiserver_sni,
        "common_tls_context": {
            "alpn_protocols": ["h2" if http2 else "http/1.1"],
            "validation_context": {
                "trusted_ca": {"filename": str(gateway.apiserver_ca)},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": gateway.apiserver_sni}}],
            },
            **_key_log(key_log),
        },
    }
    http2_options = {"max_concurrent_streams": _STREAMS_PER_CONNECTION, **_ping(upstream.http2_ping)}
    protocol = {"http2_protocol_options": http2_options} if http2 else {"http_protocol_options": {}}
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _NO_LIMIT)
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(endpoints / f"{name}.json"),
                    "watched_directory": {"path": str(endpoints)},
                },
            },
        },
        "lb_policy": "LEAST_REQUEST",
        # Off, as Istio sets it together with outlierDetection: hosts known to be unhealthy get no request, and
        # with none healthy the answer is 503 at once. Envoy's own default (50 %) would send to all of them.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "connect_timeout": _duration(upstream.connect_timeout_ms),
        "circuit_breakers": {"thresholds": [thresholds]},
        "ignore_health_on_host_removal": True,
        "transport_socket": _typed_as("tls", _UPSTREAM_TLS, tls),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": protocol,
            }
        },
        **_tcp_keepalive(upstream.tcp_keepalive),
        **_tcp_user_timeout(upstream.tcp_user_timeout_ms),
        **_health_check(upstream.health_check, gateway.apiserver_sni, http2=http2),
    }


def _ping(ping: Http2Ping | None) -> _Json:
    if ping is None:
        return {}
    keepalive = {
        "interval": _duration(ping.interval_ms),
        "timeout": _duration(ping.timeout_ms),
        "interval_jitter": {"value": 15},
    }
    return {"connection_keepalive": keepalive}


def _tcp_keepalive(keepalive: TcpKeepalive | None) -> _Json:
    if keepalive is None:
        return {}
    values = {
        "keepalive_time": keepalive.time_s,
        "keepalive_interval": keepalive.interval_s,
        "keepalive_probes": keepalive.probes,
    }
    return {"upstream_connection_options": {"tcp_keepalive": values}}


def _tcp_user_timeout(timeout_ms: int | None) -> _Json:
    """Envoy has no field of its own for TCP_USER_TIMEOUT (tcp(7)); a raw socket option needs a bind config."""
    if timeout_ms is None:
        return {}
    option = {**_TCP_USER_TIMEOUT, "int_value": timeout_ms, "state": "STATE_PREBIND"}
    return {"upstream_bind_config": {"socket_options": [option]}}


def _health_check(check: HealthCheck | None, host: str, *, http2: bool) -> _Json:
    if check is None:
        return {}
    return {
        "close_connections_on_host_health_failure": check.close_connections_on_host_health_failure,
        "health_checks": [
            {
                "timeout": _duration(check.timeout_ms),
                "interval": _duration(check.interval_ms),
                # Unset it is 60 s for as long as the cluster has had no request.
                "no_traffic_interval": _duration(check.interval_ms),
                "unhealthy_threshold": check.unhealthy_threshold,
                "healthy_threshold": 1,
                "http_health_check": {
                    "host": host,
                    "path": check.path,
                    "codec_client_type": "HTTP2" if http2 else "HTTP1",
                },
            }
        ],
    }


def _address(address: str, port: int) -> _Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _duration(milliseconds: int) -> str:
    """A google.protobuf.Duration in its JSON form."""
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}s"


def _key_log(path: Path | None) -> _Json:
    return {} if path is None else {"key_log": {"path": str(path)}}


def _typed_as(name: str, type_name: str, config: Mapping[str, object]) -> _Json:
    return {"name": name, "typed_config": {"@type": type_name, **config}}
