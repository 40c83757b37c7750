"""How the page looks and reads: wide and narrow, light and dark, by the rules of axe-core; and its pictures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

VIEWS = ["run", "records", "records?row={key}", "training", "compare", "compare?blind=1", "playground", "runs"]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def script(name: str) -> Any:
    """A command that stands beside the tests, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(tmp_path: Path) -> RunDirectory:
    directory: RunDirectory = script("demo").make_demo(tmp_path, now=time.time())
    return directory


def show(page: Page, view: str) -> None:
    """Open a view, and wait until it is drawn."""
    page.evaluate("hash => { location.hash = hash }", f"#/direct-marketing/{view}")
    settled = (
        "() => !document.querySelector('main .state[role=status], .detail .state') && document.querySelector('main *')"
    )
    page.wait_for_function(settled)
    page.wait_for_timeout(150)


def key_of(demo: RunDirectory) -> str:
    from asyncgen.run.records import decode_record  # noqa: PLC0415 - only here

    return decode_record(demo.records.read_bytes().splitlines()[-1]).key


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide, light", "narrow, dark"])
def test_no_view_breaks_the_rules_of_axe_core_or_the_width_of_its_window(
    demo: RunDirectory, serve_page: Any, open_page: Callable[..., Page], scheme: str, size: dict[str, int]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(serve_page().link, color_scheme=scheme, viewport=size, reduced_motion="reduce")
    key = key_of(demo)
    for view in VIEWS:
        show(page, view.format(key=key))
        found = axe.run(page).response["violations"]
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in found]
        assert told == [], view
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, view


def test_a_phone_shows_the_row_in_a_sheet_and_the_filters_on_demand(
    demo: RunDirectory, serve_page: Any, open_page: Callable[..., Page]
) -> None:
    page = open_page(serve_page().link, viewport=NARROW, has_touch=True)
    show(page, "records")
    assert page.get_by_role("searchbox").count() == 0
    page.get_by_role("button", name="Filters").tap()
    page.get_by_role("checkbox", name="failed").tap()
    page.get_by_role("button", name="Filters").tap()
    page.get_by_role("listbox", name="Rows").get_by_role("option").first.tap()
    sheet = page.get_by_role("dialog", name="Row")
    sheet.get_by_text("Why it failed").wait_for()
    sheet.get_by_role("button", name="Close the row").tap()
    sheet.wait_for(state="detached")


def test_status_is_told_by_more_than_colour(
    demo: RunDirectory, serve_page: Any, open_page: Callable[..., Page]
) -> None:
    page = open_page(serve_page().link)
    show(page, "records")
    glyphs = page.evaluate(
        "new Set([...document.querySelectorAll('.list .glyph')].map(e => e.textContent + e.title)).size"
    )
    assert glyphs > 1
    show(page, "run")
    cells = page.locator(".heat .cell")
    assert all(cells.nth(number).get_attribute("aria-label") for number in range(cells.count()))
    assert page.locator(".heat .cell.flawed").count() > 0


def test_the_pictures_of_the_readme_are_made_anew_by_their_command(tmp_path: Path, browser: Any) -> None:
    del browser  # skips where there is none
    command = [sys.executable, str(Path(__file__).with_name("demo.py")), "pictures", str(tmp_path / "images")]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    made = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in made] == ["view-records.png", "view-run.png"]
    assert all(path.stat().st_size > 30_000 for path in made)
