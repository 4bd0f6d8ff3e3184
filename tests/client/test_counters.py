from unblink.client.counters import Counters
from unblink.stream.endings import EndedBy
from unblink.stream.frames import FrameType


def test_every_series_that_there_can_be_is_there_from_the_start() -> None:
    counters = Counters()
    assert set(counters.events) == set(FrameType) - {FrameType.ERROR}
    assert set(counters.restarts) == {*EndedBy, "stale"}
    assert set(counters.probes) == {"caught-up", "behind", "failed"}
    assert not any((*counters.events.values(), *counters.restarts.values(), *counters.probes.values()))


def test_two_views_do_not_share_counts() -> None:
    one, other = Counters(), Counters()
    one.events[FrameType.ADDED] += 1
    one.restarts["stale"] += 1
    assert (other.events["ADDED"], other.restarts["stale"]) == (0, 0)
