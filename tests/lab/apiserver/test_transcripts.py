"""The embedded apiserver answers what kube-apiserver 1.36 was recorded to answer.

Two apiservers over one store, all real processes; the recording is replayed over TLS against the second one, in its
order. uids, resourceVersions, times and the generated name are compared as a mapping: what is one uid in the recording
is one uid here. What is different on purpose stands in ``DIFFERENCES``.
"""

import base64
import http.client
import json
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.lab.apiserver.peers import Files

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "apiserver-1.36-transcripts.json").read_text()
)
TOKEN = "recorders-token"
EARLY_S, LATE_S = 0.3, 2.5  # how far a stream's end may be from the recorded time

Problems = list[str]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclass
class Names:
    """Which of our values stands for which recorded one."""

    ours: dict[tuple[str, str], str] = field(default_factory=dict)
    recorded: dict[tuple[str, str], str] = field(default_factory=dict)

    def same(self, kind: str, recorded: str, ours: str) -> bool:
        there = self.ours.setdefault((kind, recorded), ours)
        back = self.recorded.setdefault((kind, ours), recorded)
        return there == ours and back == recorded


# How values that cannot be equal are recognised, by the key they stand under.
PATTERNS = {
    "uid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "resourceVersion": re.compile(r"[1-9]\d*"),
    "creationTimestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "since": re.compile(r"\d{4}-\d\d-\d\d"),
    "serverAddress": re.compile(r"[\d.]+:\d+"),
    "age": re.compile(r"\d+[smh](\d+[sm])?"),
}
_VERSIONS_IN_TEXT = re.compile(r"(current: |\()\d+")


def differences(recorded: Any, ours: Any, names: Names, path: str = "", parent: Any = None) -> Problems:
    """Where two JSON values differ, beyond what must."""
    key = path.rpartition(".")[2]
    if isinstance(recorded, dict) and isinstance(ours, dict):
        found = [f"{path}: keys {sorted(recorded)} != {sorted(ours)}"] if set(recorded) != set(ours) else []
        for name in set(recorded) & set(ours):
            found += differences(recorded[name], ours[name], names, f"{path}.{name}", recorded)
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        found = [f"{path}: {len(recorded)} elements != {len(ours)}"] if len(recorded) != len(ours) else []
        for number, (one, other) in enumerate(zip(recorded, ours, strict=False)):
            name = "age" if key == "cells" and number == len(recorded) - 1 else str(number)
            found += differences(one, other, names, f"{path}.{name}", recorded)
        return found
    if key in PATTERNS and isinstance(recorded, str) and isinstance(ours, str):
        if not (PATTERNS[key].fullmatch(recorded) and PATTERNS[key].fullmatch(ours)):
            return [f"{path}: {recorded!r} and {ours!r} are not both a {key}"]
        if key == "uid" or (key == "resourceVersion" and "uid" in parent):
            return [] if names.same(key, recorded, ours) else [f"{path}: {ours} is not what {recorded} was before"]
        return []
    if key == "continue":
        return differences(token(recorded), token(ours), names, f"{path}.token")
    if key == "rv":
        return [] if isinstance(ours, int) and ours > 0 else [f"{path}: {ours!r}"]
    if isinstance(recorded, str) and isinstance(ours, str):
        there, here = re.search(r"gen-\w{5}", recorded), re.search(r"gen-\w{5}", ours)
        if there and here and names.same("name", there.group(), here.group()):
            recorded, ours = recorded.replace(there.group(), "gen"), ours.replace(here.group(), "gen")
        if key == "message":
            recorded, ours = (_VERSIONS_IN_TEXT.sub(r"\1N", text) for text in (recorded, ours))
    return [] if recorded == ours else [f"{path}: {recorded!r} != {ours!r}"]


def token(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def protobuf_tree(raw: bytes) -> list[Any]:
    """Fields of a message as (number, value), chunks taken apart as far as they are messages themselves."""
    tree: list[Any] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(raw):
        tag = varint()
        if tag & 7 == 0:
            tree.append([tag >> 3, varint()])
            continue
        if tag & 7 != 2 or tag >> 3 == 0:
            raise ValueError("not a message of varints and chunks")
        size = varint()
        if at + size > len(raw):
            raise ValueError("truncated")
        tree.append([tag >> 3, raw[at : at + size]])
        at += size
    return tree


def bodies(name: str, recorded: bytes, ours: bytes, names: Names) -> Problems:
    """Differences of two bodies: a protobuf stream, JSON lines, a JSON document or text."""
    if "protobuf" in name:
        return protobuf_differences(recorded, ours, names)
    if not recorded.startswith(b"{"):
        return [] if recorded == ours else [f"{recorded!r} != {ours!r}"]
    if recorded.startswith(b'{"type":'):
        there, here = ([json.loads(line) for line in text.splitlines()] for text in (recorded, ours))
        return differences(there, here, names)
    return differences(json.loads(recorded), json.loads(ours), names)


def protobuf_differences(recorded: bytes, ours: bytes, names: Names) -> Problems:
    """Frames pair by pair: the same fields in the same order; uids, versions, times and names by mapping."""
    pairs = list(zip(frames(recorded), frames(ours), strict=True))
    found: Problems = []
    for number, (there, here) in enumerate(pairs):
        found += tree_differences(there, here, names, f"frame {number}")
    return found


def frames(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        size = int.from_bytes(stream[:4], "big")
        assert len(stream) >= 4 + size
        found.append(stream[4 : 4 + size])
        stream = stream[4 + size :]
    return found


_TEXTS = {
    "uid": PATTERNS["uid"],
    "resourceVersion": re.compile(r"\d{1,9}"),
    "name": re.compile(r"gen-\w{5}"),
}


def tree_differences(recorded: bytes, ours: bytes, names: Names, path: str) -> Problems:
    for kind, pattern in _TEXTS.items():
        if all(pattern.fullmatch(text.decode("latin-1")) for text in (recorded, ours)):
            if kind == "resourceVersion" and path.endswith("2"):  # data values are digits too
                break
            return [] if names.same(kind, recorded.decode(), ours.decode()) else [f"{path}: {ours!r} for {recorded!r}"]
    if recorded == ours:
        return []
    prefix = b"k8s\0" if recorded.startswith(b"k8s\0") else b""
    try:
        there, here = protobuf_tree(recorded.removeprefix(prefix)), protobuf_tree(ours.removeprefix(prefix))
    except (ValueError, IndexError):
        return [f"{path}: {recorded!r} != {ours!r}"]
    if [number for number, _ in there] != [number for number, _ in here]:
        return [f"{path}: fields {there} != {here}"]
    found: Problems = []
    for (number, one), (_, other) in zip(there, here, strict=True):
        where = f"{path}.{number}"
        if isinstance(one, int):
            same = one == other or min(one, other) > 1_700_000_000  # seconds since 1970
            found += [] if same else [f"{where}: {one} != {other}"]
        else:
            found += tree_differences(one, other, names, where)
    return found


def headers_differ(recorded: list[str], answer: Answer, *, framing: bool) -> Problems:
    """``framing`` off: whether the body came in chunks or at once is not compared."""
    there = dict(line.split(": ", 1) for line in recorded)
    there = {name.lower(): value for name, value in there.items()}
    here = {name: value for name, value in answer.headers.items() if name != "date"}
    for headers in (there, here):
        if "content-length" in headers:
            headers["content-length"] = "N"
        if not framing:
            headers.pop("content-length", None)
            headers.pop("transfer-encoding", None)
        if "etag" in headers:
            headers["etag"] = re.sub(r'^"[0-9A-F]{128}"$', "sha512", headers["etag"])
    return [] if there == here else [f"headers {there} != {here}"]


# --- what is different on purpose: which transcript, how it is compared instead, and why ---


def _same_keys(recorded: bytes, ours: bytes) -> Problems:
    return [] if set(json.loads(recorded)) == set(json.loads(ours)) else ["other keys"]


def _same_form_of_checks(recorded: bytes, ours: bytes) -> Problems:
    form = re.compile(r"(\[\+\][\w/-]+ ok\n)+readyz check passed\n")
    return [] if form.fullmatch(recorded.decode()) and form.fullmatch(ours.decode()) else [ours.decode()]


def _groups_recorded(recorded: bytes, ours: bytes) -> Problems:
    there, here = json.loads(recorded), json.loads(ours)
    return [f"{group} was not recorded" for group in here["groups"] if group not in there["groups"]]


def _resources_recorded(recorded: bytes, ours: bytes) -> Problems:
    there, here = json.loads(recorded), json.loads(ours)
    return [f"{entry} was not recorded" for entry in here["resources"] if entry not in there["resources"]]


def _aggregated_recorded(recorded: bytes, ours: bytes) -> Problems:
    there, here = json.loads(recorded), json.loads(ours)
    known = {entry["resource"]: entry for entry in there["items"][0]["versions"][0].pop("resources")}
    found: Problems = []
    for entry in here["items"][0]["versions"][0].pop("resources"):
        subresources = entry.pop("subresources", [])
        there_too = known[entry["resource"]].pop("subresources", [])
        found += [f"{below} was not recorded" for below in subresources if below not in there_too]
        found += [] if entry == known[entry["resource"]] else [f"{entry} != {known[entry['resource']]}"]
    return found + differences(there, here, Names())


@dataclass(frozen=True)
class Difference:
    reason: str
    compare: Callable[[bytes, bytes], Problems]
    shorter: bool = False  # than Go's 2 kB buffer, so that a Content-Length stands for the chunks


DIFFERENCES = {
    "version": Difference("it says which program it is", _same_keys),
    "readyz-verbose": Difference("it names the checks that this process has", _same_form_of_checks),
    "apis": Difference("a lab needs few groups; those are as recorded", _groups_recorded, shorter=True),
    "api-v1": Difference("a lab needs few resources; those are as recorded", _resources_recorded, shorter=True),
    "apis-aggregated-discovery": Difference("as api-v1", _aggregated_recorded, shorter=True),
}


# --- the replay ---


@contextmanager
def process(folder: Path, module: str, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A process of the lab's; its "ready" line."""
    path = folder / f"{config.get('name', 'store')}.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", module, "--config", str(path)]
    with (
        path.with_suffix(".jsonl").open("wb") as out,
        subprocess.Popen(command, cwd=folder, stdout=out) as running,
    ):
        try:
            yield _ready(path.with_suffix(".jsonl"), running)
        finally:
            running.terminate()
            try:
                assert running.wait(10) == 0
            finally:
                running.kill()


def _ready(path: Path, running: subprocess.Popen[bytes]) -> dict[str, Any]:
    end = time.monotonic() + 20
    while time.monotonic() < end and running.poll() is None:
        for line in path.read_text().splitlines():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "ready":
                return event
        time.sleep(0.02)
    raise AssertionError(f"{path.stem} did not get ready: {path.read_text()}")


def ask(port: int, context: ssl.SSLContext, request: dict[str, Any], path: str, bearer: str | None) -> Answer:
    started = time.monotonic()
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    with closing(connection):
        connection.putrequest(request["method"], path, skip_host=True, skip_accept_encoding=True)
        for name, value in request["headers"].items():
            connection.putheader(name, value)
        if bearer:
            connection.putheader("Authorization", f"Bearer {bearer}")
        body = None if request["body"] is None else json.dumps(request["body"]).encode()
        connection.endheaders(body)
        response = connection.getresponse()
        text = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, text, time.monotonic() - started)


class Replay:
    """Sends what was recorded, with our own revisions and tokens in the place of the recorded ones."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.answers: dict[str, Answer] = {}
        self._port = port
        self._context = context
        self._recorded_rv = json.loads(RECORDED["create-generate-name"]["response"]["body"])["metadata"][
            "resourceVersion"
        ]

    def run(self) -> None:
        """Watches that follow each other change nothing, so they run side by side."""
        with ThreadPoolExecutor(16) as pool:
            for _, batch in groupby(RECORDED, key=lambda name: name if "watch" not in name else "watch"):
                names = list(batch)
                self.answers.update(zip(names, pool.map(self._send, names), strict=True))

    def _send(self, name: str) -> Answer:
        recorded = RECORDED[name]["request"]
        bearer = {"unauthenticated": None, "bad-token": "no-such-token"}.get(name, TOKEN)
        assert (bearer is not None) == recorded["authenticated"]
        return ask(self._port, self._context, recorded, self._path(name, recorded["path"]), bearer)

    def _path(self, name: str, path: str) -> str:
        if name == "list-page-2":
            after = self._body("list-page-1")["metadata"]["continue"]
            return re.sub(r"continue=\w+", f"continue={after}", path)
        if f"resourceVersion={self._recorded_rv}" in path:
            ours = self._body("create-generate-name")["metadata"]["resourceVersion"]
            return path.replace(self._recorded_rv, ours)
        return path

    def _body(self, name: str) -> Any:
        return json.loads(self.answers[name].body)


@pytest.fixture(scope="module")
def answers(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("transcripts")
    (folder / "tokens.csv").write_text(f'{TOKEN},recorder,1,"system:masters"\n')
    with ExitStack() as stack:
        store = stack.enter_context(process(folder, "unblink.lab.apiserver.store", {"address": "127.0.0.1", "port": 0}))
        config = {
            "address": "127.0.0.1",
            "port": 0,
            "ca": str(files.ca),
            "certificate": str(files.certificate),
            "private_key": str(files.private_key),
            "token_file": "tokens.csv",
            "store_address": "127.0.0.1",
            "store_port": store["port"],
            "bookmark_period_ms": 6_000,  # so that the lease, six times as quick, moves the revision within 3 s
        }
        ports = []
        for number in (1, 2):  # the second one starts when revision 1 is past, as it was for the recorded one
            instance = {**config, "name": f"apiserver-{number}"}
            ports.append(stack.enter_context(process(folder, "unblink.lab.apiserver", instance))["port"])
            _until_ready(ports[-1], files.context(alpn=None))
        context = files.context(alpn=None)
        heartbeat: dict[str, Any] = {
            "method": "POST",
            "headers": {"Host": "x", "User-Agent": "Python-urllib/3.13", "Content-Type": "application/json"},
            "body": {"metadata": {"name": "hb"}, "data": {"n": "43"}},
        }
        heartbeat["headers"]["Content-Length"] = str(len(json.dumps(heartbeat["body"])))
        assert ask(ports[0], context, heartbeat, "/api/v1/namespaces/default/configmaps", TOKEN).status == 201
        replay = Replay(ports[1], context)
        replay.run()
        return replay.answers


def _until_ready(port: int, context: ssl.SSLContext) -> None:
    request = {"method": "GET", "headers": {"Host": "x"}, "body": None}
    end = time.monotonic() + 20
    while time.monotonic() < end:
        ready = ask(port, context, request, "/readyz", TOKEN).status == 200
        if ready and ask(port, context, request, "/api/v1/namespaces/lab", TOKEN).status == 200:
            return
        time.sleep(0.05)
    raise AssertionError("not ready")


@pytest.fixture(scope="module")
def names() -> Names:
    return Names()


@pytest.mark.parametrize("name", RECORDED)
def test_answers_as_recorded(name: str, answers: dict[str, Answer], names: Names) -> None:
    recorded, answer = RECORDED[name]["response"], answers[name]
    assert answer.status == int(recorded["status_line"].split()[1])
    body = recorded["body"].encode()
    if recorded["body_encoding"] == "base64":
        body = base64.b64decode(body)
    difference = DIFFERENCES.get(name)
    if difference is None:
        assert bodies(name, body, answer.body, names) == []
    else:
        assert difference.compare(body, answer.body) == []
    framing = difference is None or not difference.shorter
    assert headers_differ(recorded["headers"], answer, framing=framing) == []
    took = RECORDED[name]["seconds_until_end"]
    assert took - EARLY_S <= answer.seconds <= took + LATE_S


def test_there_are_no_differences_for_what_was_not_recorded() -> None:
    assert set(DIFFERENCES) <= set(RECORDED)
    assert len(RECORDED) == 55


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {}),
        ({"items": [1]}, {"items": [1, 2]}),
        ({"uid": "x"}, {"uid": "x"}),
        ({"resourceVersion": "12"}, {"resourceVersion": "new"}),
        ({"message": "too old resource version: 1 (1756)"}, {"message": "too old resource version: 2 (9)"}),
    ],
)
def test_the_comparison_sees_a_difference(recorded: Any, ours: Any) -> None:
    assert differences(recorded, ours, Names())


def test_one_uid_is_one_uid() -> None:
    one, two, other = ("00000000-0000-4000-8000-00000000000" + digit for digit in "123")
    seen = Names()
    assert differences([{"uid": one}, {"uid": two}], [{"uid": other}, {"uid": other}], seen)
