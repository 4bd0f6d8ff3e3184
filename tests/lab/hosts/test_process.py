"""Processes of a host: their network, their output, their end."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.inside import inside
from tests.lab.hosts.test_network import built

from unblink.lab.hosts.network import Host
from unblink.lab.hosts.process import NETNS, start

SAY_NETNS = f"import os; print(os.stat('/proc/self/ns/net').st_ino, os.environ['{NETNS}'])"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@inside
async def test_it_runs_in_the_network_of_its_host(tmp_path: Path) -> None:
    net, gateway, writer, _ = await built()
    seen = set()
    for host in (gateway, writer):
        process = start(host, host.name, [sys.executable, "-c", SAY_NETNS], tmp_path)
        assert await process.ended() == 0
        own, told = process.log.read_text().split()
        assert own == told
        seen.add(own)
    assert len(seen) == 2
    await net.close()


async def until_up(log: Path) -> None:
    async with asyncio.timeout(10):
        while "up" not in log.read_text():
            await asyncio.sleep(0.01)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        process = start(Host("here", "127.0.0.1"), "stubborn", [sys.executable, "-c", STUBBORN], tmp_path)
        await until_up(process.log)
        assert process.returncode is None
        assert await process.stop(patience_s=0.2) == -signal.SIGKILL

    asyncio.run(main())


def test_a_frozen_one_is_known_and_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        process = start(Host("here", "127.0.0.1"), "frozen", ["sleep", "60"], tmp_path)
        assert not process.is_stopped()
        process.send(signal.SIGSTOP)
        async with asyncio.timeout(10):
            while not process.is_stopped():
                await asyncio.sleep(0.01)
        assert await process.stop() == -signal.SIGTERM

    asyncio.run(main())


def test_what_it_says_on_standard_error_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        process = start(Host("here", "127.0.0.1"), "loud", ["ls", "--no-such-option"], tmp_path)
        assert await process.ended() == 2
        assert "no-such-option" in process.errors.read_text()

    asyncio.run(main())
