"""Patches one ConfigMap at a fixed rate over one kept connection: the events that watchers should get."""

import asyncio
from typing import Any

import msgspec

from unblink.client.kubeconfig import Access
from unblink.client.transport import MAX_ERROR_BODY_BYTES, BodyTooLarge, Connection, RequestEnded, Unreachable, connect
from unblink.lab.clients import process
from unblink.lab.log import emit, monotonic_s
from unblink.stream.objects import decode_status

REQUEST_TIMEOUT_S = 1.0
MAX_OBJECT_BYTES = 4 * 1024 * 1024
MERGE_PATCH = {"content-type": "application/merge-patch+json", "accept": "application/json"}
JSON = {"content-type": "application/json", "accept": "application/json"}


class NotWritten(Exception):
    """A write was not acknowledged."""


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Written(msgspec.Struct):
    metadata: _Metadata


class Writer:
    """One ConfigMap and the connection to write it over."""

    def __init__(self, access: Access, namespace: str, name: str, connection: Connection) -> None:
        self._access = access
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._name = name
        self._connection = connection

    async def write(self, number: int) -> str:
        """Write once; the resourceVersion that the server gave.

        :raises NotWritten: with the reason; the connection is a new one next time if this one may be broken.
        """
        data: dict[str, Any] = {"data": {"n": str(number)}}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                if not self._connection.usable:
                    self._connection = await connect(self._access)
                status, body = await self._send("PATCH", f"{self._path}/{self._name}", MERGE_PATCH, data)
                if status == 404:
                    data["metadata"] = {"name": self._name}
                    status, body = await self._send("POST", self._path, JSON, data)
        except TimeoutError:
            self._connection.close()
            raise NotWritten(f"no answer within {REQUEST_TIMEOUT_S:g} s") from None
        except (RequestEnded, Unreachable, BodyTooLarge) as error:
            self._connection.close()
            raise NotWritten(str(error)) from None
        if status not in (200, 201):
            raise NotWritten(f"{status}: {decode_status(status, body[:MAX_ERROR_BODY_BYTES]).message}")
        try:
            return msgspec.json.decode(body, type=_Written).metadata.resource_version
        except msgspec.DecodeError as error:
            raise NotWritten(f"answered {status} with what is no object: {error}") from None

    async def _send(self, method: str, path: str, headers: dict[str, str], data: object) -> tuple[int, bytes]:
        response = await self._connection.request(method, path, headers, msgspec.json.encode(data))
        return response.status, await response.body(MAX_OBJECT_BYTES)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def keep_writing(writer: Writer, period_s: float) -> None:
    """Write at start + k * period. Moments that a slow answer missed are left out: no burst follows."""
    started_s = monotonic_s()
    number = 0
    while True:
        sent_s = monotonic_s()
        try:
            version = await writer.write(number)
        except NotWritten as error:
            emit("not-written", sent_t=round(sent_s, 6), error=str(error))
        else:
            emit("written", rv=version, sent_t=round(sent_s, 6))
        number = next_tick(monotonic_s() - started_s, period_s)
        await asyncio.sleep(started_s + number * period_s - monotonic_s())


def next_tick(elapsed_s: float, period_s: float) -> int:
    """The number of the next moment that is still to come."""
    return int(elapsed_s // period_s) + 1


async def client(stop: asyncio.Event) -> None:
    """Write until stopped."""
    flags = process.Flags(__doc__)
    flags.add_argument("--name", required=True)
    flags.add_argument("--period-ms", type=int, default=500)
    options = flags.parse_args()
    if options.period_ms < 1:
        raise process.Fatal("--period-ms: expected 1 or more")
    access = process.access(options.kubeconfig)

    async def work() -> None:
        writer = Writer(access, options.namespace, options.name, await process.first_connection(access))
        emit("ready")
        try:
            await keep_writing(writer, options.period_ms / 1000)
        finally:
            writer.close()

    await process.until(stop, work())


if __name__ == "__main__":
    process.run(client)
