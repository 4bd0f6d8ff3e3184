from typing import Any

import pytest

from unblink.lab.apiserver.selectors import field, matcher, parse_fields
from unblink.stream.selectors import SelectorError

POD: dict[str, Any] = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "x"}, "status": {}}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("metadata.name=p", True),
        ("metadata.name==p,spec.nodeName=x", True),
        ("metadata.name!=p", False),
        ("status.phase=", True),
        ("status.phase!=Running", True),
        ("spec.nodeName=y", False),
    ],
)
def test_field_selectors(text: str, selected: bool) -> None:
    matches = matcher((), parse_fields(text, ("spec.nodeName", "status.phase")))
    assert matches is not None
    assert matches(POD) is selected


@pytest.mark.parametrize(
    ("text", "allowed", "says"),
    [
        ("spec.x=1", (), '"spec.x" is not a known field selector'),
        ("spec.x=1", ("status.phase",), "field label not supported: spec.x"),
        ("nothing", (), "can't understand 'nothing'"),
    ],
)
def test_bad_field_selectors(text: str, allowed: tuple[str, ...], says: str) -> None:
    with pytest.raises(SelectorError, match=says):
        parse_fields(text, allowed)


def test_nothing_asked_selects_all() -> None:
    assert matcher((), ()) is None


def test_field_through_something_that_is_no_object() -> None:
    assert field({"a": "text"}, "a.b") == ""
