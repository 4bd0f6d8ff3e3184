"""What a request asks for: path, verb and query, as k8s.io/apiserver's RequestInfo and ListOptions take them apart."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from unblink.lab.apiserver import statuses
from unblink.lab.apiserver.selectors import Matcher, matcher, parse_fields
from unblink.stream.selectors import SelectorError, parse_labels

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_REVISION = re.compile(r"[0-9]{1,18}")
_NAMED_ONLY = frozenset({"update", "patch"})


@dataclass(frozen=True)
class Info:
    """A request for a resource. ``plural`` and ``name`` may be empty: then it is for discovery or a collection."""

    verb: str
    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str

    @property
    def full_resource(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


Query = Mapping[str, str]


def query_of(query_string: bytes) -> Query:
    """The first value of each parameter."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        query.setdefault(name, value)
    return query


def info_of(method: str, path: str, query: Query) -> Info | None:
    """None: not a path of a resource (discovery, health and all else)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    legacy_watch = rest[0] == "watch" and len(rest) > 1
    if legacy_watch:
        rest = rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest[:3], "", "", "")[:3]
    if method in ("GET", "HEAD"):
        watches = legacy_watch or (not name and flag(query, "watch"))
        verb = "watch" if watches else "get" if name else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = _VERBS.get(method, method.lower())
    return Info(verb, group, version, namespace, plural, name, subresource)


def takes_method(info: Info) -> bool:
    """Whether the verb fits the path: a collection is not patched, an object is not created over."""
    if info.verb in _NAMED_ONLY:
        return bool(info.name)
    return not (info.verb == "create" and info.name and not info.subresource)


def flag(query: Query, name: str) -> bool:
    """A boolean as apimachinery's Convert_Slice_string_To_bool reads it: all but absent, 0 and false is true."""
    return name in query and query[name].lower() not in ("0", "false")


def integer(query: Query, name: str) -> int:
    """0 where absent. :raises statuses.ApiError: 400, not an integer."""
    text = query.get(name, "")
    if not text:
        return 0
    if not _INTEGER.fullmatch(text):
        raise statuses.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def revision(query: Query) -> int | None:
    """The resourceVersion asked for, None where none is.

    :raises statuses.ApiError: not a revision (kube-apiserver answers 500 for it).
    """
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not _REVISION.fullmatch(text):
        raise statuses.bad_resource_version(text)
    return int(text)


def selection(query: Query, fields: tuple[str, ...]) -> Matcher | None:
    """What labelSelector and fieldSelector select; None: everything. :raises statuses.ApiError: 400."""
    try:
        return matcher(
            parse_labels(query.get("labelSelector", "")), parse_fields(query.get("fieldSelector", ""), fields)
        )
    except SelectorError as error:
        raise statuses.bad_request(str(error)) from error


def check_list_options(query: Query, *, watch: bool) -> None:
    """k8s.io/apimachinery ValidateListOptions. :raises statuses.ApiError: 422."""
    match = query.get("resourceVersionMatch", "")
    initial = "sendInitialEvents" in query
    if match and match not in ("Exact", "NotOlderThan"):
        raise _invalid_options(
            f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""', "FieldValueNotSupported"
        )
    if watch:
        if initial and match != "NotOlderThan":
            raise _forbidden_match("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        if match and not initial:
            raise _forbidden_match("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        return
    if initial:
        raise _invalid_options(
            "Forbidden: sendInitialEvents is forbidden for list", "FieldValueForbidden", field="sendInitialEvents"
        )
    if not match:
        return
    if not query.get("resourceVersion"):
        raise _forbidden_match("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if query.get("continue"):
        raise _forbidden_match("resourceVersionMatch is forbidden when continue is provided")
    if match == "Exact" and query["resourceVersion"] == "0":
        raise _forbidden_match('resourceVersionMatch "exact" is forbidden for resourceVersion "0"')


def _forbidden_match(why: str) -> statuses.ApiError:
    return _invalid_options(f"Forbidden: {why}", "FieldValueForbidden")


def _invalid_options(message: str, reason: str, field: str = "resourceVersionMatch") -> statuses.ApiError:
    return statuses.invalid("meta.k8s.io", "ListOptions", "", field, message, reason)
