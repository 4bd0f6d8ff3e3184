import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.lab.report import made_run

from unblink.lab.report.page import render

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects ids, links and the cells of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src"}:
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    return made_run.make(tmp_path)


def test_the_table_has_a_row_for_each_client_of_each_cell(result: dict[str, Any], tmp_path: Path) -> None:
    rows = [row for row in Page(render(result, tmp_path)).rows if len(row) == 12]
    assert rows[0] == [
        "none", "drop", "kubectl", "to the end (34.0 s)", "none", "0", "0", "0", "survived", "same", "nobody", "✓ pass",
    ]  # fmt: skip
    assert [row[-1] for row in rows] == ["✓ pass", "✓ pass", "? unknown"] * 2 + ["✗ fail"] * 3
    assert (rows[6][3], rows[6][4], rows[6][8]) == ("7.1 s", "5.2 s", "killed")


def test_it_is_one_file_that_asks_for_nothing(result: dict[str, Any], tmp_path: Path) -> None:
    html = render(result, tmp_path)
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "video"}
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert str(tmp_path) not in html


def test_links_lead_to_cells_and_evidence_that_are_there(result: dict[str, Any], tmp_path: Path) -> None:
    page = Page(render(result, tmp_path))
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (tmp_path / link).is_file()
    assert "c-tcp-keepalive/server-leg.pcapng" in page.links


def test_rows_that_share_evidence_share_one_picture(result: dict[str, Any], tmp_path: Path) -> None:
    assert render(result, tmp_path).count('<svg class="timeline"') == 3


def test_what_comes_from_outside_is_escaped(result: dict[str, Any], tmp_path: Path) -> None:
    result["cells"][0] |= {"reason": "<script>alert(1)</script>", "cure": '"><b>', "ended_by": "<i>"}
    result["scenario"] = "<script>"
    page = Page(render(result, tmp_path))
    assert not page.tags & {"script", "b", "i"}


def test_a_cell_without_evidence_keeps_its_row(result: dict[str, Any], tmp_path: Path) -> None:
    html = render(result, tmp_path / "elsewhere")
    assert html.count("There is no timeline of this cell.") == 3
    assert len([row for row in Page(html).rows if len(row) == 12]) == 9


def test_what_is_not_known_is_said_to_be_unknown(result: dict[str, Any], tmp_path: Path) -> None:
    result["cells"][0] |= {"exec_survived": None, "client_port_changed": None, "reason": "", "verdict": "unknown"}
    row = next(row for row in Page(render(result, tmp_path)).rows if len(row) == 12)
    assert (row[3], row[8], row[9], row[11]) == ("unknown", "unknown", "unknown", "? unknown")


def test_clients_that_are_left_out_are_named(result: dict[str, Any], tmp_path: Path) -> None:
    assert "its program is not built" in render(result | {"left_out": {"x": "x: its program is not built"}}, tmp_path)


def test_how_the_lab_ran_is_told(result: dict[str, Any], tmp_path: Path) -> None:
    assert "one router between them" in render(result, tmp_path)
    result |= {"mode": "loopback", "mode_reason": "unshare(2): Operation not permitted"}
    assert "namespaces are forbidden here (unshare(2): Operation not permitted)" in render(result, tmp_path)
    assert "envoy 1.40.0, kubectl 1.36.2" in render(result, tmp_path)


def test_a_run_without_cells_has_a_page(tmp_path: Path) -> None:
    result = {"scenario": "none", "started": "", "versions": {}, "mode": "loopback", "cells": []}
    assert "Result" in render(result, tmp_path)
