"""list: from the cache or at a revision, whole or in pages.

https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import msgspec

from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.cache import Stored, encode, prefix_of
from unblink.lab.apiserver.media import Media
from unblink.lab.apiserver.requests import Query, check_list_options, integer, revision, selection
from unblink.lab.apiserver.resources import Resource
from unblink.lab.apiserver.storage import Storage
from unblink.lab.apiserver.tables import partial, table


@dataclass(frozen=True)
class Page:
    """``after``: the key behind which the next page starts; None for the last one."""

    items: list[Stored]
    revision: int
    after: str | None = None
    remaining: int | None = None


class _Token(msgspec.Struct):
    """What a continue parameter is made of (k8s.io/apiserver continueToken)."""

    v: str
    rv: int
    start: str


async def read(storage: Storage, resource: Resource, namespace: str, query: Query) -> Page:
    """:raises statuses.ApiError: 400, 410, 422, 500, 504 as the parameters deserve."""
    selected = selection(query, resource.fields)
    limit = integer(query, "limit")
    check_list_options(query, watch=False)
    wanted = revision(query)
    prefix = prefix_of(resource, namespace)
    if token := query.get("continue"):
        at, start = _read_token(token)
        items, shown = await storage.at(prefix, prefix + start.removeprefix("/"), at), at
    elif wanted and (query.get("resourceVersionMatch") == "Exact" or (limit and "resourceVersionMatch" not in query)):
        items, shown = await storage.at(prefix, "", wanted), wanted
    else:
        if wanted is None:
            await storage.consistent()
        elif wanted:
            await storage.not_older_than(wanted)
        else:
            limit = 0  # "any" is served from the cache in one piece
        items, shown = storage.cache.under(prefix), storage.cache.revision
    if selected:
        items = [item for item in items if selected(item.data)]
    if not limit or len(items) <= limit:
        return Page(items, shown)
    after = "/" + items[limit - 1].key.removeprefix(prefix) + "\0"
    return Page(items[:limit], shown, after, None if selected else len(items) - limit)


def document(resource: Resource, page: Page, media: Media, query: Query) -> dict[str, Any]:
    """The list as it is sent: typed, as a Table, or metadata alone."""
    metadata: dict[str, Any] = {"resourceVersion": str(page.revision)}
    if page.after is not None:
        metadata["continue"] = _token(page.revision, page.after)
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    things = [item.data for item in page.items]
    if media.form == "Table":
        return table(resource, things, metadata, include=query.get("includeObject") or "Metadata")
    if media.form:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return head | {"items": [partial(thing) for thing in things]}
    if not resource.custom:
        things = [{k: v for k, v in thing.items() if k not in ("kind", "apiVersion")} for thing in things]
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
    return head | {"items": things}


def _token(at: int, start: str) -> str:
    # Go's encoding/json writes NUL as \u0000, and so does msgspec.
    return urlsafe_b64encode(encode({"v": "meta.k8s.io/v1", "rv": at, "start": start})).rstrip(b"=").decode()


def _read_token(text: str) -> tuple[int, str]:
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise statuses.bad_request(
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 0"
        ) from error
    if not raw.startswith(b"{"):
        first = f"\\x{raw[0]:02x}" if raw and raw[0] > 0x7E else raw[:1].decode()
        raise statuses.bad_request(
            "invalid continue token: continue key is not valid: invalid character"
            f" '{first}' looking for beginning of value"
        )
    try:
        token = msgspec.json.decode(raw, type=_Token)
    except msgspec.DecodeError as error:
        raise statuses.bad_request(f"invalid continue token: continue key is not valid: {error}") from error
    if token.v != "meta.k8s.io/v1" or not 0 < token.rv < 10**18 or ".." in token.start:
        raise statuses.bad_request(f'invalid continue token: continue key is not valid: "{token.start}"')
    return token.rv, token.start
