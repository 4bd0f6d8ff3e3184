"""An apiserver of one resource on loopback, HTTP/1.1 and threads, that can break each watch in its own way."""

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = "/api/v1/namespaces/default/configmaps"
BOOKMARK_BEFORE_END_S = 0.5
TICK_S = 0.02
DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {
                "name": "configmaps",
                "singularName": "configmap",
                "namespaced": True,
                "kind": "ConfigMap",
                "verbs": ["get", "list", "watch"],
            }
        ],
    },
}


@dataclass
class Asked:
    """One request for the resource. ``kind`` is list, probe or watch; ``port`` is the client's."""

    at: float
    kind: str
    rv: str
    port: int
    timeout_s: int = 0
    ended: bool = False


@dataclass
class Watch:
    """An open watch; what it does can be changed while it is open."""

    mode: str
    asked: Asked


@dataclass
class Cluster:
    """``next_watches`` are the modes of the watches to come, then ``mode``; so with ``next_lists``."""

    mode: str = "serve"
    next_watches: deque[str] = field(default_factory=deque)
    list_mode: str = "serve"
    next_lists: deque[str] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    bookmarks: bool = True
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._rv = 100
        self._objects: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.watches: list[Watch] = []
        self.closing = False
        self.url = ""

    # What a user of the cluster does

    def write(self, name: str) -> int:
        """Create or change a ConfigMap; its resourceVersion."""
        with self._changed:
            kind = "MODIFIED" if name in self._objects else "ADDED"
            self._rv += 1
            self._objects[name] = self._object(name)
            self.log.append((self._rv, kind, self._objects[name]))
            self._changed.notify_all()
            return self._rv

    def delete(self, name: str, *, silently: bool = False) -> int:
        """Delete one; ``silently`` is an event that no watch will ever tell, as after a compaction."""
        with self._changed:
            del self._objects[name]
            self._rv += 1
            if not silently:
                self.log.append((self._rv, "DELETED", self._object(name)))
            self._changed.notify_all()
            return self._rv

    def move(self) -> int:
        """Let the resourceVersion move on, as a write to another resource does."""
        with self._changed:
            self._rv += 1
            return self._rv

    def _object(self, name: str) -> dict[str, Any]:
        return {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "resourceVersion": str(self._rv),
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "data": {"rv": str(self._rv)},
        }

    def break_open_watches(self, mode: str) -> None:
        with self._changed:
            for watch in self.watches:
                watch.mode = mode
            self._changed.notify_all()

    def count(self, kind: str) -> int:
        return sum(asked.kind == kind for asked in self.asked)

    def until(self, condition: Callable[[], bool], what: str, limit_s: float = 10.0) -> None:
        """Wait for a condition.

        :raises AssertionError: if it does not come.
        """
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {limit_s:g} s; asked {self.asked}"
            time.sleep(TICK_S)

    # What an apiserver does

    def answer(self, handler: "Handler") -> None:
        self.paths.append(handler.path)
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path.rstrip("/")  # kr8s ends its discovery so
        if path in DISCOVERY:
            handler.reply(200, DISCOVERY[path])
        elif url.path != PATH:
            handler.reply(404, status(404, "NotFound"))
        elif query.get("watch", "").lower() in ("true", "1"):
            self._watch(handler, query)
        else:
            self._list(handler, query)

    def _list(self, handler: "Handler", query: dict[str, str]) -> None:
        kind = "probe" if query.get("limit") == "1" else "list"
        with self._changed:
            self.asked.append(Asked(time.monotonic(), kind, query.get("resourceVersion", ""), handler.client_port))
            mode = self.next_lists.popleft() if self.next_lists and kind == "list" else self.list_mode
            objects = list(self._objects.values())
            rv = self._rv
        if mode == "hang":
            handler.hang()
        elif mode == "serve":
            begin = int(query.get("continue", "0"))
            end = begin + int(query.get("limit", "500"))
            metadata = {"resourceVersion": str(rv), "continue": str(end) if end < len(objects) else ""}
            items = objects[begin:end]
            handler.reply(200, {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items})
        else:
            handler.refuse(mode)

    def _watch(self, handler: "Handler", query: dict[str, str]) -> None:
        timeout_s = int(query.get("timeoutSeconds", "3600"))
        asked = Asked(time.monotonic(), "watch", query.get("resourceVersion", ""), handler.client_port, timeout_s)
        with self._changed:
            self.asked.append(asked)
            watch = Watch(self.next_watches.popleft() if self.next_watches else self.mode, asked)
            self.watches.append(watch)
        try:
            if watch.mode == "no-head":
                handler.hang()
            elif watch.mode.isdigit():
                handler.refuse(watch.mode)
            else:
                handler.begin()
                self._tell(handler, watch, query)
        finally:
            asked.ended = True
            with self._changed:
                self.watches.remove(watch)

    def _tell(self, handler: "Handler", watch: Watch, query: dict[str, str]) -> None:
        start = sent = int(query.get("resourceVersion") or 0)
        begun = time.monotonic()
        marked = not (self.bookmarks and query.get("allowWatchBookmarks", "").lower() == "true")
        if not start:  # all there is, in whatever order, as a watch without a resourceVersion begins
            for made in sorted(self._objects.values(), key=lambda one: -int(one["metadata"]["resourceVersion"])):
                handler.event("ADDED", made)
            start = sent = self._rv
        while not self.closing and not handler.gone():
            mode = watch.mode
            age_s = time.monotonic() - begun
            if mode == "hang":
                handler.hang()
                return
            if mode in ("close", "reset", "half"):
                handler.stop(mode)
                return
            if mode.startswith("error-"):
                handler.frame({"type": "ERROR", "object": status(int(mode[6:]), REASONS.get(mode[6:], "Other"))})
                handler.stop("close")
                return
            if age_s >= watch.asked.timeout_s:
                handler.stop("close")
                return
            if mode == "frozen":
                handler.bookmark(start)
                time.sleep(0.1)
                continue
            with self._changed:
                news = [entry for entry in self.log if entry[0] > sent]
                rv = self._rv
            for at, kind, made in news:
                handler.event(kind, made)
                sent = at
            if not marked and age_s >= watch.asked.timeout_s - BOOKMARK_BEFORE_END_S:
                marked = True
                if rv > start:
                    handler.bookmark(rv)
            with self._changed:
                if self._rv == rv and watch.mode == mode:
                    self._changed.wait(TICK_S)


REASONS = {"410": "Expired", "403": "Forbidden", "429": "TooManyRequests", "500": "InternalError"}


def status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"made to answer {code}",
        "reason": reason,
        "code": code,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        self.cluster.answer(self)

    def log_message(self, *_: object) -> None:
        pass

    @property
    def client_port(self) -> int:
        return int(self.client_address[1])

    def reply(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, mode: str) -> None:
        self.reply(int(mode), status(int(mode), REASONS.get(mode, "Other")))

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, kind: str, made: dict[str, Any]) -> None:
        self.frame({"type": kind, "object": {"kind": "ConfigMap", "apiVersion": "v1", **made}})

    def bookmark(self, rv: int) -> None:
        metadata = {"resourceVersion": str(rv), "creationTimestamp": None}
        self.frame({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}})

    def frame(self, frame: dict[str, Any]) -> None:
        self._chunk(json.dumps(frame).encode() + b"\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stop(self, mode: str) -> None:
        if mode == "close":
            self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True
        if mode == "half":
            self._chunk(b'{"type":"MODIFIED","object":{"metadata":{"na')
            self.wfile.write(b"0\r\n\r\n")
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.connection.close()

    def gone(self) -> bool:
        """Whether the client has closed its end."""
        with contextlib.suppress(BlockingIOError):
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def hang(self) -> None:
        """Say nothing until the client goes away."""
        self.close_connection = True
        self.connection.settimeout(TICK_S)
        while not self.cluster.closing:
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error here."""


@contextmanager
def serving(**settings: Any) -> Iterator[Cluster]:
    """A cluster that serves until the block ends."""
    cluster = Cluster(**settings)
    server = Server(("127.0.0.1", 0), type("ClusterHandler", (Handler,), {"cluster": cluster}))
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        cluster.closing = True
        server.shutdown()
        server.server_close()
        thread.join()
