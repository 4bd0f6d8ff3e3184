import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.client.objects import Object
from unblink.stream.objects import Metadata

POD = {"metadata": {"name": "web-0", "labels": {"app": "web"}}, "spec": {"nodeName": "n1"}}
METADATA = Metadata("web-0", "default", "u", "7")


def made(content: object, *, enveloped: bool) -> Object:
    raw = json.dumps({"type": "ADDED", "object": content} if enveloped else content).encode()
    return Object(METADATA, raw, enveloped)


contents = st.dictionaries(
    st.text(min_size=1),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        st.lists,
        max_leaves=5,
    ),
    max_size=5,
)


@given(contents, st.booleans())
def test_it_is_the_mapping_that_its_json_says(content: dict[str, Any], enveloped: bool) -> None:
    thing = made(content, enveloped=enveloped)
    assert thing == content
    assert thing != [content]
    assert dict(thing) == content
    assert (list(thing), len(thing)) == (list(content), len(content))
    assert list(thing.items()) == list(content.items())
    assert list(thing.keys()) == list(content)
    assert list(thing.values()) == list(content.values())
    assert all(key in thing and thing[key] == thing.get(key) == value for key, value in content.items())
    assert json.loads(thing.raw) == content


def test_it_is_decoded_once_and_only_when_asked() -> None:
    thing = Object(METADATA, b"not JSON")
    assert thing.metadata.name == "web-0"
    assert repr(thing) == "<Object default/web-0 at 7>"
    with pytest.raises(msgspec.DecodeError):
        thing["spec"]
    pod = made(POD, enveloped=True)
    assert pod["spec"] is pod["spec"]
    assert pod.to_dict() is pod.to_dict()


@pytest.mark.parametrize("enveloped", [True, False])
def test_labels_and_types_are_read_from_the_bytes(enveloped: bool) -> None:
    class Spec(msgspec.Struct, rename="camel"):
        node_name: str

    class Pod(msgspec.Struct):
        spec: Spec

    pod = made(POD, enveloped=enveloped)
    assert pod.labels == {"app": "web"}
    assert pod.as_type(Pod).spec.node_name == "n1"
    assert made({"metadata": {}}, enveloped=enveloped).labels == {}
    with pytest.raises(msgspec.ValidationError):
        made({"spec": {}}, enveloped=enveloped).as_type(Pod)


def test_it_counts_as_a_mapping_and_not_as_a_key() -> None:
    pod = made(POD, enveloped=False)
    assert isinstance(pod, Mapping)
    assert pod.get("status", "none") == "none"
    assert "status" not in pod
    with pytest.raises(TypeError):
        hash(pod)
