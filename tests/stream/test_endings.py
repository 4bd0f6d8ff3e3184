from unblink.stream.endings import EndedBy


def test_the_parties_are_those_that_the_lab_reports() -> None:
    assert {by.value for by in EndedBy} == {
        "server-closed",
        "stream-reset",
        "connection-lost",
        "deadline",
        "error-event",
        "refused",
    }
