"""One server, and who we are there: what a connection and a request need to know."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from unblink.client.credentials import ClientCertificate, KubeconfigError, bearer_token, reason
from unblink.client.exec_plugin import ExecPlugin
from unblink.client.proxy import DEFAULT_PORTS, Proxy


@dataclass(frozen=True, slots=True)
class Access:
    """One server and the identity to use there.

    ``host`` and ``port`` are where to connect, by way of ``proxy`` if there is one; ``tls_server_name`` is the name
    that the certificate must have. Files are read anew each time, because they are rotated. As in a kubeconfig,
    ``ca`` and ``certificate`` go before their files, and ``token_file`` goes before ``token``.
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
    ca_file: Path | None = None
    certificate_files: tuple[Path, Path] | None = None
    """Certificate chain and key, in PEM."""
    basic: str | None = field(default=None, repr=False)
    """The value of an Authorization header with user name and password."""
    impersonation: tuple[tuple[str, str], ...] = ()
    exec_plugin: ExecPlugin | None = field(default=None, repr=False)
    proxy: Proxy | None = None
    insecure: bool = False
    """Whether any certificate of the server is accepted."""
    namespace: str = "default"

    @property
    def authority(self) -> str:
        """``host:port`` as a request names it, without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    async def refresh(self) -> None:
        """Bring what an exec plugin gives up to date; to be awaited before ``tls`` and ``authorization``.

        It may take as long as the plugin does, a minute at most. Cancelling does not stop the plugin.

        :raises KubeconfigError: if the plugin gives nothing that is good.
        """
        if self.exec_plugin is not None:
            await self.exec_plugin.refresh()

    def on_unauthorized(self, refused: str | None = None) -> bool:
        """Tell that the server answered 401; True if another try, after ``refresh``, may help.

        ``refused`` is the Authorization value that was sent: if there is another one by now, that one stays. A new
        client certificate needs a new connection.

        :raises KubeconfigError: if the token file cannot be read.
        """
        if self.exec_plugin is None:
            return refused is not None and self.authorization() != refused
        if refused is not None and self.authorization() not in (refused, None):
            return True
        return self.exec_plugin.forget()

    def bearer_token(self) -> str | None:
        """The token to send now.

        :raises KubeconfigError: if the token file cannot be read or holds no token.
        """
        if self.token_file is not None:
            return bearer_token(_read(self.token_file, "the token").decode(errors="replace"), str(self.token_file))
        if self.exec_plugin is not None:
            return self.exec_plugin.credential.token
        return self.token

    def authorization(self) -> str | None:
        """The value of the Authorization header to send now.

        :raises KubeconfigError: if the token file cannot be read or holds no token.
        """
        token = self.bearer_token()
        return self.basic if token is None else f"Bearer {token}"

    def extra_headers(self) -> tuple[tuple[str, str], ...]:
        """Further headers of every request, a name may come again: ``Impersonate-*``."""
        return self.impersonation

    def tls(self) -> ssl.SSLContext | None:
        """A new context: TLS 1.2 or later that trusts the given authority alone (the system's where there is none).

        It has the client certificate of now; None for plain HTTP.

        :raises KubeconfigError: if a certificate or key is not usable.
        """
        if self.scheme == "http":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            self._trust(context)
        certificate, place = self._certificate()
        if certificate is not None:
            certificate.load_into(context, place)
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        ca, place = self.ca, "certificate-authority"
        if ca is None and self.ca_file is not None:
            ca, place = _read(self.ca_file, place), f"{place}: {self.ca_file}"
        try:
            if ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise KubeconfigError(f"{place}: expected PEM certificates") from None

    def _certificate(self) -> tuple[ClientCertificate | None, str]:
        """Our certificate and where it is from; as in client-go, a given one goes before the plugin's."""
        if self.certificate is None and self.certificate_files is not None:
            chain, key = self.certificate_files
            read = ClientCertificate(_read(chain, "client-certificate"), _read(key, "client-key"))
            return read, f"client-certificate {chain} and client-key {key}"
        if self.certificate is not None or self.exec_plugin is None:
            return self.certificate, "client-certificate and client-key"
        place = f"{self.exec_plugin.config.place}: status.clientCertificateData and status.clientKeyData"
        return self.exec_plugin.credential.certificate, place


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{file}: cannot read {what}: {reason(error)}") from None
