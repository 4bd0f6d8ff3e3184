"""What is known of one server's bookmarks for one resource: learned from its watches, not assumed.

kube-apiserver sends them each minute and about 2 s before a watch's end, when the resourceVersion has moved past the
watch's start (k8s.io/apiserver, storage/cacher, cache_watcher.go). Others send them at other times, or never.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Bookmarks:
    """Shared by all watchers of the resource on this server. ``longest_gap_ms`` is between two on one watch."""

    longest_gap_ms: int | None = None
    missed: int = 0
    """How often a living watch had none for longer than its silence may last."""
    never: bool = False
    """Quiet watches end without one although the resourceVersion moved on: nothing can prove a quiet watch."""

    @property
    def need_prompting(self) -> bool:
        """A watch cache that nobody asks moves only with its own resource; a probe before the bookmark moves it."""
        return self.missed > 0

    @property
    def are_rare(self) -> bool:
        """Not even a probe before them brings them in time: the end of a short watch is to bring them."""
        return self.missed > 1

    def came(self, gap_ms: int | None, *, quiet: bool) -> None:
        """One came; ``gap_ms`` after the one before on the same watch, ``quiet`` if no event came before it."""
        self.never = self.never and not quiet
        if gap_ms is not None:
            self.longest_gap_ms = max(gap_ms, self.longest_gap_ms or 0)
