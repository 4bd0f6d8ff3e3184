"""Where the server is, whom to trust, and who we are: from kubeconfig files, or from a pod's own service account.

Fields: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/. Which file counts:
https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/. As client-go does, the
certificate authority given there is the only one trusted, relative paths start at the file's folder, and a server of
plain http gets no credentials.
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from unblink.client import proxy as proxies
from unblink.client.access import Access
from unblink.client.credentials import ClientCertificate, KubeconfigError, basic, bearer_token
from unblink.client.exec_plugin import V1, V1BETA1, ExecConfig, ExecPlugin
from unblink.client.kubeconfig_file import Place, read

__all__ = ["Access", "ClientCertificate", "KubeconfigError", "find", "load"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_EXTENSION = "client.authentication.k8s.io/exec"
INTERACTIVE_MODES = {"Never": False, "IfAvailable": False, "Always": True}
"""Whether a plugin gets our standard input. A library does not share it unless the plugin cannot do without."""


def load(
    file: Path,
    context: str | None = None,
    *,
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Access:
    """Read one kubeconfig's context, by default its current one.

    ``insecure`` accepts any certificate of the server. ``environment`` may name a proxy; by default none but the
    file's ``proxy-url`` is used.

    :raises KubeconfigError: if the file cannot be read or used.
    """
    try:
        root = read(file)
    except FileNotFoundError:
        raise KubeconfigError(f"{file}: cannot read it: No such file or directory") from None
    return _from_files([root], context, insecure, environment or {})


def find(
    kubeconfig: Path | str | None = None,
    context: str | None = None,
    *,
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """The access that kubectl would use here: the file given, else those of ``$KUBECONFIG``, else ``~/.kube/config``;
    and where these name no context, a pod's service account.

    Of several files the first that sets a value or has an entry of a name wins, as a whole; missing ones are skipped.
    ``insecure`` accepts any certificate of the server. ``environment`` is the process's own by default.

    :raises KubeconfigError: if nothing was found, or what was found cannot be used.
    """
    environment = os.environ if environment is None else environment
    if kubeconfig is not None:
        return load(Path(kubeconfig).expanduser(), context, insecure=insecure, environment=environment)
    files = _files(environment)
    roots = _existing(files)
    if context is not None or any(root.text("current-context") or root.items("contexts") for root in roots):
        if roots:
            return _from_files(roots, context, insecure, environment)
        raise KubeconfigError(f"no kubeconfig for the context {context!r}: looked for {_looked_for(files, roots)}")
    missing = _missing_in_pod(environment, service_account)
    if missing is None:
        return _in_cluster(environment, service_account, insecure)
    raise KubeconfigError(
        f"no cluster is configured: looked for {_looked_for(files, roots)}, and a pod's service account ({missing});"
        " expected the path of a kubeconfig, $KUBECONFIG, ~/.kube/config, or to run in a pod"
    )


def _files(environment: Mapping[str, str]) -> list[Path]:
    if named := [Path(name) for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]:
        return named
    home = environment.get("HOME")
    return [Path(home) / ".kube" / "config"] if home else []


def _existing(files: Sequence[Path]) -> list[Place]:
    roots = []
    for file in files:
        try:
            roots.append(read(file))
        except FileNotFoundError:
            continue
    return roots


def _looked_for(files: Sequence[Path], roots: Sequence[Place]) -> str:
    empty = {root.file for root in roots}
    return ", ".join(f"{file} ({'no contexts' if file in empty else 'missing'})" for file in files) or "no file ($HOME)"


# In a pod: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api


def _missing_in_pod(environment: Mapping[str, str], service_account: Path) -> str | None:
    for variable in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        if not environment.get(variable):
            return f"{variable} is not set"
    token = service_account / "token"
    return None if token.is_file() else f"{token} is missing"


def _in_cluster(environment: Mapping[str, str], service_account: Path, insecure: bool) -> Access:
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise KubeconfigError("KUBERNETES_SERVICE_PORT: expected a port such as 443")
    try:
        namespace = (service_account / "namespace").read_text().strip()
    except (OSError, UnicodeDecodeError):
        namespace = ""
    access = Access(
        "https",
        host,
        int(port),
        ca_file=service_account / "ca.crt",
        token_file=service_account / "token",
        proxy=proxies.choose("https", host, int(port), environment),
        insecure=insecure,
        namespace=namespace or "default",
    )
    access.bearer_token()
    access.tls()
    return access


# From files


def _from_files(roots: Sequence[Place], context: str | None, insecure: bool, environment: Mapping[str, str]) -> Access:
    name = context or next((text for root in roots if (text := root.text("current-context"))), None)
    if name is None:
        raise roots[0].error("no current-context; name one of its contexts")
    chosen = _named(roots, "contexts", name, "context")
    cluster_name, user_name = chosen.text("cluster"), chosen.text("user")
    if cluster_name is None:
        raise chosen.error("no cluster; expected the name of one of clusters")
    cluster = _named(roots, "clusters", cluster_name, "cluster")
    user = _named(roots, "users", user_name, "user") if user_name else Place(chosen.file, "user", {})
    access = _access(cluster, user, chosen.text("namespace") or "default", insecure, environment)
    try:
        # What stands in the kubeconfig itself is tried now, where its place is known; other files name themselves.
        replace(access, exec_plugin=None, ca_file=None, certificate_files=None, insecure=access.ca is None).tls()
    except KubeconfigError as error:
        raise KubeconfigError(f"{cluster.file}: {error}") from None
    return access


def _named(roots: Sequence[Place], list_key: str, name: str, item_key: str) -> Place:
    """The entry of this name, from the first file that has one, in a list of {name, item}."""
    known: list[str] = []
    for root in roots:
        entries = {place: place.text("name") or "" for place in root.each(list_key)}
        names = list(entries.values())
        if names.count(name) > 1:
            raise root.error(f"{list_key}: {name!r} stands there more than once; expected names that differ")
        for entry, entry_name in entries.items():
            if entry_name == name:
                return Place(root.file, f"{list_key}[{name}].{item_key}", entry.content.get(item_key))
        known += names
    files = ", ".join(str(root.file) for root in roots)
    raise KubeconfigError(f"{files}: kubeconfig: {list_key} has no {name!r}; it has: {', '.join(known) or 'nothing'}")


def _access(cluster: Place, user: Place, namespace: str, insecure: bool, environment: Mapping[str, str]) -> Access:
    server = cluster.text("server")
    if server is None:
        raise cluster.error("no server; expected a URL such as https://192.0.2.1:6443")
    url = proxies.split(server)
    if url is None or url.hostname is None or url.scheme not in proxies.DEFAULT_PORTS:
        raise cluster.error("server: expected a URL such as https://192.0.2.1:6443")
    if url.username is not None or url.query or url.fragment:
        raise cluster.error("server: expected a URL such as https://192.0.2.1:6443, without user, query and fragment")
    if cluster.flag("insecure-skip-tls-verify") and not insecure:
        raise cluster.error(
            "insecure-skip-tls-verify is refused; give certificate-authority or tls-server-name instead,"
            " or ask for it: insecure=True in Python, --insecure-skip-tls-verify on the command line"
        )
    port = url.port or proxies.DEFAULT_PORTS[url.scheme]
    impersonation = _impersonation(user)
    if url.scheme == "http":
        user = Place(user.file, user.name, {})
    ca = cluster.data("certificate-authority-data")
    token, token_file, basic_value = _token_or_password(user)
    certificate, certificate_files = _certificate(user)
    return Access(
        scheme=url.scheme,
        host=url.hostname,
        port=port,
        base_path=url.path.rstrip("/"),
        ca=ca,
        ca_file=_readable(cluster, "certificate-authority") if ca is None else None,
        tls_server_name=cluster.text("tls-server-name"),
        certificate=certificate,
        certificate_files=certificate_files,
        token=token,
        token_file=token_file,
        basic=basic_value,
        impersonation=impersonation,
        exec_plugin=_exec_plugin(cluster, user, insecure),
        proxy=_proxy(cluster) or proxies.choose(url.scheme, url.hostname, port, environment),
        insecure=insecure,
        namespace=namespace,
    )


def _proxy(cluster: Place) -> proxies.Proxy | None:
    url = cluster.text("proxy-url")
    return None if url is None else proxies.parse(url, f"{cluster.file}: {cluster.name}: proxy-url")


def _readable(place: Place, key: str) -> Path | None:
    """A file that will be read again for each connection, tried now."""
    place.contents(key)
    return place.path(key)


def _certificate(user: Place) -> tuple[ClientCertificate | None, tuple[Path, Path] | None]:
    """Certificate and key, or the two files that hold them. As in client-go, data goes before a file."""
    keys = ("client-certificate", "client-key")
    data = [user.data(f"{key}-data") for key in keys]
    files = [_readable(user, key) if given is None else None for key, given in zip(keys, data, strict=True)]
    chain, key = (given if given is not None else user.contents(name) for name, given in zip(keys, data, strict=True))
    if (chain is None) != (key is None):
        raise user.error("client-certificate and client-key: give both or none")
    if files[0] is not None and files[1] is not None:
        return None, (files[0], files[1])
    return (ClientCertificate(chain, key) if chain is not None and key is not None else None), None


def _token_or_password(user: Place) -> tuple[str | None, Path | None, str | None]:
    """Token, token file (which goes first), and the header's value for a password."""
    if user.content.get("auth-provider") is not None:
        raise user.error(
            "auth-provider is not supported, nor by Kubernetes since 1.26; give exec with the plugin instead"
        )
    token, token_file = user.text("token"), user.path("tokenFile")
    username, password = user.text("username"), user.text("password")
    with_password = username is not None or password is not None
    with_token = token is not None or token_file is not None
    if with_token + with_password + (user.content.get("exec") is not None) > 1:
        raise user.error("expected one of token (or tokenFile), username with password, and exec; found several")
    if username is not None and ":" in username:
        raise user.error("username: expected a name without a colon")
    if token is not None:
        token = bearer_token(token, f"{user.file}: {user.name}: token")
    return token, token_file, basic(username or "", password or "") if with_password else None


# https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/


def _impersonation(user: Place) -> tuple[tuple[str, str], ...]:
    name, uid, groups = user.text("as"), user.text("as-uid"), user.texts("as-groups")
    extra = user.below("as-user-extra")
    if name is None:
        if uid or groups or extra:
            raise user.error("as-uid, as-groups and as-user-extra: expected as, the user to be, beside them")
        return ()
    headers = [("Impersonate-User", name)]
    headers += [("Impersonate-Uid", uid)] if uid is not None else []
    headers += [("Impersonate-Group", group) for group in groups]
    for key in extra.content if extra is not None else ():
        # Header names are letters, digits and a few signs; the rest is percent-encoded, in the name alone.
        escaped = quote(str(key).lower(), safe="!#$&'*+^`|")
        headers += [(f"Impersonate-Extra-{escaped}", value) for value in extra.texts(key)] if extra is not None else []
    if not all(re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value) for _, value in headers):
        raise user.error("as, as-uid, as-groups and as-user-extra: expected visible ASCII characters")
    return tuple(headers)


def _exec_plugin(cluster: Place, user: Place, insecure: bool) -> ExecPlugin | None:
    place = user.below("exec")
    if place is None:
        return None
    version = place.text("apiVersion")
    if version not in (V1, V1BETA1):
        raise place.error(f"apiVersion: expected {V1} or {V1BETA1}")
    command = place.text("command")
    if command is None or "\0" in command:
        raise place.error("no command; expected the name or path of the plugin")
    mode = place.text("interactiveMode") or ("IfAvailable" if version == V1BETA1 else None)
    if mode not in INTERACTIVE_MODES:
        raise place.error(f"interactiveMode: expected one of {', '.join(INTERACTIVE_MODES)}")
    env = []
    for variable in place.each("env"):
        name = variable.text("name")
        if name is None or "=" in name:
            raise variable.error("name: expected the name of an environment variable")
        env.append((name, variable.text("value") or ""))
    return ExecPlugin(
        ExecConfig(
            place=f"{place.file}: {place.name}",
            api_version=version,
            command=str((place.file.parent / command).absolute()) if "/" in command else command,
            args=place.texts("args"),
            env=tuple(env),
            interactive=INTERACTIVE_MODES[mode],
            install_hint=place.text("installHint"),
            cluster=_cluster_info(cluster, insecure) if place.flag("provideClusterInfo") else None,
        )
    )


def _cluster_info(cluster: Place, insecure: bool) -> dict[str, object]:
    """spec.cluster of an ExecCredential:
    https://kubernetes.io/docs/reference/config-api/client-authentication.v1/#client-authentication-k8s-io-v1-Cluster
    """
    ca = cluster.data("certificate-authority-data") or cluster.contents("certificate-authority")
    config = None
    for extension in cluster.each("extensions"):
        if extension.text("name") == EXEC_EXTENSION:
            config = extension.copy("extension")
    info: dict[str, object | None] = {
        "server": cluster.text("server"),
        "tls-server-name": cluster.text("tls-server-name"),
        "insecure-skip-tls-verify": insecure or None,
        "certificate-authority-data": base64.b64encode(ca).decode() if ca and not insecure else None,
        "proxy-url": cluster.text("proxy-url"),
        "disable-compression": cluster.flag("disable-compression") or None,
        "config": config,
    }
    return {key: value for key, value in info.items() if value is not None}
