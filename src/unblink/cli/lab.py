"""``unblink lab``: build a chain on one machine, break it, measure how long each watch was blind."""

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from unblink.lab.result import CellResult, Result

COULD_NOT_RUN = 2
EXIT_CODES = {"pass": 0, "fail": 1, "unknown": 3}
COLOURS = {"pass": "green", "fail": "bold red", "unknown": "yellow"}
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where runs go.",
)
OUTPUT = click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What is printed on standard output.",
)
WIDTH_ELSEWHERE = 160
"""Columns of a table that goes to a file or a pipe."""


@click.group()
def lab() -> None:
    """Break a watch chain built from real parts, and measure it.

    \b
    Examples:
      unblink lab run incident
      unblink lab run incident --output json | jq '.cells[] | {id, client, blind_s, verdict}'
      unblink lab run ./my-scenario.yaml --out /var/tmp/runs
    """


@lab.command("list")
@OUTPUT
def list_(output: str) -> None:
    """Scenarios that come with unblink.

    \b
    Example:
      unblink lab list
    """
    scenario = _lab_parts().scenario
    shipped = scenario.shipped()
    if output == "json":
        click.echo(msgspec.json.encode([{"name": name, "description": text} for name, text in shipped.items()]))
        return
    table = Table("SCENARIO", "DESCRIPTION", box=None, pad_edge=False)
    for name, text in shipped.items():
        table.add_row(name, text)
    _console().print(table)


@lab.command()
@click.argument("scenario")
@click.option(
    "--apiserver",
    type=click.Choice(["embedded", "real"]),
    default="embedded",
    show_default=True,
    help="real: kube-apiserver and etcd from the folder that KUBEBUILDER_ASSETS names.",
)
@click.option("--real-time", is_flag=True, help="The timers of the incident instead of shortened ones.")
@OUT
@OUTPUT
def run(scenario: str, apiserver: str, real_time: bool, out: Path, output: str) -> None:
    """Run SCENARIO: a name from `unblink lab list`, or the path of a YAML file.

    Evidence, result.json and report.html go into a dated folder below --out; `latest` points to it.

    \b
    Exit code:
      0  every cell showed what was predicted for it
      1  a cell did not
      2  the lab could not run
      3  no cell contradicted its prediction, but some could not be shown here

    \b
    Examples:
      unblink lab run incident
      unblink lab run incident --real-time
      KUBEBUILDER_ASSETS=/usr/local/kubebuilder/bin unblink lab run incident --apiserver real
    """
    parts = _lab_parts()
    try:
        chosen = parts.scenario.load(scenario, real_time=real_time)
        assets = _assets(parts) if apiserver == "real" else None
        parts.envoy.binary()
        display = _Display([cell.id for cell in chosen.cells])
        place = parts.run.run(chosen, parts.run.Options(out, assets), display)
    except (
        parts.scenario.ScenarioError,
        parts.cell.LabError,
        parts.folder.NoRoom,
        parts.envoy.EnvoyMissing,
    ) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror}")
    except KeyboardInterrupt:
        click.echo("unblink: interrupted; everything is cleaned up", err=True)
        sys.exit(130)
    raw = (place / "result.json").read_bytes()
    result = msgspec.json.decode(raw, type=parts.result.Result)
    if output == "json":
        click.echo(raw.decode(), nl=False)
    else:
        _print(result, place)
    sys.exit(EXIT_CODES[result.verdict])


@lab.command()
@OUT
def clean(out: Path) -> None:
    """Remove what runs that were cut short left: processes, secrets, sockets. Evidence stays.

    \b
    Example:
      unblink lab clean
    """
    parts = _lab_parts()
    try:
        removed = parts.folder.clean(out)
    except OSError as error:
        _refuse(f"{error.filename or out}: {error.strerror}")
    for line in removed:
        click.echo(line)


class _Parts:
    """The lab's modules, imported when a lab command runs: they need the extra ``lab``."""

    def __init__(self) -> None:
        from unblink.gateway.envoy import process as envoy  # noqa: PLC0415
        from unblink.lab import apiservers, cell, folder, result, run, scenario  # noqa: PLC0415

        self.envoy, self.apiservers, self.cell, self.folder = envoy, apiservers, cell, folder
        self.result, self.run, self.scenario = result, run, scenario


def _assets(parts: _Parts) -> Path:
    try:
        folder: Path = parts.apiservers.assets()
    except LookupError as error:
        _refuse(str(error))
    return folder


def _lab_parts() -> _Parts:
    if sys.platform != "linux":
        _refuse("the lab needs Linux: its network is the kernel's")
    try:
        return _Parts()
    except ModuleNotFoundError as error:
        _refuse(f"the lab needs {error.name}: pip install 'unblink[lab]'")


def _refuse(why: str) -> NoReturn:
    for line in why.splitlines():
        click.echo(f"unblink: {line}", err=True)
    sys.exit(COULD_NOT_RUN)


class _Display:
    """What each cell does now: a live table on a terminal, a line for each change elsewhere; on standard error."""

    def __init__(self, cells: list[str]) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._states = dict.fromkeys(cells, "waiting")
        # Refreshed by hand: a thread beside the lab's forks would be asking for trouble.
        self._live = Live(self._table(), console=self._console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, cell: str, state: str) -> None:
        """Note what a cell does now. What stands behind a colon is detail that only a terminal follows."""
        before, self._states[cell] = self._states[cell], state
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)
        elif state.partition(":")[0] != before.partition(":")[0]:
            self._console.print(f"{cell}: {state}")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for cell, state in self._states.items():
            table.add_row(cell, Text(state, style="dim" if state == "waiting" else ""))
        return table


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDTH_ELSEWHERE)


def _print(result: "Result", place: Path) -> None:
    console = _console()
    if result.mode == "loopback":
        console.print(
            f"No namespaces here ({result.mode_reason}): ran on loopback, and what that cannot show is unknown.\n"
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("CELL", "CURE", "FAULT", "CLIENT"):
        table.add_column(heading, overflow="fold")
    for heading in ("BLIND", "BOUND", "RELISTS", "LOST"):
        table.add_column(heading, justify="right")
    for heading in ("EXEC", "ENDED BY", "VERDICT"):
        table.add_column(heading)
    for row in result.cells:
        table.add_row(*_columns(row), Text(row.verdict.value, style=COLOURS[row.verdict]))
    console.print(table)
    for row in result.cells:
        if row.verdict.value != "pass":
            console.print(f"\n{row.id} {row.client}: {row.verdict.value}: {row.reason}")
    for reason in result.left_out.values():
        console.print(f"\nleft out: {reason}")
    console.print(f"\n{_summary(result)}\nreport: {_from_here(place) / 'report.html'}", soft_wrap=True)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _columns(row: "CellResult") -> list[str]:
    unknown = row.verdict.value == "unknown"
    blind = "?" if unknown else "to the end" if row.blind_s is None else f"{row.blind_s:.1f} s"
    lives = {True: "lives", False: "cut", None: "-"}[row.exec_survived]
    counts = ["-", "-"] if unknown else [str(row.relists), str(row.lost)]
    bound = "none" if row.bound_s is None else f"{row.bound_s:.1f} s"
    return [row.id, row.cure, row.fault, row.client, blind, bound, *counts, lives, row.ended_by or "-"]


def _summary(result: "Result") -> str:
    counts = {verdict: sum(row.verdict.value == verdict for row in result.cells) for verdict in EXIT_CODES}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    seen = "saw what it predicted" if result.verdict.value == "pass" else "did not see all that it predicted"
    return f"{result.scenario}: {said}; the lab {seen}"
