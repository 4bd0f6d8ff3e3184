import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.media import JSON, PROTOBUF, YAML, Media, accepts, body, negotiate
from unblink.lab.apiserver.statuses import ApiError

KUBECTL = f"{JSON};as=Table;v=v1;g=meta.k8s.io,{JSON};as=Table;v=v1beta1;g=meta.k8s.io,{JSON}"


@pytest.mark.parametrize(
    ("accept", "known", "watch", "picked"),
    [
        ("", True, False, Media(JSON)),
        ("*/*", True, False, Media(JSON)),
        (KUBECTL, True, True, Media(JSON, "Table")),
        (f"{PROTOBUF},{JSON}", True, True, Media(PROTOBUF)),
        (f"{PROTOBUF},{JSON}", False, True, Media(JSON)),
        (f"{PROTOBUF};stream=watch", True, True, Media(PROTOBUF)),
        (f"{JSON};q=0.1, {YAML}", True, False, Media(YAML)),
        (f"{YAML},{JSON}", True, True, Media(JSON)),
        (f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", True, False, Media(JSON, "PartialObjectMetadata")),
        (f"{JSON};as=Table;v=v1beta1,{YAML}", True, False, Media(YAML)),
    ],
)
def test_what_is_picked(accept: str, known: bool, watch: bool, picked: Media) -> None:
    assert negotiate(accept, protobuf_known=known, watch=watch) == picked


@pytest.mark.parametrize("accept", ["text/html", PROTOBUF, f"{JSON};q=0", f"{JSON};q=x"])
def test_what_cannot_be_had(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        negotiate(accept, protobuf_known=False)
    assert caught.value.code == 406


@given(st.text(alphabet="a/*;=,q.1 json", max_size=30))
def test_any_header_is_answered(accept: str) -> None:
    try:
        assert negotiate(accept, protobuf_known=True).type in (JSON, YAML, PROTOBUF)
    except ApiError as error:
        assert error.code == 406


def test_parameters_that_have_to_be_there() -> None:
    wanted = {"g": "apidiscovery.k8s.io", "v": "v2", "as": "APIGroupDiscoveryList"}
    full = f"{JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    assert accepts(f"{full},{JSON}", JSON, **wanted)
    assert not accepts(f"{JSON},{full}", JSON, **wanted)
    assert not accepts(f"{JSON};v=v2beta1", JSON, **wanted)


def test_bodies() -> None:
    thing = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x"}, "verbs": ("a",)}
    assert body(Media(JSON), thing).endswith(b"\n")
    assert body(Media(YAML), thing) == b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\nverbs:\n- a\n"
    assert body(Media(PROTOBUF), thing).startswith(b"k8s\0")
