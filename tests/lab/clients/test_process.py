import asyncio
import json
import socket
from pathlib import Path

import pytest

from unblink.client.kubeconfig import Access
from unblink.lab.clients import process


def test_nobody_there_is_fatal_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_CONNECT_S", 0.3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(process.Fatal, match="Connection refused"):
            asyncio.run(process.first_connection(Access("http", "127.0.0.1", unused.getsockname()[1])))


def test_a_lab_address_outside_the_lab_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNBLINK_LAB_NETNS", raising=False)
    path = tmp_path / "kubeconfig"
    path.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a}}],"
        " clusters: [{name: a, cluster: {server: 'https://198.18.0.1:443'}}]}"
    )
    with pytest.raises(process.Fatal, match=r"198\.18\.0\.1 is not loopback"):
        process.access(path)


def test_until_gives_back_what_went_wrong_and_cancels_at_the_stop() -> None:
    async def fail() -> None:
        raise process.Fatal("no")

    async def run() -> None:
        stop = asyncio.Event()
        with pytest.raises(process.Fatal, match="no"):
            await process.until(stop, fail())
        asyncio.get_running_loop().call_soon(stop.set)
        async with asyncio.timeout(5):
            await process.until(stop, asyncio.Event().wait())

    asyncio.run(run())


@pytest.mark.parametrize("grouped", [False, True])
def test_what_is_fatal_may_come_out_of_a_group_of_tasks(
    grouped: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def fail() -> None:
        raise process.Fatal("no such pod")

    async def client(_: asyncio.Event) -> None:
        if not grouped:
            await fail()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    with pytest.raises(SystemExit) as ended:
        process.run(client)
    assert ended.value.code == 2
    assert json.loads(capfdbinary.readouterr().out)["error"] == "no such pod"


def test_a_fatal_client_says_so_in_one_line_and_exits_with_2(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def client(_: asyncio.Event) -> None:
        process.Flags("a client").parse_args(["--nonsense"])

    with pytest.raises(SystemExit) as ended:
        process.run(client)
    assert ended.value.code == 2
    line = json.loads(capfdbinary.readouterr().out)
    assert line["event"] == "fatal"
    assert "--kubeconfig" in line["error"]
