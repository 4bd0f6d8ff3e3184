import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unblink.client import kubeconfig_file
from unblink.client.credentials import KubeconfigError
from unblink.client.kubeconfig_file import MAX_FILE_BYTES, Place, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kubeconfig"


def test_a_file_is_a_mapping_and_an_empty_one_an_empty_mapping(file: Path) -> None:
    file.write_text("a: {b: c}\n")
    assert read(file).content == {"a": {"b": "c"}}
    file.write_text("")
    assert read(file).content == {}
    file.write_text("[]")
    with pytest.raises(KubeconfigError, match="kubeconfig: expected a mapping, found list"):
        read(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        read(file)
    with pytest.raises(KubeconfigError, match="cannot read it: Is a directory"):
        read(file.parent)


@pytest.mark.parametrize("parser", ["libyaml", "python"])
@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: [\n", 3, "(did not find )?expected"),
        ("token: *hush", 1, "found undefined alias$"),
        ("token: !hush x", 1, "could not determine a constructor for the tag$"),
        ("token: 'hush", 1, "found unexpected end of stream"),
        ("token: %hush", 1, "found character"),
        ("a: 1\n---\nhush: 2", 2, "but found another document"),
        ("a: \0hush", None, "unreadable"),
        ("a: !!int hush", None, r"a value that its type cannot have \(ValueError\)"),
        ("a: !!bool hush", None, r"a value that its type cannot have \(KeyError\)"),
        ("a: " + "1" * 5000, None, "a value that its type cannot have"),
        ("a: &a {x: 1}\nb: {<<: *a}", 2, r"merge keys \(<<\) are not supported"),
        ("!!merge x: 1", 1, r"merge keys \(<<\) are not supported"),
        ("[" * 200_000, 1, "more than 64 levels deep"),
        ("- " * 200_000, 1, "more than 64 levels deep"),
    ],
)
def test_what_is_no_plain_yaml_is_said_with_its_line_and_without_its_text(
    file: Path, monkeypatch: pytest.MonkeyPatch, parser: str, text: str, line: int | None, problem: str
) -> None:
    if parser == "python":
        monkeypatch.setattr(kubeconfig_file, "_Loader", yaml.SafeLoader)
    file.write_text(text)
    with pytest.raises(KubeconfigError, match=f"kubeconfig{f':{line}' if line else ''}: not YAML: {problem}") as caught:
        read(file)
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


def test_more_values_than_a_kubeconfig_has_are_refused(file: Path) -> None:
    file.write_text("[" + "a," * 300_000 + "]")
    with pytest.raises(KubeconfigError, match="more than 200000 values"):
        read(file)


def test_a_file_of_8_mib_is_read_and_a_bigger_one_is_refused(file: Path) -> None:
    head = "a: "
    file.write_text(head + "b" * (MAX_FILE_BYTES - len(head)))
    assert len(read(file).text("a") or "") == MAX_FILE_BYTES - len(head)
    file.write_text(head + "b" * (MAX_FILE_BYTES - len(head) + 1))
    with pytest.raises(KubeconfigError, match="bigger than 8388608 bytes"):
        read(file)


def test_aliases_are_not_written_out_where_nobody_asks(file: Path) -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 40))
    file.write_text(f"l0: &l0 [x]\n{levels}b: c\nself: &self [*self]\n")
    root = read(file)
    assert root.text("b") == "c"
    for key in ("l39", "self"):
        with pytest.raises(KubeconfigError, match=f"{key}: expected at most 10000 values, 64 deep"):
            root.copy(key)
    assert root.copy("l2") == [[["x"]] * 9] * 9


@given(content=st.binary(max_size=60) | st.builds(lambda text: text.encode(), st.text(max_size=60)))
def test_any_bytes_are_a_mapping_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-file"
    path.write_bytes(content)
    try:
        assert isinstance(read(path).content, dict)
    except KubeconfigError as error:
        assert str(error).startswith(str(path))


def place(content: Any) -> Place:
    return Place(Path("/folder/file"), "root", content)


def test_values_have_their_type_or_are_missing() -> None:
    root = place({"t": "x", "e": "", "n": None, "f": True, "l": ["a"], "m": {"k": "v"}, "d": [{"i": "1"}], "b": "eA=="})
    assert [root.text(key) for key in ("t", "e", "n", "-")] == ["x", None, None, None]
    assert [root.flag(key) for key in ("f", "n", "-")] == [True, False, False]
    assert [root.texts(key) for key in ("l", "n")] == [("a",), ()]
    assert root.below("-") is None
    below = root.below("m")
    assert below is not None
    assert (below.name, below.text("k")) == ("root.m", "v")
    assert [(each.name, each.text("i")) for each in root.each("d")] == [("root.d[0]", "1")]
    assert root.path("t") == Path("/folder/x")
    assert (root.path("-"), root.data("-"), root.contents("-")) == (None, None, None)
    assert root.data("b") == b"x"
    assert place({"k": {1: [None, 1.5, "x"]}}).copy("k") == {"1": [None, 1.5, "x"]}


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("text", 5, "k: expected text, found int"),
        ("flag", "yes", "k: expected true or false, found str"),
        ("items", {}, "k: expected a list, found dict"),
        ("texts", ["a", 1], r"k\[1\]: expected text, found int"),
        ("below", [], r"root\.k: expected a mapping, found list"),
        ("each", [1], r"root\.k\[0\]: expected a mapping, found int"),
        ("path", "a\0b", "k: expected a path"),
        ("data", "!", "k: expected base64"),
        ("data", "\u00fc", "k: expected base64"),
        ("contents", "none", "k: cannot read /folder/none: No such file"),
        ("copy", [b"x"], "k: expected values that JSON knows, found bytes"),
    ],
)
def test_a_wrong_value_is_named_by_its_type(method: str, value: object, message: str) -> None:
    with pytest.raises(KubeconfigError, match=message) as caught:
        getattr(place({"k": value}), method)("k")
    assert str(caught.value).startswith("/folder/file: root")


def test_what_a_file_holds_is_found_beside_it(file: Path) -> None:
    (file.parent / "ca").write_bytes(b"CA")
    data = json.dumps(base64.encodebytes(b"D" * 90).decode())
    file.write_text(f"absolute: {file.parent}/ca\nrelative: ca\ndata: {data}")
    root = read(file)
    assert [root.contents(key) for key in ("absolute", "relative")] == [b"CA", b"CA"]
    assert root.data("data") == b"D" * 90
