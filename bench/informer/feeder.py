"""The server of the benchmark: pods, and then changes of them as fast as the client reads, all made beforehand.

``python -m bench.informer.feeder PODS CHANGES [FRAMES]`` serves on a free port of loopback and says which on standard
output. A line on its standard input sends the changes; it answers with the time at which it began. FRAMES is a file of
the templates below in protobuf, see ``templates``; without it there is JSON only.
"""

import itertools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bench.informer import pods

PROTOBUF = "application/vnd.kubernetes.protobuf"
BLOCK_CHUNKS = 64
"""How many events one write brings at most; each is a chunk of HTTP of its own, as a kube-apiserver sends them."""


@dataclass(frozen=True)
class Templates:
    """The events of one content: initial object, change, and the bookmark at the end of the initial objects."""

    content_type: str
    added: bytes
    modified: bytes
    bookmark: bytes


def templates() -> list[Templates]:
    """In JSON: of whole pods, and of their metadata."""
    whole = pods.pod()
    kinds = ((whole, pods.bookmark("Pod", "v1")), (pods.partial(whole), pods.bookmark(*_PARTIAL)))
    return [
        Templates(
            "application/json",
            pods.event_line("ADDED", thing),
            pods.event_line("MODIFIED", thing),
            pods.event_line("BOOKMARK", bookmark),
        )
        for thing, bookmark in kinds
    ]


_PARTIAL = ("PartialObjectMetadata", "meta.k8s.io/v1")


def json_lines() -> bytes:
    """All templates as lines, for the program that turns them into protobuf frames, in the order it gives them back."""
    return b"".join(one for made in templates() for one in (made.added, made.modified, made.bookmark))


def protobuf_templates(frames: bytes) -> list[Templates]:
    """From length-prefixed frames in the order of ``json_lines``."""
    cut = []
    while frames:
        (length,) = struct.unpack_from(">I", frames)
        cut.append(frames[: 4 + length])
        frames = frames[4 + length :]
    return [Templates(f"{PROTOBUF};stream=watch", *cut[at : at + 3]) for at in (0, 3)]


@dataclass(frozen=True)
class Feed:
    """How many pods there are, how many changes of them, and their templates: whole or partial, JSON or protobuf."""

    pods: int
    changes: int
    json: list[Templates]
    protobuf: list[Templates] | None = None

    def content(self, accept: str) -> Templates:
        """What the first media type of an Accept header asks for that there is."""
        partial = "as=PartialObjectMetadata" in accept
        protobuf = self.protobuf is not None and accept.strip().startswith(PROTOBUF)
        return (self.protobuf if protobuf and self.protobuf else self.json)[partial]

    def initial(self, content: Templates) -> Iterator[bytes]:
        """Every pod as ADDED, then the bookmark."""
        for pod in range(self.pods):
            yield _made(content.added, pod, pods.FIRST_VERSION + pod)
        yield _made(content.bookmark, 0, pods.synced_version(self.pods))

    def changed(self, content: Templates) -> Iterator[bytes]:
        """The changes, round the pods."""
        for number in range(self.changes):
            yield _made(content.modified, number % self.pods, pods.changed_version(self.pods, number))

    def list(self) -> bytes:
        """All pods, as one page of JSON."""
        whole = json.loads(self.json[0].added)["object"]
        del whole["kind"], whole["apiVersion"]
        template = json.dumps(whole, separators=(",", ":")).encode()
        items = b",".join(_made(template, pod, pods.FIRST_VERSION + pod) for pod in range(self.pods))
        version = b"%d" % pods.synced_version(self.pods)
        head = b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"' + version + b'"},"items":['
        return head + items + b"]}\n"


def _made(template: bytes, pod: int, version: int) -> bytes:
    made = template.replace(pods.NAME.encode(), pods.name(pod).encode(), 1)
    made = made.replace(pods.UID.encode(), pods.uid(pod).encode(), 1)
    return made.replace(pods.VERSION.encode(), b"%d" % version, 1)


def chunked(events: Iterator[bytes]) -> list[bytes]:
    """Each event a chunk of HTTP/1.1 (RFC 9112, 7.1), in blocks that are written at once."""
    chunks = (b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    blocks = []
    while block := b"".join(itertools.islice(chunks, BLOCK_CHUNKS)):
        blocks.append(block)
    return blocks


class Server:
    """The feed on a port of loopback. ``go`` sends the changes to every watch, those that come later included."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._go = threading.Event()
        self._list = feed.list() if feed.pods <= _LISTED_PODS else b""
        contents = feed.json + (feed.protobuf or [])
        self._changes = {content: chunked(feed.changed(content)) for content in contents} if feed.changes else {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def go(self) -> float:
        """Send the changes; when that began, in seconds since the epoch."""
        began_unix_s = time.time()
        self._go.set()
        return began_unix_s

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while (head := _head(connection)) is not None:
                    self._answer(connection, *head)
            except OSError:
                return  # the client is done

    def _answer(self, connection: socket.socket, target: str, accept: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if not urlsplit(target).path.endswith("/pods"):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif query.get("watch", "").lower() in ("true", "1"):
            self._watch(connection, self._feed.content(accept), initial=query.get("sendInitialEvents") == "true")
        else:
            length = b"Content-Length: %d\r\n\r\n" % len(self._list)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length + self._list)

    def _watch(self, connection: socket.socket, content: Templates, *, initial: bool) -> None:
        kind = content.content_type.encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        for block in chunked(self._feed.initial(content)) if initial else ():
            connection.sendall(block)
        self._go.wait()
        for block in self._changes.get(content, ()):
            connection.sendall(block)
        connection.recv(1)  # until the client closes


_LISTED_PODS = 10_000
"""Only small feeds are listed: the clients of the big ones take the initial events of a watch."""


def _head(connection: socket.socket) -> tuple[str, str] | None:
    """Target and Accept of the next request; None where there is none. Requests have no body here."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return None
        received += more
    first, *fields = received.decode("latin-1").split("\r\n")
    accept = next((line.partition(":")[2] for line in fields if line.lower().startswith("accept:")), "")
    return first.split(" ")[1], accept.strip()


def main(count: int, changes: int, frames: Path | None) -> None:
    made = protobuf_templates(frames.read_bytes()) if frames else None
    server = Server(Feed(count, changes, templates(), made))
    server.start()
    print(server.port, flush=True)
    for _ in sys.stdin:
        print(server.go(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
