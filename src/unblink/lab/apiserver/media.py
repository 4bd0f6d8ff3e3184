"""Content negotiation: which representation an Accept header picks, and bodies in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from unblink.lab.apiserver import protobuf, statuses
from unblink.lab.apiserver.cache import encode

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
OFFERED = (JSON, YAML, PROTOBUF, f"{JSON};stream=watch", f"{PROTOBUF};stream=watch")


@dataclass(frozen=True)
class Media:
    """``form``: "" is the object itself, else "Table" or "PartialObjectMetadata"."""

    type: str
    form: str = ""


def negotiate(accept: str, *, protobuf_known: bool, watch: bool = False) -> Media:
    """The first acceptable representation; ``protobuf_known``: the type can be had in protobuf. No watch is YAML.

    :raises statuses.ApiError: 406.
    """
    for media_type, parameters in _accepted(accept or "*/*"):
        form = parameters.get("as", "").removesuffix("List")
        if form and (form not in ("Table", "PartialObjectMetadata") or parameters.get("v") != "v1"):
            continue
        if media_type in (JSON, "*/*", "application/*"):
            return Media(JSON, form)
        if media_type == YAML and not watch:
            return Media(YAML, form)
        if media_type == PROTOBUF and protobuf_known and not form:
            return Media(PROTOBUF)
    raise statuses.not_acceptable(OFFERED)


def accepts(accept: str, media_type: str, **wanted: str) -> bool:
    """Whether ``media_type`` with these parameters is named before plain JSON."""
    for found, parameters in _accepted(accept):
        if found == media_type and all(parameters.get(name) == value for name, value in wanted.items()):
            return True
        if found == JSON and not parameters:
            return False
    return False


def body(media: Media, thing: dict[str, Any]) -> bytes:
    if media.type == PROTOBUF:
        return protobuf.encode(thing)
    if media.type == YAML:
        import yaml  # noqa: PLC0415  # start-up must be light, and nobody but people asks for YAML

        return yaml.safe_dump(msgspec.to_builtins(thing)).encode()
    return encode(thing) + b"\n"


def _accepted(accept: str) -> Iterable[tuple[str, dict[str, str]]]:
    """Media types with their parameters, best first (RFC 9110, 12.5.1; equal weights in the order given)."""
    found: list[tuple[float, str, dict[str, str]]] = []
    for part in accept.split(","):
        media_type, *rest = (piece.strip() for piece in part.split(";"))
        parameters = {name.strip(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in rest)}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if weight > 0:
            found.append((weight, media_type.lower(), parameters))
    return [(media_type, parameters) for _, media_type, parameters in sorted(found, key=lambda entry: -entry[0])]
