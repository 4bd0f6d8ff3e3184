from dataclasses import dataclass
@dataclass(frozen=True)
class Health:
    live: bool
    synced: bool
    staleness_s: float
    max_staleness_s: float
    last_proof_unix_s: float | None
    reason: str
def health(*informers): return informers[0].health()
