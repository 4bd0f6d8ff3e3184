"""What an embedded apiserver and its store are told at start: one JSON file each.

Paths in a configuration are read relative to the working directory, as the command line would.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec


class ConfigError(ValueError):
    """The configuration file cannot be read, is not JSON, or does not fit; the text names file and field."""


class CustomResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One resource served as a CustomResourceDefinition would be: stored as it comes, merge patches only."""

    group: str
    version: str
    plural: str
    kind: str
    singular: str = ""  # empty: the kind in lower case
    short_names: tuple[str, ...] = ()
    namespaced: bool = True


class ApiserverConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance. ``token_file`` is kube-apiserver's --token-auth-file: ``token,user,uid,"group1,group2"``."""

    name: str
    address: str
    port: int = 6443
    ca: str  # also the CA that client certificates are checked against
    certificate: str
    private_key: str
    token_file: str | None = None
    store_address: str
    store_port: int = 2379
    store_timeout_ms: int = 2_000  # an unanswered store request fails after this
    shutdown_delay_ms: int = 0  # between SIGTERM (readyz fails) and GOAWAY
    watch_grace_ms: int = 60_000  # between GOAWAY and the clean end of what is still open
    bookmark_period_ms: int = 60_000
    custom_resources: tuple[CustomResource, ...] = ()
    exec_enabled: bool = True


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The store process. ``history`` events are kept before the oldest are compacted away."""

    address: str
    port: int = 2379
    history: int = 10_000


@dataclass
class Health:
    """What the transport and the API tell each other about this process."""

    readyz_failing: bool = False  # set by the transport on SIGTERM; /readyz then fails, all else is served


@dataclass(frozen=True)
class User:
    """Who a request comes from, as authentication found it; ``scope["state"]["user"]``, None for anonymous."""

    name: str
    groups: tuple[str, ...] = field(default=())


_C = TypeVar("_C", ApiserverConfig, StoreConfig)


def load(path: Path, kind: type[_C]) -> _C:
    """Read ``path`` as ``kind``.

    :raises ConfigError: unreadable, not JSON, a field missing, unknown or of the wrong type.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
