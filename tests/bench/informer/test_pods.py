"""The pods that the benchmark is about."""

import json
import zlib

from bench.informer import pods


def test_an_event_is_as_big_as_we_say() -> None:
    line = pods.event_line("MODIFIED", pods.pod())
    assert len(line) == pods.EVENT_BYTES
    assert json.loads(line)["object"]["metadata"]["resourceVersion"] == pods.VERSION


def test_names_uids_and_versions_keep_their_length() -> None:
    assert {len(pods.name(number)) for number in (0, 99_999)} == {len(pods.NAME)}
    assert {len(pods.uid(number)) for number in (0, 99_999)} == {len(pods.UID)}
    assert len(str(pods.changed_version(100_000, 1_000_000))) == len(pods.VERSION)


def test_the_checksum_is_of_the_last_versions() -> None:
    # Two pods, three changes: the first pod has the third, the second pod the second.
    first = zlib.crc32(f"web-00000000 {pods.changed_version(2, 2)}".encode())
    second = zlib.crc32(f"web-00000001 {pods.changed_version(2, 1)}".encode())
    assert pods.checksum(2, 3) == first + second


def test_without_changes_the_checksum_is_of_the_first_versions() -> None:
    assert pods.checksum(1, 0) == zlib.crc32(f"web-00000000 {pods.FIRST_VERSION}".encode())
