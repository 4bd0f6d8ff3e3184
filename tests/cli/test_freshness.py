import pytest

from unblink.cli.freshness import COLOURS, Freshness, Line, line
from unblink.client.health import Health

BOOKMARK = "bookmark at resourceVersion 12345, 0.8 s ago"
SILENT = "no proof of life for 23.4 s (bound 10 s); attempt 2 to open another watch"


@pytest.mark.parametrize(
    ("health", "state", "text"),
    [
        (
            Health(True, True, 0.84, 10, 1.0, BOOKMARK),
            Freshness.FRESH,
            f"fresh: every change older than 0.8 s is here ({BOOKMARK})",
        ),
        (Health(False, True, 23.4, 10, 1.0, SILENT), Freshness.STALE, f"STALE: {SILENT}"),
        (
            Health(False, False, float("inf"), 10, None, "not synced, listing"),
            Freshness.SYNCING,
            "syncing: listing",
        ),
        (
            Health(False, False, float("inf"), 10, None, "refused: 503\n  try\tlater\n"),
            Freshness.SYNCING,
            "syncing: refused: 503 try later",
        ),
    ],
)
def test_the_line_says_whether_up_to_when_and_why(health: Health, state: Freshness, text: str) -> None:
    assert line(health) == Line(state, text)


def test_each_state_has_its_colour() -> None:
    assert set(COLOURS) == set(Freshness)
    assert len(set(COLOURS.values())) == len(Freshness)
