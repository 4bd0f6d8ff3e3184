"""Whether a view can be trusted now, as an answer for probes: no web framework is needed, and none is in the way.

::

    state = unblink.health(pods, nodes)
    status, text = (200 if state.live else 503), state.reason
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Health:
    """How fresh one view is, or several are together.

    ``live``: within the bound. ``synced``: all objects were there once. ``staleness_s``: every change written longer
    ago than this is in the view; infinite before the first proof. ``max_staleness_s``: the bound for it.
    ``last_proof_unix_s``: when the view was last proven up to date, None if never. ``reason``: why, in plain words.
    """

    live: bool
    synced: bool
    staleness_s: float
    max_staleness_s: float
    last_proof_unix_s: float | None
    reason: str


class Watcher(Protocol):
    """What is asked for its health: an ``Informer``."""

    @property
    def api_version(self) -> str: ...
    @property
    def resource(self) -> str: ...
    @property
    def namespace(self) -> str | None: ...
    def health(self) -> Health: ...


def health(*informers: Watcher) -> Health:
    """The health of several informers as one: ``live`` and ``synced`` if all are.

    The figures are those of the informer that is nearest to its bound, or furthest beyond it; ``last_proof_unix_s`` is
    the oldest. ``reason`` names each that is not well. Without informers nothing can be stale. It may be called from
    any thread.
    """
    if not informers:
        return Health(True, True, 0.0, float("inf"), None, "there are no informers")
    found = [(informer, informer.health()) for informer in informers]
    worst = max((state for _, state in found), key=lambda state: state.staleness_s / state.max_staleness_s)
    proofs = [state.last_proof_unix_s for _, state in found]
    unwell = [f"{title(informer)}: {state.reason}" for informer, state in found if not (state.live and state.synced)]
    nearest = next(informer for informer, state in found if state is worst)
    well = f"{title(nearest)}: {worst.reason}"
    if len(found) > 1:
        well = f"all {len(found)} informers are live; nearest to its bound is {well}"
    return Health(
        live=all(state.live for _, state in found),
        synced=all(state.synced for _, state in found),
        staleness_s=worst.staleness_s,
        max_staleness_s=worst.max_staleness_s,
        last_proof_unix_s=None if None in proofs else min(proof for proof in proofs if proof is not None),
        reason="; ".join(unwell) or well,
    )


def title(informer: Watcher) -> str:
    """``apps/v1 deployments in default``."""
    where = f" in {informer.namespace}" if informer.namespace else ""
    return f"{informer.api_version} {informer.resource}{where}"
