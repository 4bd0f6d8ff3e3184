"""Ours: ``python -m bench.informer.clients.ours MODE SERVER LAST``, MODE json, metadata, full, memory or many.

``full`` decodes the whole object of every event, which an informer's handler would not see where it is slower than the
stream, so it follows ``unblink.watch``. ``memory`` holds the objects until it is ended; ``many`` does so in LAST
informers.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import yaml

import unblink
from bench.informer.clients import said


def kubeconfig(server: str, folder: Path) -> Path:
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench"}}],
        "clusters": [{"name": "bench", "cluster": {"server": server}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


async def count(config: Path, last: str, *, metadata_only: bool) -> None:
    calls = 0
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    informer = unblink.Informer("v1", "pods", metadata_only=metadata_only, kubeconfig=config)

    @informer.on_update
    def updated(_old: unblink.Object, new: unblink.Object) -> None:
        nonlocal calls
        calls += 1
        if new.metadata.resource_version == last:
            loop.call_soon_threadsafe(done.set)

    async with informer:
        said.synced()
        await done.wait()
        versions = [(one.metadata.name, one.metadata.resource_version) for one in informer.list()]
        said.done(
            events=informer.counters.events["MODIFIED"], calls=calls, last=informer.resource_version, versions=versions
        )


async def decode_all(config: Path, last: str) -> None:
    seen: dict[str, str] = {}
    changes = 0
    async for event in unblink.watch("v1", "pods", kubeconfig=config):
        metadata = event.object.to_dict()["metadata"]
        seen[metadata["name"]] = metadata["resourceVersion"]
        if event.type == "MODIFIED":
            changes += 1
            if metadata["resourceVersion"] == last:
                said.done(events=changes, calls=changes, last=last, versions=seen.items())
                return
        elif len(seen) == 1:
            asyncio.get_running_loop().call_soon(said.synced)  # the loop goes on when all that is there was taken


async def hold(config: Path, informers: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        views = [unblink.Informer("v1", "pods", kubeconfig=config) for _ in range(informers)]
        began_s = time.monotonic()
        await asyncio.gather(*(stack.enter_async_context(view) for view in views))
        took_s = time.monotonic() - began_s
        said.synced()
        print(took_s, sum(len(view) for view in views), flush=True)
        await asyncio.Event().wait()


def main(mode: str, server: str, last: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = kubeconfig(server, Path(folder))
        match mode:
            case "json" | "metadata":
                asyncio.run(count(config, last, metadata_only=mode == "metadata"))
            case "full":
                asyncio.run(decode_all(config, last))
            case "memory":
                asyncio.run(hold(config, 1))
            case "many":
                asyncio.run(hold(config, int(last)))
            case _:
                raise SystemExit(f"mode {mode!r}: expected json, metadata, full, memory or many")


if __name__ == "__main__":
    main(*sys.argv[1:])
