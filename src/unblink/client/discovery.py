"""What a server has, and which of it a user means by a name, as kubectl finds it out.

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api. The order of precedence is that of kubectl:
client-go's restmapper (shortcut.go, discovery.go) and apimachinery's DefaultRESTMapper.
"""

import asyncio
import difflib
import http.client
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from unblink.client.pool import Pool
from unblink.client.transport import MAX_ERROR_BODY_BYTES, BodyTooLarge, RequestEnded, Unreachable
from unblink.stream.objects import decode_status

AGGREGATED = "APIGroupDiscoveryList"
ACCEPT = (
    f"application/json;g=apidiscovery.k8s.io;v=v2;as={AGGREGATED},"
    f"application/json;g=apidiscovery.k8s.io;v=v2beta1;as={AGGREGATED},"
    "application/json"
)
ANSWER_S = 10.0
"""How long one document may take."""
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
SUGGESTIONS = 3


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object that a server has. ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version


class DiscoveryFailed(Exception):
    """The server could not be asked, or did not tell what it has. ``code`` is the HTTP status where there was one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class UnknownResource(LookupError):
    """There is nothing of this name that can be watched; the text suggests what could have been meant."""


# Which one is meant


def resolve(resources: Iterable[Resource], name: str) -> Resource:
    """What a user means by ``pods``, ``pod``, ``po``, ``Pod``, ``deployments.apps``, ``deployments.v1.apps``.

    Of several, the first in the server's order of groups and versions. Case does not matter. A group may be shortened.

    :raises UnknownResource: if there is none.
    """
    known = list(resources)
    found = _named(known, name.lower())
    if not found:
        raise UnknownResource(_suggest(known, name))
    watchable = next((one for one in found if "watch" in one.verbs), None)
    if watchable is None:
        raise UnknownResource(f"{found[0].plural} cannot be watched: the server offers {', '.join(found[0].verbs)}")
    return watchable


def _named(known: list[Resource], name: str) -> list[Resource]:
    word, *rest = name.split(".", 2)
    if len(rest) == 2 and (found := _of(_of_group(known, rest[1], rest[0]), word)):
        return found
    if rest:
        return _of(_of_group(known, name.partition(".")[2]), word)
    return _of(known, word)


def _of_group(known: list[Resource], group: str, version: str | None = None) -> list[Resource]:
    """Of the group, or else of groups that begin so."""
    of_version = [one for one in known if version in (None, one.version)]
    exact = [one for one in of_version if one.group == group]
    return exact or [one for one in of_version if one.group and one.group.startswith(group)]


def _of(known: list[Resource], word: str) -> list[Resource]:
    """A plural goes before a short name, and that before a singular or a kind."""
    return (
        [one for one in known if one.plural == word]
        or [one for one in known if word in one.short_names]
        or [one for one in known if word in (one.singular, one.kind.lower())]
    )


def _suggest(known: list[Resource], name: str) -> str:
    names = {spelling: one for one in known for spelling in (one.plural, one.singular, *one.short_names) if spelling}
    close = difflib.get_close_matches(name.lower().partition(".")[0], names, n=2 * SUGGESTIONS)
    meant = list(dict.fromkeys(names[spelling].plural for spelling in close))[:SUGGESTIONS]
    said = f"the server has no resource {name!r}"
    return (
        f"{said}; did you mean {' or '.join(meant)}?" if meant else f"{said}; kubectl api-resources lists what it has"
    )


# What its documents say


class _Kind(msgspec.Struct):
    kind: str = ""


class _AggregatedResource(msgspec.Struct, rename="camel"):
    resource: str
    response_kind: _Kind | None = None
    scope: str = "Namespaced"
    singular_resource: str = ""
    short_names: tuple[str, ...] | None = None
    verbs: tuple[str, ...] | None = None


class _AggregatedVersion(msgspec.Struct):
    version: str
    resources: list[_AggregatedResource] | None = None


class _Name(msgspec.Struct):
    name: str = ""


class _AggregatedGroup(msgspec.Struct):
    metadata: _Name
    versions: list[_AggregatedVersion] | None = None


class _AggregatedList(msgspec.Struct):
    items: list[_AggregatedGroup] | None = None


class _LegacyResource(msgspec.Struct, rename="camel"):
    name: str
    singular_name: str = ""
    namespaced: bool = False
    kind: str = ""
    short_names: tuple[str, ...] | None = None
    verbs: tuple[str, ...] | None = None


class _LegacyList(msgspec.Struct):
    resources: list[_LegacyResource] | None = None


class _CoreVersions(msgspec.Struct):
    versions: list[str] | None = None


class _GroupVersion(msgspec.Struct, rename="camel"):
    group_version: str = ""


class _Group(msgspec.Struct, rename="camel"):
    versions: list[_GroupVersion]
    preferred_version: _GroupVersion = msgspec.field(default_factory=_GroupVersion)


class _GroupList(msgspec.Struct):
    groups: list[_Group] | None = None


def aggregated(body: bytes) -> list[Resource]:
    """The resources of an ``APIGroupDiscoveryList``, in its order.

    :raises ValueError: if it is none.
    """
    return [
        Resource(
            group=group.metadata.name,
            version=version.version,
            plural=one.resource,
            singular=one.singular_resource,
            kind=one.response_kind.kind if one.response_kind else "",
            namespaced=one.scope == "Namespaced",
            short_names=one.short_names or (),
            verbs=one.verbs or (),
        )
        for group in msgspec.json.decode(body, type=_AggregatedList).items or ()
        for version in group.versions or ()
        for one in version.resources or ()
    ]


def group_versions(body: bytes, *, core: bool) -> list[str]:
    """``v1`` or ``apps/v1``: what the unaggregated document at /api (``core``) or /apis names, preferred ones first.

    :raises ValueError: if it is no such document.
    """
    if core:
        return msgspec.json.decode(body, type=_CoreVersions).versions or []
    named = []
    for group in msgspec.json.decode(body, type=_GroupList).groups or ():
        named += sorted(
            (one.group_version for one in group.versions), key=lambda one: one != group.preferred_version.group_version
        )
    return named


def of_group_version(group_version: str, body: bytes) -> list[Resource]:
    """The resources of an ``APIResourceList``, without subresources.

    :raises ValueError: if it is none.
    """
    group, _, version = group_version.rpartition("/")
    return [
        Resource(
            group,
            version,
            one.name,
            one.singular_name,
            one.kind,
            one.namespaced,
            one.short_names or (),
            one.verbs or (),
        )
        for one in msgspec.json.decode(body, type=_LegacyList).resources or ()
        if "/" not in one.name
    ]


# Asking for them


async def discover(pool: Pool) -> list[Resource]:
    """All that the server has: two requests, or where it does not know aggregated discovery, one more per version.

    A group that does not answer (its own server may be down) is left out.

    :raises DiscoveryFailed: if the core group or the list of groups does not come.
    :raises KubeconfigError: if there are no usable credentials.
    """
    core, others = await asyncio.gather(_part(pool, "/api"), _part(pool, "/apis"))
    return core + others


async def _part(pool: Pool, path: str) -> list[Resource]:
    kind, body = await _get(pool, path)
    try:
        if f"as={AGGREGATED}" in kind:
            return aggregated(body)
        named = group_versions(body, core=path == "/api")
    except ValueError as error:
        raise DiscoveryFailed(f"{path}: not a discovery document: {error}") from None
    found = await asyncio.gather(*(_version(pool, path, one) for one in named))
    return [one for resources in found for one in resources]


async def _version(pool: Pool, path: str, group_version: str) -> list[Resource]:
    try:
        _, body = await _get(pool, f"{path}/{group_version}")
        return of_group_version(group_version, body)
    except (DiscoveryFailed, ValueError):
        return []


async def _get(pool: Pool, path: str) -> tuple[str, bytes]:
    """Content type and body."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await _get_in_time(pool, path)
    except TimeoutError:
        raise DiscoveryFailed(f"{path}: no answer within {ANSWER_S:g} s") from None
    except (Unreachable, RequestEnded, BodyTooLarge) as error:
        raise DiscoveryFailed(str(error) if isinstance(error, Unreachable) else f"{path}: {error}") from None


async def _get_in_time(pool: Pool, path: str) -> tuple[str, bytes]:
    while True:
        await pool.access.refresh()
        connection = await pool.acquire()
        sent = pool.access.authorization()
        response = await connection.request("GET", path, {"accept": ACCEPT})
        if response.status == HTTPStatus.OK:
            return response.headers.get("content-type", ""), await response.body(MAX_DOCUMENT_BYTES)
        refusal = await response.body(MAX_ERROR_BODY_BYTES)
        if response.status == HTTPStatus.UNAUTHORIZED and pool.access.on_unauthorized(sent):
            continue
        status = decode_status(response.status, refusal)
        reason = status.message or http.client.responses.get(response.status, "")
        raise DiscoveryFailed(f"{path}: {response.status} {reason}".rstrip(), response.status)
