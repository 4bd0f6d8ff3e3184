"""unblink.Informer as a process: keeps one resource within a bound of staleness and says all that its session does."""

import asyncio

import unblink
from unblink.lab.clients import process, reflector
from unblink.lab.log import emit, monotonic_s
from unblink.stream.messages import Command, Doubted, Proven, Stale, WatchStarted

ALIVE_PERIOD_S = 1.0


class Said:
    """Says what the session does, and knows since when its watch is open (CLOCK_MONOTONIC seconds)."""

    def __init__(self) -> None:
        self.watch_since_s: float | None = None

    def take(self, command: Command) -> None:
        """The lines of every client, and those of a doubt: it arises, a watch is stale, or it was wrong."""
        match command:
            case WatchStarted():
                self.watch_since_s = monotonic_s()
            case Doubted(silent_ms):
                emit("doubted", silent_s=silent_ms / 1000)
            case Stale(silent_ms=silent_ms, why=why):
                emit("stale", silent_s=silent_ms / 1000, why=why)
            case Proven(by):
                emit("proven", by=by)
        reflector.say(command)


async def say_alive(informer: unblink.Informer, said: Said) -> None:
    """Once a second the age of the newest watch and the bound that holds on the view, in seconds."""
    while True:
        await asyncio.sleep(ALIVE_PERIOD_S)
        age_s = None if said.watch_since_s is None else round(monotonic_s() - said.watch_since_s, 3)
        emit("alive", watch_age_s=age_s, staleness_s=round(informer.staleness, 3))


def kind(resource: str) -> tuple[str, str]:
    """API version and plural of RESOURCE or RESOURCE.VERSION.GROUP.

    :raises process.Fatal: it is neither.
    """
    name, *version_and_group = resource.split(".", 2)
    if not name or len(version_and_group) == 1:
        raise process.Fatal(f"resource {resource!r}: expected RESOURCE or RESOURCE.VERSION.GROUP")
    return (f"{version_and_group[1]}/{version_and_group[0]}" if version_and_group else "v1"), name


async def client(stop: asyncio.Event) -> None:
    """Watch until stopped."""
    flags = process.Flags(__doc__)
    flags.add_argument("--resource", required=True, help="RESOURCE or RESOURCE.VERSION.GROUP")
    flags.add_argument("--field-selector")
    flags.add_argument("--max-staleness-ms", type=int, required=True)
    options = flags.parse_args()
    access = process.access(options.kubeconfig)
    api_version, plural = kind(options.resource)
    said = Said()
    try:
        informer = unblink.Informer(
            api_version,
            plural,
            namespace=options.namespace,
            field_selector=options.field_selector,
            max_staleness=options.max_staleness_ms / 1000,
            kubeconfig=options.kubeconfig,
            trace=said.take,
        )
    except ValueError as error:
        raise process.Fatal(str(error)) from None

    async def work() -> None:
        (await process.first_connection(access)).close()
        emit("ready")
        async with informer:
            await say_alive(informer, said)

    await process.until(stop, work())


if __name__ == "__main__":
    process.run(client)
