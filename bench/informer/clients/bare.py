"""What is there before any client: ``python -m bench.informer.clients.bare raw|msgspec SERVER LAST``.

``raw`` reads the bytes and looks for the last version; ``msgspec`` also cuts them into lines and decodes type and
metadata of each. Neither has a cache that can be asked, handlers, or an end to a watch that hangs.
"""

import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from bench.informer.clients import said

READ_BYTES = 256 * 1024
TARGET = "/api/v1/pods?watch=true&allowWatchBookmarks=true&sendInitialEvents=true"


class Metadata(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    resource_version: str = ""


class Thing(msgspec.Struct, gc=False):
    metadata: Metadata


class Event(msgspec.Struct, gc=False):
    type: str
    object: Thing


def reads(server: str) -> Iterator[bytes]:
    """What a watch brings, as it comes off the socket."""
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: bench\r\nAccept: application/json\r\n\r\n".encode())
        while received := connection.recv(READ_BYTES):
            yield received


def raw(server: str, last: str) -> None:
    changed, end = b'"type":"MODIFIED"', b"initial-events-end"
    marker = f'"resourceVersion":"{last}"'.encode()
    tail, changes, synced = b"", 0, False
    for received in reads(server):
        window = tail + received
        changes += window.count(changed)
        if not synced and end in window:
            synced = True
            said.synced()
        if marker in window:
            said.done(events=changes, calls=changes, last=last, versions=())
            return
        # What may be the beginning of a mark is looked at again, and a whole one is not counted twice.
        tail = window[-(len(changed) - 1) :] if synced else window[-len(end) + 1 :]


def loop(server: str, last: str) -> None:
    decode = msgspec.json.Decoder(Event).decode
    versions: dict[str, str] = {}
    rest, changes = b"", 0
    for received in reads(server):
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if not line.startswith(b"{"):
                continue  # the head, a chunk's size or its end
            event = decode(line)
            metadata = event.object.metadata
            if event.type == "BOOKMARK":
                said.synced()
                continue
            versions[metadata.name] = metadata.resource_version
            if event.type == "MODIFIED":
                changes += 1
                if metadata.resource_version == last:
                    said.done(events=changes, calls=changes, last=last, versions=versions.items())
                    return


if __name__ == "__main__":
    {"raw": raw, "msgspec": loop}[sys.argv[1]](*sys.argv[2:])
