"""Reading a kubeconfig file: where the server is, whom to trust, and who we are.

Fields: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/. As client-go does, the certificate authority
given there is the only one trusted, and relative paths start at the file's folder.
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from unblink.client.proxy import Proxy

UNSUPPORTED_USER_FIELDS = ("exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups")


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used: names the file, the place in it and what would be right."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """PEM texts of a client's certificate chain and key."""

    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """One server and the identity to use there.

    ``host`` and ``port`` are where to connect; ``tls_server_name`` is the name that the certificate must have.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""
    ca: bytes | None = None
    tls_server_name: str | None = None
    certificate: ClientCertificate | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """``host:port`` as a request names it, without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"https": 443, "http": 80}[self.scheme] else f"{host}:{self.port}"

    async def refresh(self) -> None:
        """Bring credentials that a program issues up to date; to be awaited before they are used."""

    def bearer_token(self) -> str | None:
        """The token to send now; a token file is read each time, because such files are rotated.

        :raises KubeconfigError: if the token file cannot be read or is empty.
        """
        if self.token_file is None:
            return self.token
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KubeconfigError(f"{self.token_file}: cannot read the token: {_reason(error)}") from None
        if not token:
            raise KubeconfigError(f"{self.token_file}: the token file is empty")
        return token

    def tls(self) -> ssl.SSLContext | None:
        """TLS 1.2 or later that trusts ``ca`` alone (the system's authorities where None); None for plain HTTP.

        :raises KubeconfigError: if a certificate or key is not usable.
        """
        if self.scheme == "http":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=self.ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError):
            raise KubeconfigError("certificate-authority: expected PEM certificates") from None
        if self.certificate is not None:
            _load_certificate(context, self.certificate)
        return context


def _load_certificate(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    # ssl takes certificates of its own side from files alone; this one is readable by us only and lives for a moment.
    descriptor, name = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.private_key + b"\n" + certificate.certificate)
        context.load_cert_chain(name)
    except ssl.SSLError:
        raise KubeconfigError("client-certificate and client-key: expected a PEM certificate and its own key") from None
    finally:
        Path(name).unlink()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


class _Place:
    """A mapping of the file, with its name for error texts."""

    def __init__(self, file: Path, name: str, content: object) -> None:
        self.file = file
        self.name = name
        if not isinstance(content, dict):
            raise self.error(f"expected a mapping, found {type(content).__name__}")
        self.content: Mapping[str, Any] = content

    def error(self, text: str) -> KubeconfigError:
        return KubeconfigError(f"{self.file}: {self.name}: {text}")

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(f"{key}: expected text, found {type(value).__name__}")
        return value

    def named(self, list_key: str, name: str, item_key: str) -> "_Place":
        """The entry of this name in a list of {name, item}."""
        entries = self.content.get(list_key) or []
        if not isinstance(entries, list):
            raise self.error(f"{list_key}: expected a list, found {type(entries).__name__}")
        names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
        for entry in entries:
            if isinstance(entry, dict) and entry.get("name") == name:
                return _Place(self.file, f"{list_key}[{name}].{item_key}", entry.get(item_key))
        raise self.error(f"{list_key} has no {name!r}; it has: {', '.join(names) or 'nothing'}")

    def path(self, key: str) -> Path | None:
        value = self.text(key)
        return None if value is None else self.file.parent / value

    def data_or_file(self, key: str) -> bytes | None:
        """``key-data`` (base64) wins over the file that ``key`` names, as in client-go."""
        data, path = self.text(f"{key}-data"), self.path(key)
        if data is not None:
            try:
                return base64.b64decode("".join(data.split()), validate=True)
            except binascii.Error:
                raise self.error(f"{key}-data: expected base64") from None
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.error(f"{key}: cannot read {path}: {_reason(error)}") from None


def load(file: Path, context: str | None = None) -> Access:
    """Read a kubeconfig's context, by default its current one.

    :raises KubeconfigError: if the file cannot be read or used.
    """
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise KubeconfigError(f"{file}: cannot read it: {_reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise KubeconfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    root = _Place(file, "kubeconfig", content)
    name = context or root.text("current-context")
    if name is None:
        raise root.error("no current-context; name one of its contexts")
    chosen = root.named("contexts", name, "context")
    cluster_name = chosen.text("cluster")
    if cluster_name is None:
        raise chosen.error("no cluster; expected the name of one of clusters")
    cluster = root.named("clusters", cluster_name, "cluster")
    user_name = chosen.text("user")
    user = root.named("users", user_name, "user") if user_name else _Place(file, "user", {})
    return _access(cluster, user)


def _access(cluster: _Place, user: _Place) -> Access:
    server = cluster.text("server")
    if server is None:
        raise cluster.error("no server; expected a URL such as https://192.0.2.1:6443")
    try:
        url = urlsplit(server)
        port = url.port
    except ValueError as error:
        raise cluster.error(f"server: {error}") from None
    if url.scheme not in ("https", "http") or not url.hostname or url.username or url.query:
        raise cluster.error("server: expected a URL such as https://192.0.2.1:6443")
    if cluster.content.get("insecure-skip-tls-verify"):
        raise cluster.error(
            "insecure-skip-tls-verify is refused; give certificate-authority or tls-server-name instead"
        )
    if cluster.text("proxy-url"):
        raise cluster.error("proxy-url is not supported")
    for key in UNSUPPORTED_USER_FIELDS:
        if user.content.get(key):
            raise user.error(f"{key} is not supported; give token, tokenFile or client-certificate and client-key")
    certificate, key_pem = user.data_or_file("client-certificate"), user.data_or_file("client-key")
    if (certificate is None) != (key_pem is None):
        raise user.error("client-certificate and client-key: give both or none")
    return Access(
        scheme=url.scheme,
        host=url.hostname,
        port=port or {"https": 443, "http": 80}[url.scheme],
        base_path=url.path.rstrip("/"),
        ca=cluster.data_or_file("certificate-authority"),
        tls_server_name=cluster.text("tls-server-name"),
        certificate=ClientCertificate(certificate, key_pem) if certificate and key_pem else None,
        token=user.text("token"),
        token_file=user.path("tokenFile"),
    )
