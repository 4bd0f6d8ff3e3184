"""The EDS files: their content, and that they change in one step."""

import json
from pathlib import Path

from unblink.chain import Apiserver
from unblink.gateway.envoy.endpoints import write_endpoints

ONE = Apiserver("one", "198.18.0.1")
TWO = Apiserver("two", "198.18.0.2", 6444)


def test_the_file_is_a_discovery_response(tmp_path: Path) -> None:
    write_endpoints(tmp_path, "apiserver", [ONE, TWO])
    response = json.loads((tmp_path / "apiserver.json").read_text())
    (assignment,) = response["resources"]
    assert assignment["cluster_name"] == "apiserver"
    hosts = [host["endpoint"] for host in assignment["endpoints"][0]["lb_endpoints"]]
    assert [host["hostname"] for host in hosts] == ["one", "two"]
    assert [tuple(host["address"]["socket_address"].values()) for host in hosts] == [
        ("198.18.0.1", 6443),
        ("198.18.0.2", 6444),
    ]


def test_the_version_rises_for_each_cluster(tmp_path: Path) -> None:
    def version(cluster: str) -> int:
        return int(json.loads((tmp_path / f"{cluster}.json").read_text())["version_info"])

    for number in range(1, 4):
        write_endpoints(tmp_path, "apiserver", [ONE])
        assert version("apiserver") == number
    write_endpoints(tmp_path, "apiserver-upgrade", [ONE])
    assert version("apiserver-upgrade") == 1


def test_the_old_file_stays_whole_for_who_has_it_open(tmp_path: Path) -> None:
    write_endpoints(tmp_path, "apiserver", [ONE])
    with (tmp_path / "apiserver.json").open() as old:
        write_endpoints(tmp_path, "apiserver", [TWO])
        assert "198.18.0.1" in old.read()
    assert [path.name for path in tmp_path.iterdir()] == ["apiserver.json"]
