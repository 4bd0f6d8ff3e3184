"""The content of a kubeconfig file, looked up piece by piece, with errors that name file and place but no value."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unblink.client.credentials import KubeconfigError, reason

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 200_000
MAX_COPIED_VALUES = 10_000

# libyaml where PyYAML has it: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Place:
    """A mapping of the file, with its name for error texts. Only what is asked for is looked at."""

    def __init__(self, file: Path, name: str, content: object) -> None:
        self.file = file
        self.name = name
        if not isinstance(content, dict):
            raise self.error(f"expected a mapping, found {_kind(content)}")
        self.content: Mapping[str, Any] = content

    def error(self, text: str) -> KubeconfigError:
        return KubeconfigError(f"{self.file}: {self.name}: {text}")

    def text(self, key: str) -> str | None:
        """A text, None where it is missing or empty."""
        value = self.content.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(f"{key}: expected text, found {_kind(value)}")
        return value

    def flag(self, key: str) -> bool:
        value = self.content.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(f"{key}: expected true or false, found {_kind(value)}")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(f"{key}: expected a list, found {_kind(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{key}[{number}]: expected text, found {_kind(value)}")
        return tuple(values)

    def below(self, key: str) -> "Place | None":
        """The mapping under a key, None where it is missing."""
        value = self.content.get(key)
        return None if value is None else Place(self.file, f"{self.name}.{key}", value)

    def each(self, key: str) -> list["Place"]:
        """The mappings in a list."""
        return [Place(self.file, f"{self.name}.{key}[{number}]", value) for number, value in enumerate(self.items(key))]

    def path(self, key: str) -> Path | None:
        """A path, from the file's folder where it is relative."""
        value = self.text(key)
        if value is not None and "\0" in value:
            raise self.error(f"{key}: expected a path")
        return None if value is None else self.file.parent / value

    def data(self, key: str) -> bytes | None:
        """What is given in base64."""
        text = self.text(key)
        if text is None:
            return None
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise self.error(f"{key}: expected base64") from None

    def contents(self, key: str) -> bytes | None:
        """What the file that ``key`` names holds."""
        path = self.path(key)
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.error(f"{key}: cannot read {path}: {reason(error)}") from None

    def copy(self, key: str) -> object:
        """A value of any kind, as JSON knows it. Aliases are written out, so its size is bounded."""
        left = MAX_COPIED_VALUES

        def copied(value: object, depth: int) -> object:
            nonlocal left
            left -= 1
            if left < 0 or depth > MAX_DEPTH:
                raise self.error(f"{key}: expected at most {MAX_COPIED_VALUES} values, {MAX_DEPTH} deep")
            match value:
                case dict():
                    return {str(name): copied(under, depth + 1) for name, under in value.items()}
                case list():
                    return [copied(under, depth + 1) for under in value]
                case None | bool() | int() | float() | str():
                    return value
            raise self.error(f"{key}: expected values that JSON knows, found {_kind(value)}")

        return copied(self.content.get(key), 0)


def read(file: Path) -> Place:
    """The whole file; an empty one is an empty mapping.

    :raises FileNotFoundError: if there is none.
    :raises KubeconfigError: if it cannot be read, is too big or too deep, or no YAML mapping.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise KubeconfigError(f"{file}: cannot read it: {reason(error)}") from None
    if len(data) > MAX_FILE_BYTES:
        raise KubeconfigError(f"{file}: bigger than {MAX_FILE_BYTES} bytes, expected a kubeconfig")
    line, problem, content = _parsed(data)
    # Raised outside of any handler: PyYAML's own errors quote the file.
    if problem is not None:
        raise KubeconfigError(f"{file}{f':{line}' if line else ''}: not YAML: {problem}")
    return Place(file, "kubeconfig", {} if content is None else content)


def _parsed(data: bytes) -> tuple[int | None, str | None, object]:
    """Line and problem, or the content."""
    try:
        if (forbidden := _forbidden(data)) is not None:
            return *forbidden, None
        return None, None, yaml.load(data, Loader=_Loader)  # noqa: S506 - it is a safe loader
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or ""
        # From the first quotation mark on it is the file's own text.
        return _line(getattr(error, "problem_mark", None)), re.split("['\"]", problem)[0].strip() or "unreadable", None
    except Exception as error:  # PyYAML's constructors raise whatever Python does for "!!int x" and its like
        return None, f"a value that its type cannot have ({type(error).__name__})", None


def _forbidden(data: bytes) -> tuple[int | None, str] | None:
    """Line and reason of what would crash or blow up the loader, found in the flat stream of events.

    libyaml's loader recurses without a limit, and a merge key copies what its aliases name.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(data, Loader=_Loader)):
        match event:
            case yaml.CollectionStartEvent():
                depth += 1
            case yaml.CollectionEndEvent():
                depth -= 1
            case yaml.ScalarEvent(value="<<", implicit=(True, _)) | yaml.ScalarEvent(tag="tag:yaml.org,2002:merge"):
                return _line(event.start_mark), "merge keys (<<) are not supported"
        if number > MAX_VALUES:
            return _line(event.start_mark), f"more than {MAX_VALUES} values"
        if depth > MAX_DEPTH:
            return _line(event.start_mark), f"more than {MAX_DEPTH} levels deep"
    return None


def _line(mark: Any) -> int | None:
    return None if mark is None else mark.line + 1


def _kind(value: object) -> str:
    return type(value).__name__
