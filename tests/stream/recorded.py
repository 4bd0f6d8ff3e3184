"""What kube-apiserver 1.36 was recorded to answer, by the names in the recording."""

import base64
import json
from pathlib import Path
from typing import Any

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "apiserver-1.36-transcripts.json").read_text()
)


def status(name: str) -> int:
    return int(RECORDED[name]["response"]["status_line"].split()[1])


def body(name: str) -> bytes:
    response = RECORDED[name]["response"]
    text: str = response["body"]
    return base64.b64decode(text) if response["body_encoding"] == "base64" else text.encode()


def is_protobuf(name: str) -> bool:
    return any("vnd.kubernetes.protobuf" in header for header in map(str, RECORDED[name]["response"]["headers"]))
