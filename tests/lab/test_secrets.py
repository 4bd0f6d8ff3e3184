"""The run's secrets: for its owner alone, and in no file that is kept."""

import ssl
from pathlib import Path

from unblink.lab import secrets


def test_files_for_their_owner_alone_that_tls_takes(tmp_path: Path) -> None:
    made = secrets.make(tmp_path / "secrets")
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(made.tls.certificate, made.tls.private_key)
    ssl.create_default_context(cafile=str(made.tls.ca))
    assert made.token_auth_file.read_text().startswith(made.token_file.read_text() + ",lab,")


def test_a_kubeconfig_names_the_files_and_holds_no_secret(tmp_path: Path) -> None:
    made = secrets.make(tmp_path / "secrets")
    secrets.write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", made)
    text = (tmp_path / "kubeconfig").read_text()
    assert made.token_file.read_text() not in text
    assert str(made.token_file) in text
    assert "tls-server-name: kubernetes.unblink.lab" in text


def test_two_runs_have_nothing_in_common(tmp_path: Path) -> None:
    one, two = secrets.make(tmp_path / "one"), secrets.make(tmp_path / "two")
    assert one.token_file.read_text() != two.token_file.read_text()
    assert one.tls.ca.read_bytes() != two.tls.ca.read_bytes()
