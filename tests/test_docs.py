"""The pages under docs/: every command on them runs, in its order and with the files that the page itself gives."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.runs import Run

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCIDENT = "unblink lab run incident"
"""Takes a minute and is run once for the whole suite."""


def blocks(page: Path, language: str) -> list[str]:
    return [body for named, body in BLOCK.findall(page.read_text()) if named == language]


def commands(page: Path) -> list[str]:
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_commands_and_names_each_block(page: Path) -> None:
    assert any(command.startswith(f"unblink {page.stem} ") for command in commands(page))
    languages = [named for named, _ in BLOCK.findall(page.read_text())]
    assert "" not in languages
    assert page.read_text().count("```") == 2 * len(languages)


@pytest.mark.needs_namespaces
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path, incident: "Run") -> None:
    for block in blocks(page, "yaml"):
        if named := re.match(r"# ([\w-]+\.yaml)\n", block):
            (tmp_path / named[1]).write_text(block)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands(page):
        if command == INCIDENT:
            assert incident.code == 0, incident.out + incident.errors
            continue
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
