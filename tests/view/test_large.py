"""A hundred thousand rows: the first ones are there while the rest is read, and a scroll to any place shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.run.records import encode_line

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeRun = Callable[..., Any]
ROWS = 100_000


@pytest.fixture
def large(make_run: MakeRun) -> Any:
    """Written by one pattern: making each record by itself would take longer than what is tested."""
    run = make_run()
    line = encode_line(run.record(0, "Advert number 7770777, cheap and cheerful."))
    key = run.record(0).key.encode()
    with run.directory.records.open("wb") as file:
        for number in range(ROWS):
            row = line.replace(key, b"%032x" % number).replace(b"7770777", b"%d" % number)
            file.write(row.replace(b'"created":1790000000', b'"created":%d' % (1_790_000_000 + number)))
    return run


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # noqa: PLC0415 - not on every machine

    return playwright_expect(locator)


@pytest.mark.browser
def test_a_hundred_thousand_rows_are_scrolled_filtered_and_rejected(large: Any, page_of: Callable[..., Page]) -> None:
    page = page_of(large)
    page.set_default_timeout(30_000)
    page.evaluate("location.hash = '#/adverts/records?sort=oldest'")
    rows = page.get_by_role("listbox", name="Rows").get_by_role("option")
    expect(rows.first).to_contain_text("Advert number 0,", timeout=30_000)
    expect(page.locator(".total")).to_have_text("100,000 rows", timeout=60_000)
    box = page.get_by_role("listbox", name="Rows")
    for share, number in ((1, 99_999), (0.5, 50_000), (0, 0)):
        box.evaluate("(element, share) => { element.scrollTop = element.scrollHeight * share }", share)
        expect(page.get_by_text(f"Advert number {number},")).to_be_visible(timeout=30_000)
        assert rows.count() < 60
    page.keyboard.press("/")
    page.keyboard.type("number 9999")
    expect(page.locator(".total")).to_have_text("11 rows of 100,000", timeout=30_000)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Reject all 100,000").click()
    expect(page.locator(".message-bar")).to_contain_text("Rejected 100,000 rows", timeout=60_000)
    expect(page.get_by_role("checkbox", name="rejected 100,000")).to_be_visible(timeout=30_000)
    page.locator(".message-bar").get_by_role("button", name="Undo").click()
    expect(page.get_by_role("checkbox", name="rejected 0")).to_be_visible(timeout=60_000)
