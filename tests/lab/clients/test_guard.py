import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.clients.conftest import Rig, write_kubeconfig

from unblink.lab.clients.guard import NETNS, OUTER_NETNS, NotInLab, check, own_netns

lab_addresses = st.ip_addresses(network="198.18.0.0/15").map(str)
OWN = own_netns()


@given(st.ip_addresses(network="127.0.0.0/8").map(str) | st.just("::1"))
def test_loopback_is_always_allowed(address: str) -> None:
    check(address, {})


@given(lab_addresses | st.ip_addresses(network="10.0.0.0/8").map(str))
def test_elsewhere_only_in_the_namespace_that_the_lab_made(address: str) -> None:
    check(address, {NETNS: OWN, OUTER_NETNS: "1"})
    for environment, reason in (
        ({}, "is not set"),
        ({NETNS: OWN}, "is not set"),
        ({OUTER_NETNS: "1"}, "is not set"),
        ({NETNS: "1", OUTER_NETNS: "2"}, "is not the lab's"),
        ({NETNS: OWN, OUTER_NETNS: OWN}, "machine's own"),
    ):
        with pytest.raises(NotInLab, match=reason):
            check(address, environment)


def test_names_are_refused() -> None:
    with pytest.raises(NotInLab, match="takes an IP address"):
        check("localhost", {})


@pytest.mark.parametrize(
    ("client", "flags"),
    [
        ("reflector", ["--resource", "configmaps"]),
        ("kubectl_loop", ["--resource", "configmaps"]),
        ("writer", ["--name", "canary"]),
        ("poller", ["--resource", "configmaps", "--name", "canary"]),
        ("exec_session", []),
    ],
)
def test_every_client_refuses_the_labs_addresses_from_the_machines_own_namespace(
    rig: Rig, client: str, flags: list[str]
) -> None:
    (rig.folder / "ca.crt").touch()
    (rig.folder / "token").touch()
    write_kubeconfig(rig, "https://198.18.0.1:443")
    process = rig.client(client, *flags, **{NETNS: OWN, OUTER_NETNS: OWN})
    assert process.popen.wait(20) == 2
    (line,) = [json.loads(line) for line in process.log.read_bytes().splitlines()]
    assert line["event"] == "fatal"
    assert "machine's own network namespace" in line["error"]
