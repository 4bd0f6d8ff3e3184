"""Field selectors, and what a request selects by both: labels are read in ``stream.selectors``."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unblink.stream.selectors import Requirement, SelectorError

Object = Mapping[str, Any]
Matcher = Callable[[Object], bool]

_FIELD = re.compile(r"([^=!]+)(==|!=|=)(.*)", re.DOTALL)


@dataclass(frozen=True)
class FieldTerm:
    path: str
    equal: bool
    value: str

    def holds(self, thing: Object) -> bool:
        return (field(thing, self.path) == self.value) == self.equal


def parse_fields(text: str, allowed: tuple[str, ...]) -> tuple[FieldTerm, ...]:
    """``allowed``: the dotted paths beside metadata.name and metadata.namespace.

    :raises SelectorError: not a field selector, or a field that this resource does not select by.
    """
    terms: list[FieldTerm] = []
    for part in filter(None, text.split(",")):
        found = _FIELD.fullmatch(part)
        if not found:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = found.groups()
        if path not in ("metadata.name", "metadata.namespace", *allowed):
            raise SelectorError(
                f"field label not supported: {path}"
                if allowed
                else f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
        terms.append(FieldTerm(path, operator != "!=", value))
    return tuple(terms)


def field(thing: Object, path: str) -> str:
    """The value at a dotted path as a field selector sees it: absent is empty."""
    value: Any = thing
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return ""
        value = value.get(part)
    return "" if value is None else str(value)


def matcher(labels: tuple[Requirement, ...], fields: tuple[FieldTerm, ...]) -> Matcher | None:
    """Whether an object is selected; None where everything is."""
    if not labels and not fields:
        return None

    def selected(thing: Object) -> bool:
        have = thing["metadata"].get("labels") or {}
        return all(term.holds(have) for term in labels) and all(term.holds(thing) for term in fields)

    return selected
