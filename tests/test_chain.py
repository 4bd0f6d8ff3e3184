"""The vocabulary: its defaults are "off", its units are in its names."""

import dataclasses
import typing
from types import NoneType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink import chain
from unblink.chain import CLIENTS, Chain, Client, Gateway, TcpKeepalive, Upstream

TYPES = [value for value in vars(chain).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]
COUNTS = {"probes", "port", "retries", "unhealthy_threshold", "requests_until_state"}

seconds = st.integers(1, 32767)


@given(seconds, seconds, st.integers(1, 127))
def test_keepalive_detects_after_the_last_probes_interval(time_s: int, interval_s: int, probes: int) -> None:
    moments = [time_s + interval_s * probe for probe in range(probes)]
    assert TcpKeepalive(time_s, interval_s, probes).detects_after_s == moments[-1] + interval_s


def test_the_incidents_cure_by_hand() -> None:
    assert TcpKeepalive(time_s=10, interval_s=3, probes=3).detects_after_s == 19


@pytest.mark.parametrize("described", TYPES, ids=lambda described: described.__name__)
def test_every_number_has_its_unit_in_its_name(described: type) -> None:
    for name, kind in typing.get_type_hints(described).items():
        if {int, float} & {kind, *typing.get_args(kind)}:
            assert name in COUNTS or name.endswith(("_s", "_ms")), name


@pytest.mark.parametrize("described", TYPES, ids=lambda described: described.__name__)
def test_a_setting_cannot_change_under_a_prediction(described: type) -> None:
    assert typing.cast(typing.Any, described).__dataclass_params__.frozen
    assert not hasattr(described, "__dict__") or "__slots__" in vars(described)


@pytest.mark.parametrize("described", [Upstream, Gateway])
def test_what_is_not_said_is_off(described: type) -> None:
    hints = typing.get_type_hints(described)
    detectors = {
        field.name: field.default
        for field in dataclasses.fields(described)
        if NoneType in typing.get_args(hints[field.name])
    }
    assert detectors
    assert set(detectors.values()) == {None}


def test_the_clients_are_known_by_their_kind() -> None:
    assert CLIENTS.keys() == {"client-go", "reflector", "kubectl", "informer"}
    assert all(kind == client.kind for kind, client in CLIENTS.items())
    assert [client.deadline_ms for client in CLIENTS.values()] == [None, None, None, None]
    bounded = {kind: client.max_staleness_ms for kind, client in CLIENTS.items() if client.max_staleness_ms is not None}
    assert bounded == {"informer": 10_000}
    assert [kind for kind, client in CLIENTS.items() if client.resumes_after_reset] == ["informer"]
    assert [kind for kind, client in CLIENTS.items() if not client.resumes_after_clean_end] == ["kubectl"]


def test_equal_settings_are_one_setting() -> None:
    def built() -> Chain:
        return Chain(Client("x", 1, 1), Gateway(upstream=Upstream(tcp_keepalive=TcpKeepalive(2, 1, 2))))

    assert built() == built()
    assert len({built(), built()}) == 1
