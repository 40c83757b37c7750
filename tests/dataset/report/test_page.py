"""The page: one file that needs nothing else, in which nothing from the run can act."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.report.collect import make_report
from asyncgen.dataset.report.page import bars, columns, report_page, stacked_bars

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

EVIL = '<script>document.title="taken"</script><img src=x onerror="document.title=1">\x1b]0;taken\x07'


def page_of(made: Any) -> str:
    return report_page(make_report(made.directory, made.opened.job, made.opened.grid))


@pytest.fixture
def evil_run(make_run: MakeRun) -> Any:
    """A run in which everything that can be text is an attack."""
    job = f"""
name = "shops"
[grid]
sector = ['{EVIL.replace(chr(27), "").replace(chr(7), "")}', "Books"]
[prompt]
user = "Write for {{sector}}."
[generate]
repeats = 6
"""

    def change(record: Record) -> Record:
        reason = "stop" if record.index % 2 else EVIL
        return msgspec.structs.replace(record, completion=f"{EVIL} {record.index}", model=EVIL, finish_reason=reason)

    return make_run(job=job).fill(change)


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_nothing_from_the_run_becomes_markup(evil_run: Any) -> None:
    page = page_of(evil_run)
    outline = _Outline()
    outline.feed(page)
    assert not {"script", "img", "link", "iframe"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert "\x1b" not in page
    assert "\x07" not in page


def test_the_page_fetches_nothing_and_forbids_it(evil_run: Any) -> None:
    page = page_of(evil_run)
    addresses = re.findall(r"""(?:src|href)\s*=|url\(|https?://[^"' <]+""", re.sub(r"&[a-z#0-9]+;", "", page))
    assert set(addresses) <= {"http://www.w3.org/2000/svg", "src="}  # the second one in escaped text
    assert "default-src 'none'" in page


def test_every_section_has_its_chart(make_run: MakeRun) -> None:
    made = make_run("[checks]\nmax_words = 6\n").fill()
    made.records[3] = msgspec.structs.replace(made.records[3], completion="one two three four five six seven")
    made.write(made.records[:30])
    made.fail(33)
    page = page_of(made)
    for title in (
        "Coverage",
        "Failed checks",
        "Failed rows",
        "Finish reasons",
        "Length",
        "Tokens and cost",
    ):
        assert title in page
    assert page.count("<svg") >= 7


def test_a_run_without_answers_has_a_page_too(make_run: MakeRun) -> None:
    assert "no model yet" in page_of(make_run())


names = st.text(max_size=30)
numbers = st.integers(0, 10**9)


@given(st.lists(st.tuples(names, numbers), max_size=8), names)
def test_charts_are_well_formed_whatever_their_texts(rows: list[Any], text: str) -> None:
    for chart in (
        bars(text, rows),
        stacked_bars(text, [(name, [("filled", number), ("left", number)], name) for name, number in rows]),
        columns(text, [(number, number + 1, number) for _, number in rows], "words"),
    ):
        ET.fromstring(re.sub("[\x00-\x08\x0b-\x1f\ufffe\uffff]|[\ud800-\udfff]", "", chart))


def test_bars_never_leave_the_picture() -> None:
    chart = stacked_bars("t", [("a", [("filled", 3), ("left", 1)], ""), ("b", [("filled", 10**12)], "")])
    for left, width in re.findall(r'x="([\d.]+)" y="\d+" width="([\d.]+)"', chart):
        assert float(left) + float(width) <= 760


def test_a_browser_shows_the_page_and_runs_nothing(evil_run: Any, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium here to look at the page with")
    path = tmp_path / "report.html"
    path.write_text(page_of(evil_run), encoding="utf-8")
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    if not shown.stdout:
        pytest.skip(f"the browser does not start here: {shown.stderr.strip()[-200:]}")
    assert "<title>shops: report</title>" in shown.stdout
    assert shown.stdout.count("<svg") >= 4
    assert "<script>" not in shown.stdout
