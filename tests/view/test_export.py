"""The page as files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.errors import UsageError
from asyncgen.view.export import export_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeRun = Callable[..., Any]
OpenPage = Callable[..., "Page"]


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # noqa: PLC0415 - not on every machine

    return playwright_expect(locator)


def test_a_folder_with_something_else_in_it_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError):
        export_run(make_run(rows=1).directory, target)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_an_export_is_replaced_by_the_next_one(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(rows=1)
    export_run(run.directory, tmp_path / "out")
    run.add(run.record(1))
    page = export_run(run.directory, tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    assert b"Advert number 1," in (tmp_path / "out" / "data" / "rows-0.js").read_bytes()


def test_the_place_of_the_run_on_this_machine_is_not_in_an_export(make_run: MakeRun, tmp_path: Path) -> None:
    export_run(make_run(rows=3).directory, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.browser
def test_an_export_opens_by_a_double_click(make_run: MakeRun, tmp_path: Path, open_page: OpenPage) -> None:
    run = make_run(rows=12)
    run.add(run.failure(12, "It \u2028 broke </script><script>alert(1)</script>"), run.record(13, "odd one out"))
    page = open_page(export_run(run.directory, tmp_path / "out").as_uri())
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    expect(page.get_by_role("button", name="size small, city Paris: 3 done")).to_be_visible()
    expect(page.locator(".pill", has_text="export")).to_be_visible()
    page.keyboard.press("2")
    total = page.locator(".total")
    expect(total).to_have_text("14 rows")
    page.get_by_role("checkbox", name="Berlin 2").check()
    expect(total).to_have_text("2 rows of 14")
    expect(page.get_by_role("checkbox", name=re.compile("failed 1$"))).to_be_visible()
    page.get_by_role("checkbox", name="Berlin 2").uncheck()
    page.get_by_role("searchbox").fill("ODD one")
    expect(total).to_have_text("1 row of 14")
    page.get_by_text("odd one out").click()
    expect(page.locator(".text.answer")).to_have_text("odd one out")
    page.get_by_text("Request as sent").click()
    expect(page.get_by_text("You write adverts.")).to_be_visible()
    assert page.get_by_role("button", name=re.compile("Reject")).count() == 0
    page.reload()
    expect(page.locator(".text.answer")).to_have_text("odd one out")
    page.keyboard.press("5")
    expect(page.get_by_role("heading", name="The playground needs a server")).to_be_visible()
    assert all(url.startswith("file:") for url in requests)


@pytest.mark.browser
def test_every_order_of_an_export_is_that_of_the_server(
    make_run: MakeRun, tmp_path: Path, page_of: Any, open_page: OpenPage
) -> None:
    run = make_run()
    run.add(*(run.record(n, "x" * (n * 7 % 5 + 1), latency_s=n * 5 % 7 + 0.5) for n in range(9)), run.failure(9))
    live, files = page_of(run), open_page(export_run(run.directory, tmp_path / "out").as_uri())
    for order in ("newest", "oldest", "grid", "slowest", "longest", "shortest"):
        keys = []
        for page in (live, files):
            page.evaluate("hash => { location.hash = hash }", f"#/adverts/records?sort={order}")
            rows = page.get_by_role("listbox", name="Rows").get_by_role("option")
            expect(rows).to_have_count(10)
            expect(page.get_by_label("Order")).to_have_value(order)
            page.wait_for_function("order => ag.readRoute().parameters.get('sort') === order", arg=order)
            keys.append(page.evaluate("[...document.querySelectorAll('.list [role=option]')].map(e => e.id)"))
        assert keys[0] == keys[1], order
