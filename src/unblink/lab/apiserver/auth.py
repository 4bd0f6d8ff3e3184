"""Who a request comes from: a client certificate, then a bearer token, then nobody (anonymous), as kube-apiserver asks.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unblink.lab.apiserver.asgi import App, Receive, Scope, Send, answer
from unblink.lab.apiserver.config import ConfigError, User
from unblink.lab.apiserver.statuses import unauthorized

AUTHENTICATED = "system:authenticated"


class BadTokenError(Exception):
    """A bearer token that nobody has."""


def load_tokens(path: Path) -> dict[str, User]:
    """Read a --token-auth-file: ``token,user,uid[,"group1,group2"]`` per line.

    :raises ConfigError: unreadable, or a line of another shape; the text names the line, never the token.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a token file ({type(error).__name__})") from error
    tokens = {}
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) < 3 or not row[0] or not row[1]:
            raise ConfigError(f'{path}: line {number}: a line is token,user,uid[,"group1,group2"]')
        groups = tuple(group for group in row[3].split(",") if group) if len(row) > 3 else ()
        tokens[row[0]] = User(row[1], (*groups, AUTHENTICATED))
    return tokens


def certificate_user(certificate: Mapping[str, Any] | None) -> User | None:
    """User of a verified peer certificate (``ssl.SSLSocket.getpeercert``): CN is the name, every O a group."""
    pairs = [pair for rdn in (certificate or {}).get("subject", ()) for pair in rdn]
    names = [value for key, value in pairs if key == "commonName"]
    groups = [value for key, value in pairs if key == "organizationName"]
    return User(names[0], (*groups, AUTHENTICATED)) if names else None


def token_user(authorization: str | None, tokens: Mapping[str, User]) -> User | None:
    """User of an Authorization header; None where it is absent or not a bearer token.

    :raises BadTokenError: the token is not known.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    try:
        return tokens[token.strip()]
    except KeyError:
        raise BadTokenError from None


def authenticated(app: App, tokens: Mapping[str, User]) -> App:
    """Set ``scope["state"]["user"]`` for ``app`` (None: anonymous) and answer 401 to a bad token."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        try:
            user = certificate_user(scope["state"].get("peer_certificate"))
            user = user or token_user(header.decode("latin-1") if header else None, tokens)
        except BadTokenError:
            await answer(scope, send, unauthorized())
            return
        scope["state"]["user"] = user
        await app(scope, receive, send)

    return checked
