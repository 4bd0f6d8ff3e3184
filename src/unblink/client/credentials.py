"""What a client shows to a server, checked before it is sent; and the one error of all that configuration."""

import base64
import os
import re
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


class KubeconfigError(ValueError):
    """A configuration that cannot be used: names the file, the place in it and what would be right."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """PEM texts of a client's certificate chain and key."""

    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)

    def load_into(self, context: ssl.SSLContext, place: str) -> None:
        """Make this the context's own certificate. ``place`` names the two fields in an error.

        :raises KubeconfigError: if they are not PEM, do not belong together, or the key needs a passphrase.
        """
        # ssl takes certificates of its own side from files alone; this one is ours to read and lives for a moment.
        descriptor, name = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.private_key + b"\n" + self.certificate)
            # Without a password given, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(name, password="")
        except ssl.SSLError:
            raise KubeconfigError(
                f"{place}: expected a PEM certificate and its own key, without a passphrase"
            ) from None
        finally:
            Path(name).unlink()


def bearer_token(text: str, place: str) -> str:
    """The token in a field or file, without the white space around it.

    :raises KubeconfigError: if it is empty or cannot stand in a header (RFC 6750, 2.1).
    """
    token = text.strip()
    if not token:
        raise KubeconfigError(f"{place}: the token is empty")
    if re.fullmatch(r"[\x21-\x7e]+", token) is None:
        raise KubeconfigError(f"{place}: expected a token of visible ASCII characters, without spaces inside")
    return token


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, in UTF-8)."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def reason(error: Exception) -> str:
    """An error in the operating system's words, else its kind: its own text may quote what was read."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
