"""The graceful end, as kube-apiserver goes: /readyz fails, serving goes on, GOAWAY, open watches to their end.

The order is that of kube-apiserver's ``--shutdown-delay-duration``, as measured on 1.36.
"""

import asyncio
import contextlib

from unblink.lab.apiserver.config import Health
from unblink.lab.apiserver.server import Server
from unblink.lab.log import emit

FLUSH_S = 1.5  # more than an HTTP/2 connection lingers after its GOAWAY


async def drain(server: Server, health: Health, *, shutdown_delay_ms: int, watch_grace_ms: int) -> None:
    """End ``server`` step by step; cancelling it is ending at once.

    Open answers may go on for ``watch_grace_ms`` after the GOAWAY, then they are ended cleanly. Exec sessions are not
    waited for, as Go's http.Server does not wait for upgraded connections.
    """
    health.readyz_failing = True
    emit("draining", shutdown_delay_ms=shutdown_delay_ms)
    await asyncio.sleep(shutdown_delay_ms / 1000)
    server.stop_listening()
    server.go_away()
    emit("goaway")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(watch_grace_ms / 1000):
            await server.idle()
    server.finish()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await server.empty()
    server.abort()
