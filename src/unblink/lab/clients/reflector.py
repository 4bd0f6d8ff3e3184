"""Our reflector with client-go's policy, as a process: lists and watches one resource and says all that it sees."""

import asyncio
from dataclasses import replace

from unblink.client.pool import Pool
from unblink.client.reflector import Reflector, Watched
from unblink.lab.clients import process
from unblink.lab.log import emit
from unblink.stream.messages import Command, Delivered, Ended, Listed, WatchStarted
from unblink.stream.policy import CLIENT_GO
from unblink.stream.transitions import OPEN

ALIVE_PERIOD_S = 1.0


def say(command: Command) -> None:
    """One line for each thing that a watcher is to say; a request is none."""
    match command:
        case Listed():
            emit("list", rv=command.resource_version, items=len(command.items), reason=command.reason)
            for item in command.items:
                emit("object", type="ADDED", name=item.metadata.name, rv=item.metadata.resource_version, source="list")
        case Delivered(frames):
            for frame in frames:
                metadata = frame.metadata
                emit("object", type=frame.type, name=metadata.name, rv=metadata.resource_version, source="watch")
        case WatchStarted():
            emit("watch", rv=command.resource_version, timeout_s=command.timeout_s)
        case Ended(ending, while_state):
            prefix = "" if while_state in OPEN else f"{while_state.value}: "
            emit("ended", by=ending.by, detail=prefix + ending.detail)
        case _:
            pass


async def say_alive(reflector: Reflector) -> None:
    """Once a second the age of the open watch in seconds, null when none is open."""
    while True:
        await asyncio.sleep(ALIVE_PERIOD_S)
        age_ms = reflector.session.watch_age_ms
        emit("alive", watch_age_s=None if age_ms is None else age_ms / 1000)


async def client(stop: asyncio.Event) -> None:
    """Watch until stopped."""
    flags = process.Flags(__doc__)
    flags.add_argument("--resource", required=True, help="RESOURCE or RESOURCE.VERSION.GROUP")
    flags.add_argument("--field-selector")
    flags.add_argument("--watch-list", action="store_true", help="begin with a WatchList instead of a list")
    options = flags.parse_args()
    access = process.access(options.kubeconfig)
    watched = Watched(options.resource, options.namespace, options.field_selector)
    try:
        _ = watched.path
    except ValueError as error:
        raise process.Fatal(str(error)) from None

    async def work() -> None:
        (await process.first_connection(access)).close()
        emit("ready")
        reflector = Reflector(Pool(access), watched, replace(CLIENT_GO, watch_list=options.watch_list), say)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(say_alive(reflector))
            tasks.create_task(reflector.run())

    await process.until(stop, work())


if __name__ == "__main__":
    process.run(client)
