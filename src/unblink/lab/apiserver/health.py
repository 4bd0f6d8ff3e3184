"""/livez, /readyz and /healthz: https://kubernetes.io/docs/reference/using-api/health-checks/"""

from collections.abc import Awaitable, Callable

from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.config import Health
from unblink.lab.apiserver.requests import Query
from unblink.lab.apiserver.storage import Storage

Check = Callable[[], Awaitable[bool]]

ENDPOINTS = ("livez", "readyz", "healthz")


def checks(endpoint: str, health: Health, storage: Storage) -> dict[str, Check]:
    """The checks of an endpoint by name, in the order they are shown in. Only readiness asks for the store."""

    async def yes() -> bool:
        return True

    async def etcd() -> bool:
        try:
            await storage.revision()
        except statuses.ApiError:
            return False
        return True

    async def informer_sync() -> bool:
        return storage.filled.is_set()

    async def shutdown() -> bool:
        return not health.readyz_failing

    always: dict[str, Check] = {"ping": yes, "log": yes}
    if endpoint != "readyz":
        return always
    return {**always, "etcd": etcd, "informer-sync": informer_sync, "shutdown": shutdown}


async def report(endpoint: str, only: str, health: Health, storage: Storage, query: Query) -> tuple[int, str] | None:
    """Status and text of ``/endpoint`` or, with ``only``, of ``/endpoint/only``; None: there is no such check."""
    wanted = checks(endpoint, health, storage)
    if only:
        if only not in wanted:
            return None
        return (200, "ok") if await wanted[only]() else (500, f"internal server error: {only} failed\n")
    lines: list[str] = []
    well = True
    for name, check in wanted.items():
        if name == query.get("exclude"):
            lines.append(f"[+]{name} excluded: ok")
        elif await check():
            lines.append(f"[+]{name} ok")
        else:
            well = False
            lines.append(f"[-]{name} failed: reason withheld")
    if well and "verbose" not in query:
        return 200, "ok"
    lines.append(f"{endpoint} check {'passed' if well else 'failed'}")
    return (200 if well else 500), "\n".join(lines) + "\n"
