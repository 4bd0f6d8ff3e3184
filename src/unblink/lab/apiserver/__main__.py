"""One embedded apiserver: ``python -m unblink.lab.apiserver --config FILE``.

SIGTERM drains (a second one ends at once), SIGUSR1 makes the process deaf on the network, SIGUSR2 lets it hear again.
"""

import argparse
import asyncio
import signal
import ssl
import sys
from pathlib import Path

from unblink.lab.apiserver.app import application
from unblink.lab.apiserver.asgi import report
from unblink.lab.apiserver.auth import authenticated, load_tokens
from unblink.lab.apiserver.config import ApiserverConfig, ConfigError, Health, load
from unblink.lab.apiserver.deaf import go_deaf, hear
from unblink.lab.apiserver.drain import drain
from unblink.lab.apiserver.exec import with_exec
from unblink.lab.apiserver.resources import Resources
from unblink.lab.apiserver.server import Server, tls_context
from unblink.lab.apiserver.storage import Storage
from unblink.lab.apiserver.storeclient import StoreClient
from unblink.lab.log import emit

STORE_PATIENCE_S = 1.0


class StartError(Exception):
    """The process cannot serve; the text says why."""


async def serve(config: ApiserverConfig) -> None:
    """Serve until SIGTERM and the drain after it.

    :raises StartError: a file of the configuration or the address cannot be used.
    """
    try:
        tokens = load_tokens(Path(config.token_file)) if config.token_file else {}
        tls = tls_context(Path(config.certificate), Path(config.private_key), Path(config.ca))
    except ConfigError as error:
        raise StartError(str(error)) from error
    except (OSError, ssl.SSLError) as error:
        files = ", ".join((config.ca, config.certificate, config.private_key))
        raise StartError(f"TLS files cannot be used ({files}): {error.strerror or error}") from error
    health = Health()
    storage = Storage(StoreClient(config.store_address, config.store_port, timeout_ms=config.store_timeout_ms))

    pods = Resources().find("", "v1", "pods")
    assert pods is not None

    async def find_pod(namespace: str, name: str) -> object:
        return await storage.get(pods, namespace, name)

    api = application(config, storage, health)
    app = with_exec(api, find_pod, enabled=config.exec_enabled)
    server = Server(authenticated(app, tokens), tls)
    try:
        port = await server.listen(config.address, config.port)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise StartError(f"cannot listen on {config.address} port {config.port}: {words}") from error
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(work) for work in (storage.run(), api.run(), _report_store(storage, config))]
        await _until_ended(server, health, config, port)
        for task in beside:
            task.cancel()


async def _until_ended(server: Server, health: Health, config: ApiserverConfig, port: int) -> None:
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    draining: asyncio.Task[None] | None = None
    tasks: set[asyncio.Task[bool]] = set()

    def terminate() -> None:
        if draining is not None:
            draining.cancel()
        terminated.set()

    def deafen() -> None:
        tasks.add(loop.create_task(go_deaf(port, server.mute)))

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGUSR1, deafen)
    loop.add_signal_handler(signal.SIGUSR2, hear, port, server.mute)
    emit("ready", name=config.name, address=config.address, port=port)
    await terminated.wait()
    draining = loop.create_task(
        drain(server, health, shutdown_delay_ms=config.shutdown_delay_ms, watch_grace_ms=config.watch_grace_ms)
    )
    await asyncio.wait({draining})
    server.abort()
    await server.empty()
    emit("ended")


async def _report_store(storage: Storage, config: ApiserverConfig) -> None:
    """Say so once when the store cannot be reached at start; ``storage`` keeps trying."""
    try:
        async with asyncio.timeout(STORE_PATIENCE_S):
            await storage.filled.wait()
    except TimeoutError:
        emit("store-unreachable", address=config.store_address, port=config.store_port)
        await storage.filled.wait()
        emit("store-reached")


def main() -> int:
    """Exit code: 0 after SIGTERM, 2 where it cannot serve."""
    parser = argparse.ArgumentParser(prog="python -m unblink.lab.apiserver", description="An embedded kube-apiserver.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON, see config.ApiserverConfig")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(load(arguments.config, ApiserverConfig)))
    except (ConfigError, StartError) as error:
        emit("fatal", error=str(error))
        return 2
    except ExceptionGroup as group:
        for failure in group.exceptions:
            report(failure)
        emit("fatal", error="a part of the apiserver failed, see the error lines")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
