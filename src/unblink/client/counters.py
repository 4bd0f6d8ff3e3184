from collections import Counter
from dataclasses import dataclass, field
@dataclass
class Counters:
    events: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    relists: int = 0
    duplicates: int = 0
    probes: Counter[str] = field(default_factory=Counter)
