"""result.json: what a run found, in the stable form that docs/lab.md describes."""

from typing import Literal

import msgspec

from unblink.lab.judge import Verdict


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """One client of one cell. Seconds; ``blind_s`` of None is blind to the end, ``bound_s`` of None no bound."""

    id: str
    cure: str
    fault: str
    client: str
    blind_s: float | None
    observed_for_s: float
    bound_s: float | None
    lost: int
    duplicated: int
    relists: int
    exec_survived: bool | None
    client_port_changed: bool | None
    ended_by: str | None
    verdict: Verdict
    reason: str
    evidence: str
    """The cell's folder, relative to result.json."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario. ``started`` is UTC, RFC 3339."""

    scenario: str
    started: str
    versions: dict[str, str]
    mode: Literal["namespaces", "loopback"]
    mode_reason: str | None
    """Why the run had no namespaces; None when it had them."""
    left_out: dict[str, str]
    """Clients of the scenario that are not on this machine, and why."""
    verdict: Verdict
    cells: list[CellResult]
