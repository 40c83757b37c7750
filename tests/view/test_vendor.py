"""What the page is made of: the libraries as they were bundled, and scripts that keep to the page's policy."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from asyncgen.view.server import STATIC

OWN = sorted(path for path in STATIC.glob("*.js") if path.name != "vendor.js")


def test_the_bundled_libraries_are_those_that_the_build_command_wrote() -> None:
    lines = (STATIC / "vendor.sha256").read_text().splitlines()
    sums = {name: wanted for wanted, name in map(str.split, lines)}
    assert set(sums) == {"vendor.js", "uplot.css", "THIRD_PARTY"}
    for name, wanted in sums.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == wanted


def test_the_licence_of_every_bundled_library_travels_with_it() -> None:
    notices = (STATIC / "THIRD_PARTY").read_text(encoding="utf-8")
    for library in ("preact", "htm", "@tanstack/virtual-core", "uplot"):
        assert re.search(rf"^{re.escape(library)} \d", notices, re.MULTILINE)
    assert notices.count("Permission is hereby granted") == 3
    assert "Apache License" in notices


@pytest.mark.parametrize("path", [*OWN, STATIC / "vendor.js"], ids=lambda path: path.name)
def test_no_script_makes_code_or_markup_of_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"\beval\s*\(|\bnew Function\b|\bFunction\s*\(|document\.write|insertAdjacentHTML", text)
    assert not found
    if path in OWN:
        assert not re.findall(r"dangerouslySetInnerHTML|innerHTML|outerHTML|srcdoc|setAttribute\(\s*[\"']on", text)


def test_the_page_names_every_script_and_has_no_code_of_its_own() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'src="static/([\w.]+)"', page))
    assert named == {"vendor.js", *(path.name for path in OWN)}
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", page)


def test_nothing_of_the_page_names_another_host() -> None:
    for path in [*OWN, STATIC / "view.css", STATIC / "index.html"]:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
