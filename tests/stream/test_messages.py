import dataclasses
from typing import get_args

import pytest

from unblink.stream import messages

INPUTS: tuple[type, ...] = get_args(messages.Input)
COMMANDS: tuple[type, ...] = get_args(messages.Command)


def test_every_message_is_an_input_or_a_command_and_not_both() -> None:
    classes = {
        one
        for one in vars(messages).values()
        if isinstance(one, type) and one.__module__ == messages.__name__ and dataclasses.is_dataclass(one)
    }
    assert classes == {*INPUTS, *COMMANDS}
    assert not set(INPUTS) & set(COMMANDS)


@pytest.mark.parametrize("one", [*INPUTS, *COMMANDS], ids=lambda one: one.__name__)
def test_messages_are_frozen_and_small(one: type) -> None:
    assert one.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert hasattr(one, "__slots__")


def test_what_is_about_a_request_names_it_first() -> None:
    about_none = {"Start", "Tick", "Stop", "WatchStarted", "Listed", "Delivered", "Ended", "Doubted", "Stale"}
    about_none |= {"Proven", "Stopped"}
    for one in (*INPUTS, *COMMANDS):
        names = [field.name for field in dataclasses.fields(one)]
        assert (names[:1] == ["id"]) == (one.__name__ not in about_none), one
