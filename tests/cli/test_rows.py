import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from unblink.cli.rows import Table, json_lines, names, yaml_documents
from unblink.client.discovery import Resource
from unblink.client.objects import Object
from unblink.client.watching import Event, EventType
from unblink.stream.objects import Metadata

PODS = Resource("", "v1", "pods", "pod", "Pod", True)
WIDGETS = Resource("lab.dev", "v1", "widgets", "", "Widget", True)
NOW = datetime(2026, 1, 1, 0, 1, 0, tzinfo=UTC)


def event(name: str, kind: EventType = EventType.ADDED, **body: Any) -> Event:
    metadata = {"name": name, "namespace": "lab", "creationTimestamp": "2026-01-01T00:00:00Z"}
    raw = json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, **body}).encode()
    return Event(kind, Object(Metadata(name=name, namespace="lab", uid="u", resource_version="1"), raw))


def table(resource: Resource = PODS, *, with_namespace: bool = False) -> Table:
    return Table(resource, with_namespace=with_namespace, now=lambda: NOW)


def test_a_table_has_one_heading_and_columns_that_line_up() -> None:
    write = table()
    assert write([]) == ""
    assert write(
        [event("web-0", status={"phase": "Pending"}), event("a-longer-name", status={"phase": "Running"})]
    ) == (
        "NAME            READY   STATUS    RESTARTS   AGE\n"
        "web-0           0/0     Pending   0          60s\n"
        "a-longer-name   0/0     Running   0          60s\n"
    )
    assert write([event("web-0", EventType.DELETED, status={"phase": "Running"})]) == (
        "web-0           0/0     Running   0          60s (deleted)\n"
    )


def test_columns_only_grow() -> None:
    write = table(WIDGETS)
    assert write([event("a")]) == "NAME   AGE\na      60s\n"
    assert write([event("much-longer")]) == "much-longer   60s\n"
    assert write([event("a")]) == "a             60s\n"


def test_all_namespaces_have_a_column() -> None:
    assert table(WIDGETS, with_namespace=True)([event("a")]) == "NAMESPACE   NAME   AGE\nlab         a      60s\n"


def test_names_are_what_kubectl_takes_again() -> None:
    assert names(PODS)([event("web-0"), event("web-1", EventType.DELETED)]) == "pod/web-0\npod/web-1\n"
    assert names(WIDGETS)([event("a")]) == "widget.lab.dev/a\n"


def test_json_is_the_servers_own_one_event_a_line() -> None:
    odd = Object(Metadata(name="odd"), b'{"kind":"Pod","metadata":{"name":"odd"},"spec":{"big":1e400, "n":1.0}}\n')
    pretty = Object(Metadata(name="p"), b'{\n  "kind": "Pod",\n  "a": "\\n b"\n}')
    text = json_lines(PODS)([Event(EventType.ADDED, odd), Event(EventType.DELETED, pretty)])
    assert text == (
        '{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"odd"},"spec":{"big":1e400, "n":1.0}}}\n'
        '{"type":"DELETED","object":{"kind":"Pod","a":"\\n b"}}\n'
    )


@pytest.mark.parametrize("raw", [b'{"metadata":{"name":"a"}}', b'{ "metadata": {"name":"a"} }', b"{}"])
def test_an_item_of_a_list_gets_its_kind(raw: bytes) -> None:
    text = json_lines(WIDGETS)([Event(EventType.ADDED, Object(Metadata(name="a"), raw))])
    assert json.loads(text)["object"] == {"kind": "Widget", "apiVersion": "lab.dev/v1", **json.loads(raw)}


def test_yaml_is_one_document_each() -> None:
    text = yaml_documents(PODS)([event("a"), event("b")])
    assert [body["metadata"]["name"] for body in yaml.safe_load_all(text)] == ["a", "b"]
    assert text.startswith("---\nkind: Pod\n")
