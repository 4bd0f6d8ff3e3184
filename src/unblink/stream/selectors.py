"""Label selectors: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


class SelectorError(ValueError):
    """The selector does not parse; the text is what kube-apiserver says."""


@dataclass(frozen=True)
class Requirement:
    """One term. ``operator``: "in", "notin", "exists", "!", ">" or "<"."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "in":
                return labels.get(self.key) in self.values
            case "notin":
                return labels.get(self.key) not in self.values
            case "exists":
                return self.key in labels
            case "!":
                return self.key not in labels
        try:
            have, bound = int(labels[self.key]), int(next(iter(self.values)))
        except (KeyError, ValueError):
            return False
        return have > bound if self.operator == ">" else have < bound


_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+|$)")
_WORD = re.compile(r"[^\s=!(),<>]+")
_SETS = ("in", "notin")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """:raises SelectorError: not a label selector."""
    tokens = [token for token in _TOKEN.findall(text) if token]
    tokens.append("")
    requirements: list[Requirement] = []
    position = 0
    while tokens[position]:
        requirement, position = _requirement(tokens, position)
        requirements.append(requirement)
        if tokens[position] == ",":
            position += 1
            if not tokens[position]:
                raise SelectorError("found '', expected: identifier after ','")
        elif tokens[position]:
            raise SelectorError(f"found '{tokens[position]}', expected: ',' or 'end of string'")
    return tuple(requirements)


def _requirement(tokens: list[str], at: int) -> tuple[Requirement, int]:
    if tokens[at] == "!":
        return Requirement(_word(tokens, at + 1), "!"), at + 2
    key = _word(tokens, at)
    operator = tokens[at + 1]
    match operator:
        case "" | ",":
            return Requirement(key, "exists"), at + 1
        case "=" | "==" | "!=":
            value, after = _exact_value(tokens, at + 2)
            return Requirement(key, "notin" if operator == "!=" else "in", frozenset([value])), after
        case "<" | ">":
            value = _word(tokens, at + 2)
            if not re.fullmatch(r"[-+]?\d+", value):
                raise SelectorError(
                    f"unable to parse requirement: values[0][{key}]: Invalid value: \"{value}\": for 'Gt', 'Lt'"
                    " operators, the value must be an integer"
                )
            return Requirement(key, operator, frozenset([value])), at + 3
        case "in" | "notin":
            values, after = _values(tokens, at + 2)
            return Requirement(key, operator, values), after
    raise SelectorError(f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _word(tokens: list[str], at: int) -> str:
    if not _WORD.fullmatch(tokens[at]):
        raise SelectorError(f"unable to parse requirement: found '{tokens[at]}', expected: identifier")
    return tokens[at]


def _exact_value(tokens: list[str], at: int) -> tuple[str, int]:
    if tokens[at] in ("", ","):
        return "", at
    return _word(tokens, at), at + 1


def _values(tokens: list[str], at: int) -> tuple[frozenset[str], int]:
    if tokens[at] != "(":
        raise SelectorError(f"unable to parse requirement: found '{tokens[at]}', expected: '('")
    values: set[str] = set()
    at += 1
    while tokens[at] != ")":
        value, at = ("", at) if tokens[at] == "," else (_word(tokens, at), at + 1)
        values.add(value)
        if tokens[at] == ",":
            at += 1
            if tokens[at] == ")":
                values.add("")
        elif tokens[at] != ")":
            raise SelectorError(f"unable to parse requirement: found '{tokens[at]}', expected: ',' or ')'")
    return frozenset(values or {""}), at + 1
