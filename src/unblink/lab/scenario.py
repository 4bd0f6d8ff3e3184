"""Scenario files: read, checked against ``scenarios/schema.json``, refused with file, line and what would be right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml
from jsonschema import Draft202012Validator, ValidationError

from unblink.chain import CLIENTS, Chain, Gateway
from unblink.faults import Fault
from unblink.lab.apiserver.config import CustomResource

SCENARIOS = files("unblink.lab") / "scenarios"
MAXIMUM_BYTES = 1 << 20
DEFAULT_OBSERVE_S = 20.0
DEFAULT_EVENT_PERIOD_MS = 500
DEFAULT_BOOKMARK_PERIOD_MS = 60_000
DEFAULT_MAX_STALENESS_MS = 10_000


class ScenarioError(Exception):
    """A scenario that cannot be run; the text is one line per mistake, ``file:line: what, and what would be right``."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One chain, one fault, and who watches."""

    id: str
    cure: str
    fault: Fault
    gateway: Gateway
    clients: tuple[str, ...]
    observe_s: float
    event_period_ms: int
    busy_period_ms: int | None = None
    max_staleness_ms: int = DEFAULT_MAX_STALENESS_MS
    """Of those clients that bound their staleness."""

    def chain(self, client: str) -> Chain:
        """The chain of one of its clients, to predict from."""
        watcher = CLIENTS[client]
        if watcher.max_staleness_ms is not None:
            watcher = replace(watcher, max_staleness_ms=self.max_staleness_ms)
        return Chain(
            client=watcher,
            gateway=self.gateway,
            event_period_ms=self.event_period_ms,
            busy_period_ms=self.busy_period_ms,
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named set of cells that run side by side."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    bookmark_period_ms: int = DEFAULT_BOOKMARK_PERIOD_MS
    custom_resources: tuple[CustomResource, ...] = ()


def shipped() -> dict[str, str]:
    """Name and description of each scenario that comes with unblink."""
    names = sorted(entry.name.removesuffix(".yaml") for entry in SCENARIOS.iterdir() if entry.name.endswith(".yaml"))
    return {name: load(name).description for name in names}


def load(name_or_path: str, *, real_time: bool = False) -> Scenario:
    """A shipped scenario by its name, or a file by its path (it holds a ``/`` or ends in ``.yaml``).

    Raises:
        ScenarioError: no such scenario, not YAML, or not what the schema allows.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        name, shown = path.stem, name_or_path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{shown}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    else:
        name, shown = name_or_path, f"{name_or_path}.yaml"
        try:
            text = (SCENARIOS / shown).read_text(encoding="utf-8")
        except OSError:
            known = ", ".join(
                sorted(e.name.removesuffix(".yaml") for e in SCENARIOS.iterdir() if e.name.endswith(".yaml"))
            )
            raise ScenarioError(f"no scenario {name!r}; there are: {known}; or give a path to a .yaml file") from None
    return _scenario(name, _checked(shown, text), real_time)


def _checked(shown: str, text: str) -> dict[str, Any]:
    if len(text) > MAXIMUM_BYTES:
        raise ScenarioError(f"{shown}: larger than {MAXIMUM_BYTES} bytes")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and (alias := _first_alias(text)) is not None:
            raise ScenarioError(f"{shown}:{alias}: aliases are not allowed in a scenario")
        content = yaml.safe_load(text)
    except RecursionError:
        raise ScenarioError(f"{shown}: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScenarioError(f"{shown}:{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{shown}: {error}") from None
    schema = msgspec.json.decode((SCENARIOS / "schema.json").read_bytes())
    found = sorted(Draft202012Validator(schema).iter_errors(content), key=lambda error: _line(node, error))
    mistakes = [f"{shown}:{_line(node, error)}: {_explained(error)}" for error in found]
    if not mistakes:
        mistakes = [f"{shown}:{line}: {mistake}" for line, mistake in _inconsistent(node, content)]
    if mistakes:
        raise ScenarioError("\n".join(mistakes))
    assert isinstance(content, dict)
    return content


def _inconsistent(node: yaml.Node | None, content: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    for index, cell in enumerate(content["cells"]):
        if cell["id"] in seen:
            yield _line_of(node, ["cells", index, "id"]), f"cell id {cell['id']!r} is there twice; ids are unique"
        seen.add(cell["id"])


def _explained(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "the file"
    value: Any = error.instance
    schema = _schema(error)
    rule: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            allowed = sorted(schema["properties"])
            unknown = [str(key) for key in value if key not in allowed]
            return f"{where}: unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(allowed)}"
        case "enum":
            return f"{where}: {value!r} is not one of {', '.join(map(str, rule))}"
        case "required":
            missing = [key for key in rule if key not in value]
            return f"{where}: {', '.join(missing)} is missing"
        case "type":
            return f"{where}: {value!r} is not of type {rule}"
        case _:
            described = schema.get("description")
            return f"{where}: {error.message}" + (f" ({described})" if described else "")


def _schema(error: ValidationError) -> Mapping[str, Any]:
    return error.schema if isinstance(error.schema, Mapping) else {}


def _line(node: yaml.Node | None, error: ValidationError) -> int:
    path: list[object] = list(error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = _schema(error)["properties"]
        instance: Any = error.instance
        path.append(next(key for key in instance if key not in allowed))
    return _line_of(node, path)


def _line_of(node: yaml.Node | None, path: Sequence[object]) -> int:
    line = node.start_mark.line + 1 if node else 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _first_alias(text: str) -> int | None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return event.start_mark.line + 1 if event.start_mark else 1
    return None


def _scenario(name: str, content: dict[str, Any], real_time: bool) -> Scenario:
    if real_time:
        content = content | content.get("real_time", {})
    cells = []
    for entry in content["cells"]:
        cell = entry | entry.get("real_time", {}) if real_time else entry
        cells.append(
            Cell(
                id=cell["id"],
                cure=cell["cure"],
                fault=Fault(cell["fault"]),
                gateway=msgspec.convert(cell.get("gateway", {}), Gateway),
                clients=tuple(cell.get("clients", content["clients"])),
                observe_s=float(cell.get("observe_s", content.get("observe_s", DEFAULT_OBSERVE_S))),
                event_period_ms=content.get("event_period_ms", DEFAULT_EVENT_PERIOD_MS),
                busy_period_ms=cell.get("busy_period_ms"),
                max_staleness_ms=cell.get(
                    "max_staleness_ms", content.get("max_staleness_ms", DEFAULT_MAX_STALENESS_MS)
                ),
            )
        )
    return Scenario(
        name=name,
        description=content["description"],
        cells=tuple(cells),
        bookmark_period_ms=content.get("bookmark_period_ms", DEFAULT_BOOKMARK_PERIOD_MS),
        custom_resources=tuple(msgspec.convert(content.get("custom_resources", []), list[CustomResource])),
    )
