"""GETs one object again and again over one HTTP/2 connection: other requests beside the watch on the same gateway."""

import asyncio

from unblink.client.reflector import Watched
from unblink.client.transport import BodyTooLarge, Connection, RequestEnded, Unreachable
from unblink.client.transport import connect as connect_to
from unblink.lab.clients import process
from unblink.lab.clients.writer import MAX_OBJECT_BYTES, next_tick
from unblink.lab.log import emit, monotonic_s

REQUEST_TIMEOUT_S = 2.0


async def ask(connection: Connection, path: str) -> None:
    """One request and its ``request`` line."""
    started_s = monotonic_s()
    status: int | None = None
    error: str | None = None
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            response = await connection.request("GET", path, {"accept": "application/json"})
            await response.body(MAX_OBJECT_BYTES)
            status = response.status
    except TimeoutError:
        error = f"no answer within {REQUEST_TIMEOUT_S:g} s"
    except (RequestEnded, BodyTooLarge) as ended:
        error = str(ended)
    emit("request", status=status, seconds=round(monotonic_s() - started_s, 6), error=error)


async def client(stop: asyncio.Event) -> None:
    """Poll until stopped. Requests overlap when answers are late; only a lost connection is replaced."""
    flags = process.Flags(__doc__)
    flags.add_argument("--resource", required=True, help="RESOURCE or RESOURCE.VERSION.GROUP")
    flags.add_argument("--name", required=True)
    flags.add_argument("--period-ms", type=int, default=500)
    options = flags.parse_args()
    if options.period_ms < 1:
        raise process.Fatal("--period-ms: expected 1 or more")
    access = process.access(options.kubeconfig)
    try:
        path = f"{Watched(options.resource, options.namespace).path}/{options.name}"
    except ValueError as error:
        raise process.Fatal(str(error)) from None

    async def work() -> None:
        connection = await process.first_connection(access)
        emit("ready")
        period_s, started_s = options.period_ms / 1000, monotonic_s()
        try:
            async with asyncio.TaskGroup() as requests:
                while True:
                    if not connection.usable:
                        try:
                            connection = await connect_to(access, process.CONNECT_LIMITS)
                        except Unreachable as error:
                            emit("request", status=None, seconds=0.0, error=str(error))
                    if connection.usable:
                        requests.create_task(ask(connection, path))
                    tick = next_tick(monotonic_s() - started_s, period_s)
                    await asyncio.sleep(started_s + tick * period_s - monotonic_s())
        finally:
            connection.close()

    await process.until(stop, work())


if __name__ == "__main__":
    process.run(client)
