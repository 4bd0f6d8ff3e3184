import asyncio
import re
import ssl
from pathlib import Path

import pytest
import trustme

from unblink.client.access import Access
from unblink.client.credentials import ClientCertificate, KubeconfigError
from unblink.client.exec_plugin import V1, Credential, ExecConfig, ExecPlugin
from unblink.client.proxy import Proxy

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes()


def issued(name: str) -> ClientCertificate:
    leaf = AUTHORITY.issue_cert(name)
    return ClientCertificate(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())


def trusted(access: Access) -> int:
    context = access.tls()
    assert context is not None
    return len(context.get_ca_certs())


def seen_by_a_server(access: Access) -> str:
    """The name in the client certificate that a handshake shows."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("kubernetes").configure_cert(server)
    AUTHORITY.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    client = access.tls()
    assert client is not None
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="kubernetes")
    theirs = server.wrap_bio(up, down, server_side=True)
    for side in (ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = theirs.getpeercert()
    assert certificate is not None
    names = certificate["subjectAltName"]
    assert isinstance(names, tuple)
    return str(names[0][1])


def plugin(*credentials: Credential) -> ExecPlugin:
    given = iter(credentials)

    async def run(config: ExecConfig) -> Credential:
        return next(given)

    return ExecPlugin(ExecConfig("config: users[u].user.exec", V1, "c"), run)


def test_tls_is_1_2_or_later_and_trusts_the_given_authority_alone() -> None:
    context = Access("https", "a", 443, ca=CA).tls()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert Access("http", "a", 80).tls() is None


def test_any_certificate_is_accepted_only_if_asked_for() -> None:
    context = Access("https", "a", 443, ca=b"not even looked at", insecure=True).tls()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_certificates_in_files_are_read_anew(tmp_path: Path) -> None:
    files = tmp_path / "ca", tmp_path / "crt", tmp_path / "key"
    access = Access("https", "a", 443, ca_file=files[0], certificate_files=(files[1], files[2]))
    for name in ("one", "two"):
        for file, content in zip(files, (CA, issued(name).certificate, issued(name).private_key), strict=True):
            file.write_bytes(content)
        with pytest.raises(
            KubeconfigError, match=f"^client-certificate {files[1]} and client-key {files[2]}: expected"
        ):
            access.tls()
        pair = issued(name)
        files[1].write_bytes(pair.certificate)
        files[2].write_bytes(pair.private_key)
        assert seen_by_a_server(access) == name
    files[0].write_bytes(CA + trustme.CA().cert_pem.bytes())
    assert trusted(access) == 2
    files[0].write_bytes(b"no PEM")
    with pytest.raises(KubeconfigError, match=f"^certificate-authority: {files[0]}: expected PEM certificates"):
        access.tls()
    files[0].unlink()
    with pytest.raises(KubeconfigError, match=f"^{files[0]}: cannot read certificate-authority: No such file"):
        access.tls()


def test_data_goes_before_files() -> None:
    none = Path("/none")
    access = Access("https", "a", 443, ca=CA, ca_file=none, certificate=issued("x"), certificate_files=(none, none))
    assert (trusted(access), seen_by_a_server(access)) == (1, "x")


@pytest.mark.parametrize(
    ("access", "field"),
    [
        (Access("https", "a", 1, ca=b"no PEM"), "certificate-authority"),
        (Access("https", "a", 1, ca=b""), "certificate-authority"),
        (Access("https", "a", 1, ca=b"\xff"), "certificate-authority"),
        (Access("https", "a", 1, certificate=ClientCertificate(b"no PEM", b"no key")), "client-certificate and client"),
    ],
)
def test_unusable_pem_is_said_with_its_field(access: Access, field: str) -> None:
    with pytest.raises(KubeconfigError, match=f"^{field}.*: expected"):
        access.tls()


def test_a_token_file_is_read_each_time_also_when_a_link_to_it_is_swapped(tmp_path: Path) -> None:
    # As kubelet does it: token -> ..data/token, ..data -> a folder of the version.
    for version, token in (("1", "one\n"), ("2", "two\n"), ("3", "\n"), ("4", "two words")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(token)
    (tmp_path / "token").symlink_to("..data/token")

    def swap(version: str) -> None:
        (tmp_path / "new").symlink_to(version)
        (tmp_path / "new").rename(tmp_path / "..data")

    access = Access("https", "a", 443, token_file=tmp_path / "token", token="older")
    swap("1")
    assert (access.bearer_token(), access.authorization()) == ("one", "Bearer one")
    swap("2")
    assert access.bearer_token() == "two"
    swap("3")
    with pytest.raises(KubeconfigError, match=f"{access.token_file}: the token is empty"):
        access.bearer_token()
    swap("4")
    with pytest.raises(KubeconfigError, match="without spaces inside"):
        access.bearer_token()
    (tmp_path / "..data").unlink()
    with pytest.raises(KubeconfigError, match=f"{access.token_file}: cannot read the token: No such file"):
        access.bearer_token()


def test_after_a_401_another_try_helps_where_the_token_is_another_by_now(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one")
    access = Access("https", "a", 443, token_file=tmp_path / "token")
    sent = access.authorization()
    assert not access.on_unauthorized()
    assert not access.on_unauthorized(sent)
    (tmp_path / "token").write_text("two")
    assert access.on_unauthorized(sent)
    assert not Access("https", "a", 443, token="t").on_unauthorized("Bearer t")


def test_a_plugins_token_is_forgotten_after_a_401_unless_it_is_another_by_now() -> None:
    async def run() -> None:
        access = Access(
            "https", "a", 443, exec_plugin=plugin(Credential("one"), Credential("two"), Credential("three"))
        )
        with pytest.raises(KubeconfigError, match=r"no credential before refresh\(\)"):
            access.authorization()
        assert not access.on_unauthorized()
        await access.refresh()
        await access.refresh()
        sent = access.authorization()
        assert sent == "Bearer one"
        assert access.on_unauthorized(sent)
        assert access.authorization() == sent
        await access.refresh()
        assert access.authorization() == "Bearer two"
        assert access.on_unauthorized(sent)
        await access.refresh()
        assert access.authorization() == "Bearer two"
        assert access.on_unauthorized()
        await access.refresh()
        assert access.authorization() == "Bearer three"

    asyncio.run(run())


def test_a_plugins_certificate_is_in_the_next_context_and_a_given_one_goes_before_it() -> None:
    async def run() -> None:
        given = plugin(*(Credential(certificate=issued(name)) for name in ("one", "two")))
        access = Access("https", "a", 443, ca=CA, exec_plugin=given)
        await access.refresh()
        assert (seen_by_a_server(access), access.authorization()) == ("one", None)
        assert access.on_unauthorized()
        await access.refresh()
        assert seen_by_a_server(access) == "two"
        fixed = Access("https", "a", 443, ca=CA, exec_plugin=given, certificate=issued("fixed"))
        assert seen_by_a_server(fixed) == "fixed"

    asyncio.run(run())


def test_a_plugins_unusable_certificate_is_said_with_its_field() -> None:
    async def run() -> None:
        wrong = ClientCertificate(issued("a").certificate, issued("b").private_key)
        access = Access("https", "a", 443, ca=CA, exec_plugin=plugin(Credential(certificate=wrong)))
        await access.refresh()
        where = "config: users[u].user.exec: status.clientCertificateData and status.clientKeyData: expected"
        with pytest.raises(KubeconfigError, match="^" + re.escape(where)):
            access.tls()

    asyncio.run(run())


def test_who_has_no_plugin_refreshes_nothing() -> None:
    asyncio.run(Access("https", "a", 443).refresh())


def test_headers() -> None:
    access = Access("https", "a", 443, basic="Basic eA==", impersonation=(("Impersonate-User", "jane"),))
    assert (access.bearer_token(), access.authorization()) == (None, "Basic eA==")
    assert access.extra_headers() == (("Impersonate-User", "jane"),)
    assert Access("https", "a", 443).authorization() is None


def test_authority() -> None:
    assert Access("https", "2001:db8::1", 443).authority == "[2001:db8::1]"
    assert Access("https", "a", 80).authority == "a:80"
    assert Access("http", "a", 80).authority == "a"


def test_secrets_are_in_no_repr() -> None:
    access = Access(
        "https",
        "a",
        443,
        token="hush",
        basic="hush",
        certificate=ClientCertificate(b"hush", b"hush"),
        proxy=Proxy("http", "p", 1, "hush"),
        exec_plugin=plugin(Credential("hush")),
    )
    assert "hush" not in repr(access)
