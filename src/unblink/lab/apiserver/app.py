"""The embedded apiserver's answers: an ASGI 3 application for http scopes over the shared store."""

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import msgspec

from unblink.lab import log
from unblink.lab.apiserver import (
    discovery,
    health,
    lists,
    media,
    objects,
    protobuf,
    requests,
    statuses,
    tables,
    watches,
)
from unblink.lab.apiserver.asgi import Receive, Scope, Send
from unblink.lab.apiserver.cache import Stored, encode
from unblink.lab.apiserver.config import ApiserverConfig, Health, User
from unblink.lab.apiserver.lease import bootstrap, keep_lease
from unblink.lab.apiserver.media import Media
from unblink.lab.apiserver.objects import Writer
from unblink.lab.apiserver.requests import Info, Query
from unblink.lab.apiserver.resources import Resource, Resources
from unblink.lab.apiserver.storage import Storage

ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
PUBLIC = ("/version", "/livez", "/readyz", "/healthz")  # the role system:public-info-viewer
LENGTH_KNOWN_BYTES = 2_048  # Go's net/http sends a longer body chunked
GZIP_FROM_BYTES = 128 * 1024  # k8s.io/apiserver defaultGzipThresholdBytes
MAX_BODY_BYTES = 3 * 1024 * 1024  # k8s.io/apiserver MaxRequestBodyBytes


class Application:
    """ASGI 3 application for http scopes; ``scope["state"]["user"]`` is a ``User`` or None.

    Whoever calls it cancels the call when the client leaves.
    """

    def __init__(self, config: ApiserverConfig, storage: Storage, state: Health) -> None:
        self._config = config
        self._health = state
        self._resources = Resources(config.custom_resources)
        self._storage = storage

    async def run(self) -> None:
        """What a kube-apiserver writes by itself, for ever: its namespaces, then its lease."""
        await self._storage.filled.wait()
        await bootstrap(self._storage, self._resources)
        await keep_lease(self._storage, self._resources, self._config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except statuses.ApiError as error:
            await exchange.fail(error)
        finally:
            log.emit(
                "request",
                verb=exchange.verb,
                path=exchange.path,
                watch=exchange.info is not None and exchange.info.verb == "watch",
                user=exchange.user.name,
                status=exchange.status,
            )

    async def _answer(self, exchange: "Exchange") -> None:
        self._authorize(exchange)
        if exchange.info is None or not exchange.info.plural:
            await self._non_resource(exchange)
            return
        info = exchange.info
        resource = self._resources.find(info.group, info.version, info.plural)
        if resource is None:
            raise statuses.no_such_resource()
        if info.subresource and info.subresource not in {sub.name for sub in resource.subresources}:
            raise statuses.no_such_resource()
        if not requests.takes_method(info) or (not info.subresource and info.verb not in resource.verbs):
            raise statuses.method_not_allowed()
        if not self._storage.filled.is_set():
            raise statuses.initializing()
        if resource.namespaced and not info.namespace and (info.name or info.verb == "create"):
            raise statuses.no_such_resource()
        await self._resource(exchange, info, resource)

    def _authorize(self, exchange: "Exchange") -> None:
        if exchange.user is not ANONYMOUS or exchange.path.startswith(PUBLIC):
            return
        info, name = exchange.info, exchange.user.name
        if info and info.plural:
            raise statuses.forbidden(name, info.verb, info.group, info.full_resource, info.namespace, info.name)
        raise statuses.forbidden_path(name, exchange.method.lower(), exchange.path)

    async def _non_resource(self, exchange: "Exchange") -> None:
        if exchange.method not in ("GET", "HEAD"):
            raise statuses.method_not_allowed()
        parts = [part for part in exchange.path.split("/") if part]
        endpoint = parts[0] if parts else ""
        if endpoint in health.ENDPOINTS and len(parts) <= 2:
            only = parts[1] if len(parts) == 2 else ""
            found = await health.report(endpoint, only, self._health, self._storage, exchange.query)
            if found:
                await exchange.text(*found)
                return
        served = self._aggregated(exchange, parts) or self._document(parts)
        if served is None:
            await exchange.text(404, "404 page not found\n")
            return
        body, headers = served
        await exchange.send(200, headers, body)

    def _document(self, parts: list[str]) -> tuple[bytes, statuses.Headers] | None:
        document: Mapping[str, Any] | None = None
        match parts:
            case ["version"]:
                indented = msgspec.json.format(encode(discovery.VERSION), indent=2)
                return indented, _headers(media.JSON)
            case ["api"]:
                document = discovery.core_versions(f"{self._config.address}:{self._config.port}")
            case ["apis"]:
                document = discovery.group_list(self._resources)
            case ["api", version]:
                document = discovery.resource_list(self._resources, "", version)
            case ["apis", group]:
                document = discovery.group(self._resources, group)
            case ["apis", group, version]:
                document = discovery.resource_list(self._resources, group, version)
            case ["openapi", "v3"]:
                document = discovery.openapi_index(self._resources)
            case ["openapi", "v3", "api", version]:
                document = discovery.openapi(self._resources, "", version)
            case ["openapi", "v3", "apis", group, version]:
                document = discovery.openapi(self._resources, group, version)
        return None if document is None else (encode(document) + b"\n", _headers(media.JSON))

    def _aggregated(self, exchange: "Exchange", parts: list[str]) -> tuple[bytes, statuses.Headers] | None:
        wanted = {"g": "apidiscovery.k8s.io", "v": "v2", "as": "APIGroupDiscoveryList"}
        if parts not in (["api"], ["apis"]) or not media.accepts(exchange.accept, media.JSON, **wanted):
            return None
        body = encode(discovery.aggregated(self._resources, core=parts == ["api"])) + b"\n"
        headers = _headers(discovery.AGGREGATED, b"public")
        return body, [*headers, (b"etag", discovery.etag(body).encode()), (b"vary", b"Accept")]

    async def _resource(self, exchange: "Exchange", info: Info, resource: Resource) -> None:
        known = protobuf.encodes(resource.api_version, resource.kind)
        shape = media.negotiate(exchange.accept, protobuf_known=known, watch=info.verb == "watch")
        match info.verb:
            case "watch":
                await self._watch(exchange, info, resource, shape)
            case "list":
                page = await lists.read(self._storage, resource, info.namespace, exchange.query)
                await exchange.document(200, lists.document(resource, page, shape, exchange.query), shape)
            case "get":
                await exchange.object(200, resource, await self._get(resource, info, exchange.query), shape)
            case "delete":
                await self._delete(exchange, info, resource, shape)
            case "deletecollection":
                await self._delete_collection(exchange, info, resource, shape)
            case _:
                await self._write(exchange, info, resource, shape)

    async def _get(self, resource: Resource, info: Info, query: Query) -> Stored:
        if info.subresource not in ("", "status"):
            await self._storage.get(resource, info.namespace, info.name)
            raise statuses.bad_request("Upgrade request required")
        wanted = requests.revision(query)
        if wanted is None:
            return await self._storage.get(resource, info.namespace, info.name)
        await self._storage.not_older_than(wanted)
        stored = self._storage.cache.get(resource.key(info.namespace, info.name))
        if stored is None:
            raise statuses.not_found(resource.group, resource.plural, info.name)
        return stored

    async def _watch(self, exchange: "Exchange", info: Info, resource: Resource, shape: Media) -> None:
        query = exchange.query
        if info.name:  # only the legacy path: /api/v1/watch/namespaces/x/configmaps/name
            query = {**query, "fieldSelector": f"metadata.name={info.name}"}
        await watches.serve(
            self._storage,
            resource,
            info.namespace,
            query,
            shape,
            watches.Audience(exchange.user.name, exchange.headers.get("user-agent", "")),
            self._config.bookmark_period_ms / 1000,
            exchange.stream,
        )

    async def _write(self, exchange: "Exchange", info: Info, resource: Resource, shape: Media) -> None:
        if info.subresource not in ("", "status"):
            await self._storage.get(resource, info.namespace, info.name)
            raise statuses.bad_request("Upgrade request required")
        writer = exchange.writer()
        body, content_type = await exchange.body(), exchange.content_type
        storage, namespace, name = self._storage, info.namespace, info.name
        if info.verb == "create":
            thing = objects.parse(body, content_type, resource.kind)
            await exchange.object(
                201, resource, await objects.create(storage, resource, namespace, thing, writer), shape
            )
        elif info.verb == "update":
            thing = objects.parse(body, content_type, resource.kind)
            stored = await objects.update(storage, resource, namespace, name, info.subresource, thing, writer)
            await exchange.object(200, resource, stored, shape)
        elif content_type in objects.APPLY:
            if "fieldManager" not in exchange.query:
                message = "Required value: is required for apply patch"
                raise statuses.invalid("meta.k8s.io", "PatchOptions", "", "fieldManager", message, "FieldValueRequired")
            thing = objects.parse(body, content_type, resource.kind)
            force = requests.flag(exchange.query, "force")
            stored, created = await objects.apply(storage, resource, namespace, name, thing, writer, force=force)
            await exchange.object(201 if created else 200, resource, stored, shape)
        else:
            stored = await objects.patch(
                storage, resource, namespace, name, info.subresource, content_type, body, writer
            )
            await exchange.object(200, resource, stored, shape)

    async def _delete(self, exchange: "Exchange", info: Info, resource: Resource, shape: Media) -> None:
        options = await self._delete_options(exchange)
        gone = await objects.delete(self._storage, resource, info.namespace, info.name, options)
        if resource.delete_returns_object:
            await exchange.object(200, resource, gone, shape)
            return
        uid = gone.data["metadata"]["uid"]
        await exchange.document(200, statuses.deleted(info.name, resource.group, resource.plural, uid), shape)

    async def _delete_collection(self, exchange: "Exchange", info: Info, resource: Resource, shape: Media) -> None:
        options = await self._delete_options(exchange)
        page = await lists.read(self._storage, resource, info.namespace, exchange.query)
        if not options.get("dryRun"):
            for stored in page.items:
                await objects.remove_as_is(self._storage, stored)
        await exchange.document(200, lists.document(resource, page, shape, exchange.query), shape)

    async def _delete_options(self, exchange: "Exchange") -> dict[str, Any]:
        body = await exchange.body()
        options = objects.parse(body, exchange.content_type, "DeleteOptions") if body else {}
        if "dryRun" in exchange.query:
            options["dryRun"] = [exchange.query["dryRun"]]
        return options


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        headers: statuses.Headers = scope["headers"]
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        self.query = requests.query_of(scope["query_string"])
        self.info = requests.info_of(self.method, self.path, self.query)
        self.user: User = scope.get("state", {}).get("user") or ANONYMOUS
        self.status: int | None = None

    @property
    def verb(self) -> str:
        return self.info.verb if self.info else self.method.lower()

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def writer(self) -> Writer:
        default = self.headers.get("user-agent", "").partition("/")[0][:128] or "unknown"
        return Writer(self.query.get("fieldManager") or default, "All" in self.query.get("dryRun", ""))

    async def body(self) -> bytes:
        """:raises statuses.ApiError: 413."""
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the client left before its request was complete")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > MAX_BODY_BYTES:
                raise statuses.too_large(MAX_BODY_BYTES)
            if not message.get("more_body", False):
                return b"".join(pieces)

    async def stream(self, message: Any) -> None:
        """Send as it is, and note the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def send(self, status: int, headers: statuses.Headers, body: bytes) -> None:
        if self.method == "HEAD":
            headers = [*headers, (b"content-length", str(len(body)).encode())]
            body = b""
        elif len(body) >= GZIP_FROM_BYTES and "gzip" in self.headers.get("accept-encoding", ""):
            body = await asyncio.to_thread(gzip.compress, body, 1)
            headers = [*headers, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
        elif len(body) <= LENGTH_KNOWN_BYTES:
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self.stream({"type": "http.response.start", "status": status, "headers": headers})
        await self.stream({"type": "http.response.body", "body": body, "more_body": False})

    async def text(self, status: int, text: str) -> None:
        headers = [*_headers("text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
        await self.send(status, headers, text.encode())

    async def document(self, status: int, thing: dict[str, Any], shape: Media) -> None:
        await self.send(status, _headers(shape.type), media.body(shape, thing))

    async def object(self, status: int, resource: Resource, stored: Stored, shape: Media) -> None:
        """One object, in the shape that was asked for."""
        thing = stored.data
        if shape.form == "Table":
            at = {"resourceVersion": str(stored.revision)}
            thing = tables.table(resource, [thing], at, include=self.query.get("includeObject") or "Metadata")
        elif shape.form:
            thing = tables.partial(thing)
        await self.document(status, thing, shape)

    async def fail(self, error: statuses.ApiError) -> None:
        code, headers, body = statuses.response(error)
        await self.stream({"type": "http.response.start", "status": code, "headers": headers})
        await self.stream({"type": "http.response.body", "body": body, "more_body": False})


def _headers(content_type: str, cache_control: bytes = b"no-cache, private") -> statuses.Headers:
    return [(b"cache-control", cache_control), (b"content-type", content_type.encode())]


def application(config: ApiserverConfig, storage: Storage, state: Health) -> Application:
    """The apiserver that ``config`` describes; ``storage`` and ``state`` are shared with the transport, which also
    runs ``storage.run`` and ``Application.run`` as tasks.
    """
    return Application(config, storage, state)
