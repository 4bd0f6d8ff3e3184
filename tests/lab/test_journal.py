"""JSON lines read while they are written."""

import asyncio
from pathlib import Path

from unblink.lab.journal import Journal


def test_lines_come_once_and_a_torn_one_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    assert journal.lines() == []
    path.write_bytes(b'{"event":"one","t":1}\nnot json\n{"event":"tw')
    assert [line["event"] for line in journal.lines()] == ["one"]
    with path.open("ab") as stream:
        stream.write(b'o","t":2}\n')
    assert [line["event"] for line in journal.lines()] == ["one", "two"]


def test_waiting_for_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    async def main() -> None:
        journal = Journal(path)
        waiting = asyncio.create_task(journal.wait_for(lambda line: line["event"] == "up", 5, count=2))
        await asyncio.sleep(0)
        path.write_bytes(b'{"event":"up"}\n{"event":"down"}\n{"event":"up"}\n')
        assert await waiting
        assert not await journal.wait_for(lambda line: line["event"] == "never", 0)

    asyncio.run(main())
