"""What a run's parties prove themselves with: one CA, one server certificate, one token, made for this run alone."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml

from unblink.chain import TlsFiles

SERVER_NAME = "kubernetes.unblink.lab"
USER = "lab"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Files under one folder that is removed when the run ends. ``tls`` serves for the gateway and every apiserver."""

    tls: TlsFiles
    token_file: Path
    token_auth_file: Path
    """kube-apiserver's --token-auth-file."""


def make(folder: Path) -> Secrets:
    """Write the secrets of one run into `folder`, readable by its owner alone."""
    folder.mkdir(mode=0o700)
    authority = trustme.CA(organization_name="unblink lab")
    certificate = authority.issue_cert(SERVER_NAME, common_name=SERVER_NAME)
    tls = TlsFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority.cert_pem.write_to_path(str(tls.ca))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(tls.certificate), append=True)
    certificate.private_key_pem.write_to_path(str(tls.private_key))
    token = secrets.token_urlsafe(32)
    made = Secrets(tls, folder / "token", folder / "tokens.csv")
    made.token_file.write_text(token)
    made.token_auth_file.write_text(f'{token},{USER},{USER},"system:masters"\n')
    for path in folder.iterdir():
        path.chmod(0o600)
    return made


def write_kubeconfig(path: Path, server: str, made: Secrets) -> None:
    """A kubeconfig for `server` (a URL) that names the files of the secrets and holds none of them."""
    named = [
        (
            "clusters",
            "cluster",
            {"server": server, "certificate-authority": str(made.tls.ca), "tls-server-name": SERVER_NAME},
        ),
        ("users", "user", {"tokenFile": str(made.token_file)}),
        ("contexts", "context", {"cluster": "lab", "user": "lab", "namespace": "lab"}),
    ]
    content: dict[str, object] = {"apiVersion": "v1", "kind": "Config", "current-context": "lab"}
    content |= {plural: [{"name": "lab", singular: body}] for plural, singular, body in named}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
