import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from unblink.client.credentials import ClientCertificate, KubeconfigError, basic, bearer_token, reason

AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert("me")
CERTIFICATE = LEAF.cert_chain_pems[0].bytes()
KEY = LEAF.private_key_pem.bytes()


def test_a_certificate_and_its_key_are_loaded() -> None:
    ClientCertificate(CERTIFICATE, KEY).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "here")


def locked() -> bytes:
    key = serialization.load_pem_private_key(KEY, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    "key", [b"", b"no key", AUTHORITY.issue_cert("you").private_key_pem.bytes(), locked()], ids=range(4)
)
def test_a_key_that_cannot_be_used_is_said_with_its_place_and_nobody_is_asked_for_a_passphrase(key: bytes) -> None:
    with pytest.raises(KubeconfigError, match=r"^here: expected a PEM certificate and its own key, without a pass"):
        ClientCertificate(CERTIFICATE, key).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "here")


def test_a_token_is_one_visible_word() -> None:
    assert bearer_token(" a.b-c~+/=\n", "t") == "a.b-c~+/="
    for wrong in ("", " \n", "a b", "a\r\nx-evil: 1", "\u00fc", "a\0"):
        with pytest.raises(KubeconfigError, match=r"^t: "):
            bearer_token(wrong, "t")


def test_basic_is_as_in_the_rfc() -> None:
    assert basic("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617, 2
    assert basic("test", "123\u00a3") == "Basic dGVzdDoxMjPCow=="  # RFC 7617, 2.1


def test_a_reason_quotes_nothing() -> None:
    assert reason(FileNotFoundError(2, "No such file or directory", "hush")) == "No such file or directory"
    assert reason(ValueError("hush")) == "ValueError"


def test_a_certificate_shows_nothing_of_itself() -> None:
    assert repr(ClientCertificate(CERTIFICATE, KEY)) == "ClientCertificate()"
