"""The report of a run: one HTML file that holds all it shows and asks nothing of a network."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from unblink.lab.report.figure import Figure, figure, seconds
from unblink.lab.report.svg import draw, shape

_VERDICTS = {"pass": "✓ pass", "fail": "✗ fail", "unknown": "? unknown"}
_MODES = {
    "namespaces": "each host a network namespace of its own, one router between them",
    "loopback": "all hosts on 127.0.0.0/8 of this machine: namespaces are forbidden here",
}
_LEGEND = {
    "fault-on": "fault on",
    "fault-off": "fault off",
    "proof": "proof that the fault hit: packets before the router, none behind it",
    "watch": "watch or session opened",
    "list": "list",
    "relist": "relist",
    "last": "last event before the silence",
    "detector": "a detector fired",
    "ended": "stream, session or connection ended",
    "first": "first event written after the fault",
    "echo": "exec session answered",
}


def render(result: Mapping[str, Any], run_folder: Path) -> str:
    """The page of a ``result.json`` (docs/lab.md), with the pictures of the evidence found under the run's folder.

    A cell without readable evidence keeps its row and says that there is no picture.

    :raises OSError: evidence is there and cannot be read.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        result=result,
        mode=_MODES.get(result["mode"], result["mode"]),
        mode_reason=result.get("mode_reason"),
        left_out=list(result.get("left_out", {}).values()),
        counts=_counts(result["cells"]),
        rows=[_row(cell) for cell in result["cells"]],
        cells=list(_cells(result["cells"], run_folder)),
        legend=[(shape(kind), words) for kind, words in _LEGEND.items()],
        seconds=seconds,
    )


def _counts(cells: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [cell["verdict"] for cell in cells]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in _VERDICTS if verdict in verdicts)


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A result row in words."""
    blind_s, bound_s = cell.get("blind_s"), cell.get("bound_s")
    to_the_end = "unknown" if cell["verdict"] == "unknown" else f"to the end ({seconds(cell['observed_for_s'])})"
    return {
        **cell,
        "anchor": _anchor(cell),
        "blind": to_the_end if blind_s is None else seconds(blind_s),
        "bound": "none" if bound_s is None else seconds(bound_s),
        "exec": _either(cell.get("exec_survived"), "survived", "killed"),
        "port": _either(cell.get("client_port_changed"), "changed", "same"),
        "verdict_words": _VERDICTS.get(cell["verdict"], cell["verdict"]),
    }


def _either(value: bool | None, yes: str, no: str) -> str:
    if value is None:
        return "unknown"
    return yes if value else no


def _anchor(cell: Mapping[str, Any]) -> str:
    return "cell-" + "".join(letter if letter.isalnum() else "-" for letter in str(cell["evidence"]))


def _cells(rows: Sequence[Mapping[str, Any]], run_folder: Path) -> Iterator[dict[str, Any]]:
    """One for each evidence folder, in the order of the rows."""
    folders: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        folders.setdefault(str(row["evidence"]), []).append(row)
    for evidence, of_folder in folders.items():
        folder = run_folder / evidence
        picture = figure(of_folder, folder)
        first = of_folder[0]
        yield {
            "anchor": _anchor(first),
            "evidence": evidence,
            "title": f"{first['cure']}, {first['fault']}",
            "rows": [_row(row) for row in of_folder],
            "figure": picture,
            "svg": _drawn(picture, first),
            "files": sorted(path.name for path in folder.glob("*") if path.is_file() and path.stat().st_size),
        }


def _drawn(picture: Figure | None, row: Mapping[str, Any]) -> Markup | None:
    return (
        None
        if picture is None
        else draw(picture, _anchor(row), f"Timeline of cell {row['id']}: {row['cure']}, {row['fault']}")
    )
