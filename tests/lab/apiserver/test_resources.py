import json
from pathlib import Path

from unblink.lab.apiserver.config import CustomResource
from unblink.lab.apiserver.resources import BUILT_IN, Resources

WIDGET = CustomResource(group="lab.dev", version="v1", plural="widgets", kind="Widget", short_names=("wd",))


def test_storage_version_hashes_are_the_recorded_ones() -> None:
    recorded = json.loads(
        json.loads((Path(__file__).parents[2] / "data" / "apiserver-1.36-transcripts.json").read_text())["api-v1"][
            "response"
        ]["body"]
    )
    hashes = {entry["name"]: entry.get("storageVersionHash") for entry in recorded["resources"]}
    ours = {r.plural: r.storage_version_hash for r in BUILT_IN if not r.group}
    assert ours == {plural: hashes[plural] for plural in ours}


def test_keys() -> None:
    resources = Resources([WIDGET])
    widget, namespace = resources.find("lab.dev", "v1", "widgets"), resources.find("", "v1", "namespaces")
    assert widget is not None
    assert namespace is not None
    assert widget.key("n", "x") == "/registry/lab.dev/widgets/n/x"
    assert namespace.key("", "x") == "/registry/namespaces/x"
    assert widget.singular == "widget"
    assert widget.api_version == "lab.dev/v1"


def test_no_key_prefix_is_another_ones() -> None:
    prefixes = [r.prefix for r in Resources([WIDGET]).all]
    assert not any(a != b and a.startswith(b) for a in prefixes for b in prefixes)


def test_find_and_versions() -> None:
    resources = Resources([WIDGET])
    assert resources.find("lab.dev", "v2", "widgets") is None
    assert resources.versions() == {"": ["v1"], "coordination.k8s.io": ["v1"], "lab.dev": ["v1"]}


def test_status_is_a_subresource_of_some() -> None:
    assert {r.plural for r in BUILT_IN if r.has_status} == {"pods", "namespaces"}
