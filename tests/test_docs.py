"""The pages under docs/: every command on them runs, in its order and with the files that the page itself gives.

A page that watches a cluster gets one: an embedded apiserver with a few pods. Its Python programs run until they say
something.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.embedded import cluster, pod

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


@pytest.fixture(scope="module")
def with_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment of a user with a cluster."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        for name in ("web-0", "web-1"):
            running.ask("POST", "/api/v1/namespaces/default/pods", pod(name, "default", app="web"))
        yield {**of_user(), "KUBECONFIG": str(running.kubeconfig)}


def of_user() -> Mapping[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.needs_namespaces
def test_every_command_about_the_lab_runs(tmp_path: Path, incident: "Run") -> None:
    page = ROOT / "docs/lab.md"
    for block in blocks(page, "yaml"):
        if named := re.match(r"# ([\w-]+\.yaml)\n", block):
            (tmp_path / named[1]).write_text(block)
    for command in commands(page):
        if command == INCIDENT:
            assert incident.code == 0, incident.out + incident.errors
            continue
        run(command, tmp_path, of_user())


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "lab"], ids=lambda page: page.stem)
def test_every_command_of_another_page_runs(page: Path, tmp_path: Path, with_cluster: Mapping[str, str]) -> None:
    for command in commands(page):
        run(command, tmp_path, with_cluster)


@pytest.mark.parametrize(
    "program", [pytest.param(text, id=page.stem) for page in PAGES for text in blocks(page, "python")]
)
def test_every_program_of_a_page_says_something(program: str, tmp_path: Path, with_cluster: Mapping[str, str]) -> None:
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c", program],
            cwd=tmp_path,
            env=with_cluster,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            said = process.stdout.readline()
            process.terminate()
            process.wait(30)
        errors.seek(0)
        assert said.strip(), errors.read()
