import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblink.lab.apiserver.store import Compacted, Keys, main

OPERATIONS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"1", b"2", None])), max_size=30)


def apply(keys: Keys, operations: list[tuple[str, bytes | None]]) -> list[dict[str, bytes]]:
    """What there was at each revision from 1 on."""
    model: dict[str, bytes] = {}
    states = [dict(model)]
    for key, value in operations:
        if value is None and key not in model:
            continue
        if value is None:
            keys.delete(key)
            del model[key]
        else:
            keys.put(key, value)
            model[key] = value
        states.append(dict(model))
    return states


@given(OPERATIONS, st.integers(1, 40))
def test_every_kept_revision_reads_as_it_was(operations: list[tuple[str, bytes | None]], history: int) -> None:
    keys = Keys(history)
    states = apply(keys, operations)
    assert keys.revision == len(states)
    for revision, state in enumerate(states, 1):
        if revision < keys.compacted:
            with pytest.raises(Compacted):
                keys.range("", "", 0, revision)
            continue
        items, remaining = keys.range("", "", 0, revision)
        assert {item.key: item.value for item in items} == state
        assert remaining == 0
    assert len(states) - 1 - keys.compacted <= history


@given(OPERATIONS, st.integers(1, 40))
def test_events_from_a_revision_lead_from_its_state_to_the_last(
    operations: list[tuple[str, bytes | None]], history: int
) -> None:
    keys = Keys(history)
    states = apply(keys, operations)
    for revision, before in enumerate(states, 1):
        if revision < keys.compacted:
            with pytest.raises(Compacted):
                keys.events_from(revision)
            continue
        state = dict(before)
        events = keys.events_from(revision + 1)
        assert [event.revision for event in events] == list(range(revision + 1, keys.revision + 1))
        for event in events:
            if event.value is None:
                del state[event.key]
            else:
                state[event.key] = event.value
        assert state == states[-1]


def test_a_range_in_pages() -> None:
    keys = Keys(10)
    for key in ("/a/2", "/a/1", "/a/3", "/b/1"):
        keys.put(key, b"")
    items, remaining = keys.range("/a/", "", 2, 0)
    assert ([item.key for item in items], remaining) == (["/a/1", "/a/2"], 1)
    items, remaining = keys.range("/a/", "/a/2\0", 2, 0)
    assert ([item.key for item in items], remaining) == (["/a/3"], 0)


def test_revisions_of_a_key() -> None:
    keys = Keys(10)
    keys.put("a", b"1")
    keys.put("a", b"2")
    held = keys.get("a")
    assert held is not None
    assert (held.create_revision, held.mod_revision) == (2, 3)
    keys.delete("a")
    keys.put("a", b"3")
    again = keys.get("a")
    assert again is not None
    assert (again.create_revision, again.mod_revision) == (5, 5)
    with pytest.raises(KeyError):
        keys.delete("none")


def test_the_process_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"address": "127.0.0.1", "port": 0}')
    command = [sys.executable, "-m", "unblink.lab.apiserver.store", "--config", "store.json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        ready = json.loads(running.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["port"] > 0
        running.terminate()
        assert running.wait(10) == 0


@pytest.mark.parametrize("config", ["{", '{"address": "192.0.2.1"}', '{"address": "127.0.0.1", "history": "x"}'])
def test_what_it_cannot_start_with_is_said(
    tmp_path: Path, config: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "store.json").write_text(config)
    assert main(["--config", str(tmp_path / "store.json")]) == 2
    assert json.loads(capfdbinary.readouterr().out)["event"] == "fatal"
