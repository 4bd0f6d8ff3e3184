import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unblink.client.kubeconfig import Access, ClientCertificate, KubeconfigError, load

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes()
LEAF = AUTHORITY.issue_cert("me")
CERTIFICATE = LEAF.cert_chain_pems[0].bytes()
KEY = LEAF.private_key_pem.bytes()
OTHER_KEY = AUTHORITY.issue_cert("you").private_key_pem.bytes()


def write(folder: Path, cluster: Any = None, user: Any = None, **root: Any) -> Path:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443"} if cluster is None else cluster}],
        "users": [{"name": "u", "user": {} if user is None else user}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content | root))
    return path


def test_files_are_found_beside_the_kubeconfig_and_data_wins_over_them(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "me.crt").write_bytes(b"other")
    (tmp_path / "me.key").write_bytes(KEY)
    cluster = {
        "server": "https://[2001:db8::1]:8443/k8s/",
        "certificate-authority": "ca.crt",
        "tls-server-name": "kubernetes",
    }
    user = {
        "client-certificate": "me.crt",
        "client-certificate-data": base64.encodebytes(CERTIFICATE).decode(),
        "client-key": "me.key",
    }
    access = load(write(tmp_path, cluster, user))
    assert access == Access(
        "https",
        "2001:db8::1",
        8443,
        base_path="/k8s",
        ca=CA,
        tls_server_name="kubernetes",
        certificate=ClientCertificate(CERTIFICATE, KEY),
    )
    assert access.authority == "[2001:db8::1]:8443"
    context = access.tls()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = load(write(tmp_path, user={"tokenFile": "token", "token": "older"}))
    assert access.bearer_token() == "one"
    (tmp_path / "token").write_text("two\n")
    assert access.bearer_token() == "two"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(KubeconfigError, match="the token file is empty"):
        access.bearer_token()
    (tmp_path / "token").unlink()
    with pytest.raises(KubeconfigError, match="No such file"):
        access.bearer_token()


def test_ports_and_plain_http(tmp_path: Path) -> None:
    access = load(write(tmp_path, {"server": "http://127.0.0.1"}))
    assert (access.port, access.authority, access.tls()) == (80, "127.0.0.1", None)
    assert load(write(tmp_path, {"server": "https://example.test"})).port == 443


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current-context": ""}, "no current-context"),
        ({"current-context": "x"}, "contexts has no 'x'; it has: c"),
        ({"contexts": 5}, "contexts: expected a list, found int"),
        ({"contexts": [{"name": "c", "context": {}}]}, r"contexts\[c\].context: no cluster"),
        ({"contexts": [{"name": "c", "context": []}]}, r"contexts\[c\].context: expected a mapping, found list"),
        ({"clusters": None}, "clusters has no 'k'; it has: nothing"),
        ({"cluster": {}}, "no server; expected a URL"),
        ({"cluster": {"server": 7}}, "server: expected text, found int"),
        ({"cluster": {"server": "192.0.2.1:6443"}}, "server: expected a URL"),
        ({"cluster": {"server": "https://192.0.2.1:x"}}, "server: "),
        ({"cluster": {"server": "https://a", "insecure-skip-tls-verify": True}}, "insecure-skip-tls-verify is refused"),
        ({"cluster": {"server": "https://a", "proxy-url": "http://b"}}, "proxy-url is not supported"),
        ({"cluster": {"server": "https://a", "certificate-authority": "no"}}, "certificate-authority: cannot read"),
        ({"cluster": {"server": "https://a", "certificate-authority-data": "!"}}, "expected base64"),
        ({"user": {"exec": {"command": "x"}}}, r"users\[u\].user: exec is not supported"),
        ({"user": {"username": "a"}}, "username is not supported"),
        ({"user": {"client-key-data": "YQ=="}}, "give both or none"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **change)
    with pytest.raises(KubeconfigError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(KubeconfigError, match=r"kubeconfig:3: not YAML"):
        load(path)
    with pytest.raises(KubeconfigError, match="No such file"):
        load(tmp_path / "nothing")


@given(content=st.binary(max_size=60) | st.builds(lambda text: text.encode(), st.text(max_size=60)))
def test_any_bytes_are_a_kubeconfig_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-kubeconfig"
    path.write_bytes(content)
    with pytest.raises(KubeconfigError):
        load(path)


@pytest.mark.parametrize(
    "wrong",
    [
        Access("https", "a", 1, ca=b"no PEM"),
        Access("https", "a", 1, ca=b"\xff"),
        Access("https", "a", 1, certificate=ClientCertificate(CERTIFICATE, b"no key")),
        Access(
            "https",
            "a",
            1,
            certificate=ClientCertificate(CERTIFICATE, AUTHORITY.issue_cert("b").private_key_pem.bytes()),
        ),
    ],
)
def test_unusable_pem_is_a_kubeconfig_error(wrong: Access) -> None:
    with pytest.raises(KubeconfigError, match="expected"):
        wrong.tls()


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    access = load(write(tmp_path, user={"token": "hush"}))
    assert access.token == "hush"
    assert "hush" not in repr(access)
    assert KEY.decode().splitlines()[1] not in repr(ClientCertificate(CERTIFICATE, KEY))
