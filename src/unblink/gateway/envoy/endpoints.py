"""Where the apiservers are, as the files that Envoy's EDS reads and watches."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from unblink.chain import Apiserver

_ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class _Version(msgspec.Struct):
    version_info: str


def write_endpoints(directory: Path, cluster: str, apiservers: Sequence[Apiserver]) -> None:
    """Make ``apiservers`` the endpoints of ``cluster``: a DiscoveryResponse in ``directory/<cluster>.json``.

    The file appears in one step (rename), which is also the only change that Envoy reacts to; its version rises
    by one. A host that is left out drains: its open streams stay. Only one process may write a folder.

    Raises OSError when the folder cannot be written.
    """
    target = directory / f"{cluster}.json"
    try:
        version = int(msgspec.json.decode(target.read_bytes(), type=_Version).version_info) + 1
    except FileNotFoundError:
        version = 1
    hosts = [{"endpoint": {"hostname": apiserver.name, "address": _address(apiserver)}} for apiserver in apiservers]
    assignment = {"@type": _ASSIGNMENT, "cluster_name": cluster, "endpoints": [{"lb_endpoints": hosts}]}
    temporary = directory / f".{cluster}.json.new"
    temporary.write_bytes(msgspec.json.encode({"version_info": str(version), "resources": [assignment]}))
    temporary.replace(target)


def _address(apiserver: Apiserver) -> dict[str, object]:
    return {"socket_address": {"address": apiserver.address, "port_value": apiserver.port}}
