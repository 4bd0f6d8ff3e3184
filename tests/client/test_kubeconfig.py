import asyncio
import base64
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unblink.client.exec_plugin import V1, V1BETA1
from unblink.client.kubeconfig import Access, ClientCertificate, KubeconfigError, find, load
from unblink.client.proxy import Proxy

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
    assert load(write(tmp_path, cluster, user)) == Access(
        "https",
        "2001:db8::1",
        8443,
        base_path="/k8s",
        ca_file=tmp_path / "ca.crt",
        tls_server_name="kubernetes",
        certificate=ClientCertificate(CERTIFICATE, KEY),
    )
    (tmp_path / "me.crt").write_bytes(CERTIFICATE)
    cluster["certificate-authority-data"] = base64.b64encode(CA).decode()
    del user["client-certificate-data"]
    access = load(write(tmp_path, cluster, user))
    assert (access.ca, access.ca_file) == (CA, None)
    assert access.certificate_files == (tmp_path / "me.crt", tmp_path / "me.key")
    assert access.certificate is None


def test_who_we_are(tmp_path: Path) -> None:
    both = load(write(tmp_path, user={"tokenFile": "token", "token": "older"}))
    assert (both.token_file, both.token) == (tmp_path / "token", "older")
    assert load(write(tmp_path, user={"token": "t"})).authorization() == "Bearer t"
    assert load(write(tmp_path, user={"username": "u", "password": "p"})).authorization() == "Basic dTpw"
    assert load(write(tmp_path, user={"username": "u"})).authorization() == "Basic dTo="
    assert load(write(tmp_path)).authorization() is None


def test_plain_http_gets_no_credentials_but_who_to_act_as(tmp_path: Path) -> None:
    # As client-go does: what `kubectl proxy` serves needs none, and anything else could be read on the way.
    access = load(write(tmp_path, {"server": "http://a"}, {"token": "t", "exec": {"command": "x"}, "as": "jane"}))
    assert (access.authorization(), access.exec_plugin) == (None, None)
    assert access.extra_headers() == (("Impersonate-User", "jane"),)


def test_impersonation(tmp_path: Path) -> None:
    user = {
        "as": "jane doe",
        "as-uid": "7",
        "as-groups": ["a", "b"],
        "as-user-extra": {"Scopes": ["x", "y"], "acme.com/project%": ["z"]},
    }
    assert load(write(tmp_path, user=user)).extra_headers() == (
        ("Impersonate-User", "jane doe"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-scopes", "x"),
        ("Impersonate-Extra-scopes", "y"),
        ("Impersonate-Extra-acme.com%2Fproject%25", "z"),
    )


def test_any_certificate_is_accepted_only_if_the_caller_asks(tmp_path: Path) -> None:
    cluster = {"server": "https://a", "insecure-skip-tls-verify": True}
    assert load(write(tmp_path, cluster), insecure=True).insecure
    assert load(write(tmp_path), insecure=True).insecure
    assert not load(write(tmp_path, cluster | {"insecure-skip-tls-verify": False})).insecure
    asks = r"insecure-skip-tls-verify is refused.*insecure=True in Python, --insecure-skip-tls-verify on the command"
    with pytest.raises(KubeconfigError, match=asks):
        find(write(tmp_path, cluster), environment={})


def test_a_clusters_proxy_goes_before_the_environments(tmp_path: Path) -> None:
    environment = {"HTTPS_PROXY": "env:1", "NO_PROXY": "a"}
    path = write(tmp_path, {"server": "https://a", "proxy-url": "https://me:hush@p"})
    assert find(path, environment=environment).proxy == Proxy("https", "p", 443, "Basic bWU6aHVzaA==")
    assert find(write(tmp_path, {"server": "https://a"}), environment=environment).proxy is None
    assert find(write(tmp_path, {"server": "https://b"}), environment=environment).proxy == Proxy("http", "env", 1)
    assert load(write(tmp_path, {"server": "https://b"})).proxy is None


def test_an_exec_plugin_is_read_and_run(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "plugin"
    script.write_text(
        f"#!{sys.executable} -S\nimport json, os, sys\n"
        "print(json.dumps({'apiVersion': sys.argv[1], 'kind': 'ExecCredential', 'status': {'token': os.environ['T']}}))"
    )
    script.chmod(0o700)
    plugin = {
        "apiVersion": V1,
        "command": "bin/plugin",
        "args": [V1],
        "env": [{"name": "T", "value": "t"}],
        "interactiveMode": "IfAvailable",
    }
    access = load(write(tmp_path, user={"exec": plugin}))
    asyncio.run(access.refresh())
    assert access.authorization() == "Bearer t"
    assert access.exec_plugin is not None
    assert access.exec_plugin.config.command == str(script)


def test_what_an_exec_plugin_is_told_of_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "ca").write_bytes(CA)
    cluster = {
        "server": "https://a",
        "certificate-authority": "ca",
        "tls-server-name": "b",
        "proxy-url": "http://p",
        "disable-compression": True,
        "extensions": [
            {"name": "other", "extension": 1},
            {"name": "client.authentication.k8s.io/exec", "extension": {"audience": ["x"]}},
        ],
    }
    plugin = {"apiVersion": V1BETA1, "command": "plugin", "provideClusterInfo": True, "installHint": "get it"}
    access = load(write(tmp_path, cluster, {"exec": plugin}))
    assert access.exec_plugin is not None
    config = access.exec_plugin.config
    assert config.cluster == {
        "server": "https://a",
        "tls-server-name": "b",
        "certificate-authority-data": base64.b64encode(CA).decode(),
        "proxy-url": "http://p",
        "disable-compression": True,
        "config": {"audience": ["x"]},
    }
    assert (config.command, config.interactive, config.install_hint) == ("plugin", False, "get it")
    told = load(write(tmp_path, cluster, {"exec": plugin}), insecure=True).exec_plugin
    assert told is not None
    assert told.config.cluster is not None
    assert told.config.cluster["insecure-skip-tls-verify"] is True
    assert "certificate-authority-data" not in told.config.cluster
    always = load(write(tmp_path, user={"exec": {"apiVersion": V1, "command": "x", "interactiveMode": "Always"}}))
    assert always.exec_plugin is not None
    assert always.exec_plugin.config.interactive
    assert always.exec_plugin.config.cluster is None


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
        ({"cluster": {"server": "https://a", "proxy-url": "socks5://b"}}, "proxy-url: a socks5 proxy is not supported"),
        ({"cluster": {"server": "https://a?b"}}, "without user, query and fragment"),
        ({"cluster": {"server": "https://a", "insecure-skip-tls-verify": "no"}}, "expected true or false, found str"),
        ({"cluster": {"server": "https://a", "certificate-authority-data": "eA=="}}, "expected PEM certificates"),
        ({"clusters": [{"name": "k", "cluster": {}}] * 2}, "clusters: 'k' stands there more than once"),
        ({"users": [5]}, r"users\[0\]: expected a mapping, found int"),
        ({"users": [{"name": 5}]}, r"users\[0\]: name: expected text, found int"),
        ({"users": []}, "users has no 'u'; it has: nothing"),
        ({"cluster": {"server": "https://a", "certificate-authority": "no"}}, "certificate-authority: cannot read"),
        ({"cluster": {"server": "https://a", "certificate-authority-data": "!"}}, "expected base64"),
        ({"user": {"auth-provider": {}}}, "auth-provider is not supported, nor by Kubernetes since 1.26; give exec"),
        ({"user": {"token": "t", "username": "u"}}, "expected one of token .* found several"),
        ({"user": {"token": "t", "exec": {}}}, "expected one of token .* found several"),
        ({"user": {"username": "a:b"}}, "username: expected a name without a colon"),
        ({"user": {"as-uid": "1"}}, "expected as, the user to be, beside them"),
        ({"user": {"as": "a\nb"}}, "as, as-uid, .*: expected visible ASCII characters"),
        ({"user": {"as": "a", "as-groups": ["\u00fc"]}}, "as, as-uid, .*: expected visible ASCII characters"),
        ({"user": {"token": "a b"}}, r"users\[u\].user: token: expected a token"),
        ({"user": {"exec": {}}}, r"users\[u\].user.exec: apiVersion: expected client.auth.*/v1 or client.*/v1beta1"),
        ({"user": {"exec": {"apiVersion": V1BETA1}}}, "exec: no command"),
        ({"user": {"exec": {"apiVersion": V1, "command": "x"}}}, "interactiveMode: expected one of Never, IfAvailable"),
        ({"user": {"exec": {"apiVersion": V1BETA1, "command": "x", "args": [1]}}}, r"args\[0\]: expected text"),
        (
            {"user": {"exec": {"apiVersion": V1BETA1, "command": "x", "env": [{}]}}},
            r"env\[0\]: name: expected the name",
        ),
        ({"user": {"client-certificate": "a", "client-key-data": "YQ=="}}, "client-certificate: cannot read .*/a: No"),
        (
            {"user": {"client-certificate-data": "YQ==", "client-key-data": "YQ=="}},
            "client-certificate and client-key: expected a PEM",
        ),
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


# Where it is found


def one(folder: Path, name: str, **root: Any) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(root))
    return path


def cluster(name: str, host: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "cluster": {"server": f"https://{host}"} | more}


def context(name: str, cluster_name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "context": {"cluster": cluster_name} | more}


def test_of_several_files_the_first_that_sets_a_value_wins(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ca").write_bytes(CA)
    users = [{"name": "u", "user": {"token": "t"}}]
    files = [
        one(tmp_path, "a/1", contexts=[context("a", "k")], clusters=[cluster("k", "first")]),
        tmp_path / "missing",
        one(
            tmp_path,
            "b/2",
            **{"current-context": "b"},
            contexts=[context("b", "k", user="u"), context("c", "other", namespace="n")],
            clusters=[cluster("k", "second", **{"tls-server-name": "x"}), cluster("other", "o")],
        ),
        one(
            tmp_path,
            "b/3",
            **{"current-context": "a"},
            clusters=[cluster("third", "t", **{"certificate-authority": "ca"})],
            contexts=[context("d", "third")],
            users=users,
        ),
    ]
    environment = {"KUBECONFIG": os.pathsep.join(map(str, [*files, ""])), "HOME": "/nowhere"}
    chosen = find(environment=environment)
    assert (chosen.host, chosen.token, chosen.tls_server_name, chosen.namespace) == ("first", "t", None, "default")
    other = find(context="c", environment=environment)
    assert (other.host, other.namespace) == ("o", "n")
    assert find(context="d", environment=environment).ca_file == tmp_path / "b" / "ca"
    with pytest.raises(
        KubeconfigError, match=r"a/1, .*b/2, .*b/3: kubeconfig: contexts has no 'e'; it has: a, b, c, d"
    ):
        find(context="e", environment=environment)
    files[0].write_text("[")
    with pytest.raises(KubeconfigError, match="a/1:2: not YAML"):
        find(environment=environment)


def test_the_file_given_goes_before_the_environments_and_that_before_the_homes(tmp_path: Path) -> None:
    paths = []
    for name in ("given", "variable", ".kube/config"):
        host = name.rpartition("/")[2]
        paths.append(
            one(tmp_path, name, **{"current-context": "c"}, contexts=[context("c", "k")], clusters=[cluster("k", host)])
        )
    environment = {"HOME": str(tmp_path), "KUBECONFIG": str(paths[1])}
    assert find(str(paths[0]), environment=environment).host == "given"
    assert find(environment=environment).host == "variable"
    assert find(environment={"HOME": str(tmp_path), "KUBECONFIG": ""}).host == "config"
    with pytest.raises(KubeconfigError, match="no: cannot read it: No such file"):
        find(tmp_path / "no", environment=environment)


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    for name, content in (("token", b"one\n"), ("ca.crt", CA), ("namespace", b"web\n")):
        (folder / name).write_bytes(content)
    return folder


IN_POD = {"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_its_service_account_serves_and_its_token_rotates(tmp_path: Path, pod: Path) -> None:
    access = find(environment=IN_POD | {"HTTPS_PROXY": "p:1"}, service_account=pod)
    assert access == Access(
        "https",
        "2001:db8::1",
        443,
        ca_file=pod / "ca.crt",
        token_file=pod / "token",
        namespace="web",
        proxy=Proxy("http", "p", 1),
    )
    assert access.authorization() == "Bearer one"
    (pod / "token").write_text("two")
    assert access.authorization() == "Bearer two"
    (pod / "namespace").unlink()
    assert find(environment=IN_POD, service_account=pod, insecure=True).insecure
    assert find(environment=IN_POD, service_account=pod).namespace == "default"


def test_a_kubeconfig_without_contexts_does_not_hide_the_pod(tmp_path: Path, pod: Path) -> None:
    one(tmp_path, ".kube/config", apiVersion="v1", kind="Config", contexts=None)
    environment = IN_POD | {"HOME": str(tmp_path)}
    assert find(environment=environment, service_account=pod).namespace == "web"
    one(tmp_path, ".kube/config", contexts=[context("a", "b")])
    with pytest.raises(KubeconfigError, match="no current-context"):
        find(environment=environment, service_account=pod)


def test_a_broken_pod_is_said(pod: Path) -> None:
    with pytest.raises(KubeconfigError, match=r"^KUBERNETES_SERVICE_PORT: expected a port"):
        find(environment=IN_POD | {"KUBERNETES_SERVICE_PORT": "x"}, service_account=pod)
    (pod / "ca.crt").write_text("x")
    with pytest.raises(KubeconfigError, match=r"ca\.crt: expected PEM certificates"):
        find(environment=IN_POD, service_account=pod)
    (pod / "token").write_text("")
    with pytest.raises(KubeconfigError, match="token: the token is empty"):
        find(environment=IN_POD, service_account=pod)


def test_where_nothing_is_found_it_is_said_what_was_looked_for(tmp_path: Path, pod: Path) -> None:
    one(tmp_path, "empty")
    environment = {"KUBECONFIG": f"{tmp_path}/empty:{tmp_path}/no"}
    with pytest.raises(KubeconfigError) as caught:
        find(environment=environment, service_account=pod)
    assert str(caught.value) == (
        f"no cluster is configured: looked for {tmp_path}/empty (no contexts), {tmp_path}/no (missing),"
        " and a pod's service account (KUBERNETES_SERVICE_HOST is not set);"
        " expected the path of a kubeconfig, $KUBECONFIG, ~/.kube/config, or to run in a pod"
    )
    with pytest.raises(KubeconfigError, match=r"looked for no file \(\$HOME\), .*/none/token is missing"):
        find(environment=IN_POD, service_account=tmp_path / "none")
    with pytest.raises(KubeconfigError, match=r"no kubeconfig for the context 'c': looked for .*config \(missing\)"):
        find(context="c", environment=IN_POD | {"HOME": str(tmp_path)}, service_account=pod)


# Secrets

HUSH = "HushHush7"
HUSHED = base64.b64encode(HUSH.encode()).decode()
PRIVATE = base64.b64encode(KEY).decode()
PLUGIN = {
    "apiVersion": V1,
    "command": "./plugin",
    "interactiveMode": "Never",
    "args": ["login", f"--password={HUSH}"],
    "env": [{"name": "PASSWORD", "value": HUSH}],
}
GOOD_CLUSTER = {"server": "https://a", "proxy-url": f"http://{HUSH}:{HUSH}@p"}


def failing_plugin(folder: Path, says: str) -> None:
    script = folder / "plugin"
    script.write_text(f"#!{sys.executable} -S\nimport os, sys\n{says}\n")
    script.chmod(0o700)


def refreshed(access: Access) -> None:
    asyncio.run(access.refresh())
    access.tls()


def held(text: str) -> str:
    return f"import json; s = json.loads({text!r}); sys.stderr.write(str(s)); print(json.dumps(s))"


@pytest.mark.parametrize(
    ("user", "cluster", "says"),
    [
        ({"token": f"{HUSH}\n{HUSH}"}, {}, ""),
        ({"token": [HUSH]}, {}, ""),
        ({"token": HUSH, "password": HUSH}, {}, ""),
        ({"password": {HUSH: HUSH}}, {}, ""),
        ({"username": f"{HUSH}:{HUSH}", "password": HUSH}, {}, ""),
        ({"client-key-data": HUSH}, {}, ""),
        ({"client-key-data": f"{HUSHED}!"}, {}, ""),
        ({"client-key-data": [HUSH]}, {}, ""),
        ({"client-certificate-data": HUSHED, "client-key-data": HUSHED}, {}, ""),
        ({"client-certificate-data": HUSHED, "client-key-data": PRIVATE}, {}, ""),
        ({"auth-provider": {"config": {"access-token": HUSH}}}, {}, ""),
        ({"exec": HUSH}, {}, ""),
        ({"exec": PLUGIN | {"apiVersion": HUSH}}, {}, ""),
        ({"exec": PLUGIN | {"interactiveMode": HUSH}}, {}, ""),
        ({"exec": PLUGIN | {"args": HUSH}}, {}, ""),
        ({"exec": PLUGIN | {"args": [f"{HUSH}\0"]}}, {}, ""),
        ({"exec": PLUGIN | {"env": [HUSH]}}, {}, ""),
        ({"exec": PLUGIN | {"env": [{"name": "A", "value": [HUSH]}]}}, {}, ""),
        ({"exec": PLUGIN | {"env": [{"name": f"={HUSH}", "value": HUSH}]}}, {}, ""),
        ({"exec": PLUGIN | {"env": [{"name": "A", "value": f"{HUSH}\0"}]}}, {}, ""),
        ({"exec": PLUGIN | {"command": "./missing"}}, {}, ""),
        ({"exec": PLUGIN}, {}, f"print({HUSH!r})"),
        ({"exec": PLUGIN}, {}, "sys.exit(str(sys.argv) + str(os.environ))"),
        ({"exec": PLUGIN}, {}, held(json.dumps({"kind": HUSH, "status": {"token": HUSH}})) + "; sys.exit(1)"),
        ({"exec": PLUGIN}, {}, held(json.dumps({"kind": HUSH, "status": {"token": HUSH}}))),
        ({"exec": PLUGIN}, {}, held(json.dumps({"kind": "ExecCredential", "apiVersion": HUSH}))),
        ({"exec": PLUGIN}, {}, held(json.dumps({"kind": "ExecCredential", "status": HUSH}))),
        (
            {"exec": PLUGIN},
            {},
            held(
                json.dumps(
                    {
                        "kind": "ExecCredential",
                        "apiVersion": V1,
                        "status": {"clientCertificateData": CERTIFICATE.decode(), "clientKeyData": HUSH},
                    }
                )
            ),
        ),
        ({}, {"server": f"https://{HUSH}:{HUSH}@a"}, ""),
        ({}, {"server": f"https://{HUSH}:{HUSH}@a:{HUSH}"}, ""),
        ({}, {"server": f"https://{HUSH}:{HUSH}@[a"}, ""),
        ({}, {"server": f"https://{HUSH}:{HUSH}@a\u2100b"}, ""),
        ({}, {"server": f"{HUSH}:{HUSH}@a"}, ""),
        ({}, {"proxy-url": f"http://{HUSH}:{HUSH}@p:{HUSH}"}, ""),
        ({}, {"proxy-url": f"socks5://{HUSH}:{HUSH}@p"}, ""),
        ({}, {"proxy-url": f"http://{HUSH}:{HUSH}@a\u2100b"}, ""),
        ({}, {"proxy-url": [HUSH]}, ""),
    ],
)
def test_no_error_holds_a_secret(tmp_path: Path, user: Any, cluster: Any, says: str) -> None:
    failing_plugin(tmp_path, says)
    assert_hushed(lambda: refreshed(load(write(tmp_path, GOOD_CLUSTER | cluster, user))))


@pytest.mark.parametrize(
    "text",
    [
        f"token: *{HUSH}",
        f"token: !{HUSH} x",
        f"token: !!int {HUSH}",
        f"token: !!bool {HUSH}",
        f"token: !!timestamp {HUSH}",
        f"token: !!float {HUSH}",
        f"token: @{HUSH}",
        f"token: '{HUSH}",
        f'token: "\\q{HUSH}',
        f"token: {HUSH}: {HUSH}",
        f"token: {HUSH}\n {HUSH}\n: {HUSH}",
        f"token: [{HUSH}",
        f"? {{{HUSH}: 1}}\n: 2",
        f"[{HUSH}]",
        HUSH,
        f"a: 1\n---\n{HUSH}: 1",
    ],
)
def test_no_error_of_a_broken_file_holds_a_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    assert_hushed(lambda: load(tmp_path / "kubeconfig"))


def test_no_error_of_a_token_file_or_a_variable_holds_a_secret(tmp_path: Path, pod: Path) -> None:
    (pod / "token").write_text(f"{HUSH} {HUSH}")
    assert_hushed(lambda: find(environment=IN_POD, service_account=pod))
    for value in (f"socks5://{HUSH}@p", f"http://{HUSH}:{HUSH}@p:{HUSH}"):
        assert_hushed(lambda value=value: find(write(tmp_path), environment={"https_proxy": value}))  # type: ignore[misc]


def assert_hushed(fails: Callable[[], object]) -> None:
    with pytest.raises(KubeconfigError) as caught:
        fails()
    error: BaseException | None = caught.value
    shown = "".join(traceback.format_exception(caught.value))
    chain = []
    while error is not None:
        chain.append(repr(error) + str(error))
        error = error.__cause__ or error.__context__
    line = KEY.decode().splitlines()[1]
    for secret in (HUSH, HUSHED, line, PRIVATE[:40]):
        # The test's own source lines stand in a traceback, but never with a secret's value.
        assert secret not in shown
        assert secret not in "".join(chain)


def test_no_repr_holds_a_secret(tmp_path: Path) -> None:
    users: list[dict[str, Any]] = [
        {"token": HUSH},
        {"username": "u", "password": HUSH},
        {"client-certificate-data": base64.b64encode(CERTIFICATE).decode(), "client-key-data": PRIVATE},
        {"exec": PLUGIN},
    ]
    for user in users:
        access = load(write(tmp_path, GOOD_CLUSTER, user))
        basic = base64.b64encode(f"u:{HUSH}".encode()).decode()
        for secret in (HUSH, HUSHED, basic, KEY.decode().splitlines()[1]):
            assert secret not in repr(access)
            assert access.exec_plugin is None or secret not in repr(access.exec_plugin.config)
