"""The page in a real browser, over runs on disk."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.generate.live_file import LiveFile, LiveState, PauseNote
from asyncgen.run.reviews import read_reviews

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

MakeRun = Callable[..., Any]
ServePage = Callable[..., Any]
OpenPage = Callable[..., "Page"]
PageOf = Callable[..., "Page"]

HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> [link](javascript:alert(3)) "
    "\x1b]0;title\x07\x1b[31mred\x1b[0m a\u202eb\u2066c\u200bd \u0000 end"
)


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # noqa: PLC0415 - not on every machine

    return playwright_expect(locator)


def go(page: Page, view: str, run: str = "adverts") -> None:
    page.evaluate("hash => { location.hash = hash }", f"#/{run}/{view}")


def test_the_launch_link_leads_to_the_page_and_out_of_the_address(
    make_run: MakeRun, serve_page: ServePage, open_page: OpenPage
) -> None:
    served = serve_page(make_run(rows=3))
    page = open_page(served.link)
    assert page.url.removesuffix("/").startswith(served.origin)
    assert "t=" not in page.url
    expect(page.get_by_role("heading", name="adverts")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="adverts")).to_be_visible()


def test_what_a_simulation_made_up_is_marked(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=1)
    run.add(run.record(1, simulated=True))
    page = page_of(run)
    mark = page.locator(".pill", has_text="simulated")
    expect(mark).to_have_attribute("title", "1 of the answers are simulated")
    go(page, "records")
    page.get_by_role("option").filter(has_text="number 1").click()
    expect(page.get_by_text("not written by a model")).to_be_visible()


def live_state(done: int, **changed: Any) -> LiveState:
    now = time.time()
    fields: dict[str, Any] = {
        "updated": now, "began": now - 5, "requests": 18, "done": done, "failed": 0, "left": 18 - done, "in_flight": 7,
        "concurrency": 64, "per_second": 2.0, "eta_s": (18 - done) / 2, "retries": 1, "rate_limited": 3,
    }  # fmt: skip
    return LiveState(**{**fields, **changed})


def test_a_live_run_fills_up(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run()
    live = LiveFile(run.path)
    live.write(live_state(0))
    page = page_of(run)
    expect(page.locator(".pill", has_text="running")).to_be_visible()
    expect(page.locator(".waiting")).to_contain_text("7 in flight")
    cell = page.get_by_role("button", name="size small, city Paris: ")
    expect(cell).to_have_attribute("aria-label", "size small, city Paris: 3 left")
    run.add(*(run.record(number) for number in range(9)))
    live.write(live_state(9))
    expect(cell).to_have_attribute("aria-label", "size small, city Paris: 3 done")
    expect(page.get_by_text("Advert number 8,")).to_be_visible()
    pause = PauseNote(began=time.time(), until=time.time() + 60, reason="the server asked for a pause (429)")
    live.write(live_state(9, pauses=(pause,)))
    expect(page.locator(".pill", has_text="paused")).to_be_visible()
    expect(page.locator(".waiting")).to_contain_text("the server asked for a pause (429)")
    run.add(*(run.record(number) for number in range(9, 18)))
    live.remove()
    expect(page.locator(".pill", has_text="finished")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuetext", "18 done")


def test_a_cell_of_the_map_leads_to_its_rows(make_run: MakeRun, page_of: PageOf) -> None:
    page = page_of(make_run(rows=18))
    page.get_by_role("button", name="size large, city Berlin: 3 done").click()
    expect(page.get_by_role("listbox", name="Rows").get_by_role("option")).to_have_count(3)
    assert "axis.city=Berlin" in page.url
    assert "axis.size=large" in page.url
    page.go_back()
    expect(page.get_by_role("heading", name="Grid")).to_be_visible()


def test_filters_count_restrict_and_stand_in_the_address(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=10)
    run.add(run.failure(10), run.record(11, check_failures=["max_words"]))
    page = page_of(run)
    go(page, "records")
    total = page.locator(".total")
    expect(total).to_have_text("12 rows")
    page.get_by_role("checkbox", name="Paris 6").check()
    expect(total).to_have_text("6 rows of 12")
    page.get_by_role("checkbox", name=re.compile("rejected 1$")).check()
    expect(total).to_have_text("1 row of 12")
    address = page.url
    page.get_by_role("searchbox").fill("no such words")
    expect(page.get_by_role("heading", name="No row matches these filters")).to_be_visible()
    page.get_by_role("button", name="Show all rows").click()
    expect(total).to_have_text("12 rows")
    page.goto(address)
    expect(total).to_have_text("1 row of 12")
    expect(page.get_by_role("checkbox", name="Paris 1")).to_be_checked()


def test_all_rows_of_a_filter_are_rejected_at_once_and_restored_by_undo(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=18)
    page = page_of(run)
    go(page, "records?axis.city=Paris")
    page.get_by_role("button", name="Reject all 6").click()
    expect(page.locator(".message-bar")).to_contain_text("Rejected 6 rows")
    expect(page.get_by_role("checkbox", name="rejected 6")).to_be_visible()
    paris = [run.record(number) for number in range(6, 12)]
    reviews = read_reviews(run.path)
    assert all(reviews.is_rejected(record.key, record.completion) for record in paris)
    page.locator(".message-bar").get_by_role("button", name="Undo").click()
    expect(page.get_by_role("checkbox", name="rejected 0")).to_be_visible()
    assert read_reviews(run.path).rejected == {}


def test_a_bulk_decision_on_rows_that_have_become_others_is_not_made(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=4)
    page = page_of(run)
    go(page, "records")
    expect(page.locator(".total")).to_have_text("4 rows")
    page.evaluate("() => { window.fetchAsItIs = fetch }")
    page.route("**/review", lambda route: (run.add(run.record(9)), route.continue_()))
    page.get_by_role("button", name="Reject all 4").click()
    expect(page.locator(".message-bar")).to_contain_text("now matches 5 rows, not 4")
    assert read_reviews(run.path).rejected == {}


def test_the_chosen_row_is_shown_whole(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run()
    call = {"type": "function", "function": {"name": "look_up", "arguments": '{"city": "Paris"}'}}
    completion = json.dumps({"headline": "Cheap!", "score": 4})
    run.add(run.record(0, completion, reasoning="First I thought of prices.", tool_calls=[call]))
    run.add(run.record(1, "Cheap and cheerful shoes for all of Brussels"))
    run.add(run.record(2, "Cheap and cheerful boots for all of Brussels"))
    page = page_of(run)
    go(page, f"records?row={run.record(0).key}")
    detail = page.get_by_role("article", name="Row")
    expect(detail.locator(".fields")).to_contain_text("Cheap!")
    detail.get_by_text("Reasoning", exact=True).click()
    expect(detail.get_by_text("First I thought of prices.", exact=True)).to_be_visible()
    expect(detail.locator(".call")).to_contain_text("look_up")
    detail.get_by_text("Request as sent").click()
    expect(detail.get_by_text("An advert for a small shop in Brussels.")).to_be_visible()
    expect(detail.get_by_text("You write adverts.")).to_be_visible()
    detail.get_by_text("Raw", exact=True).click()
    expect(detail.get_by_text('"request_id":"req_0"')).to_be_visible()
    go(page, f"records?row={run.record(1).key}")
    detail.get_by_text("Nearly the same").click()
    expect(detail.get_by_role("link", name="same prompt Cheap and cheerful boots")).to_be_visible()


def test_hostile_text_is_shown_as_text_and_what_is_hidden_in_it_as_symbols(make_run: MakeRun, page_of: PageOf) -> None:
    job = 'name = "adverts"\n[grid]\ncity = ["<b>Paris</b>\u202e", "ok"]\n[prompt]\nuser = "{city}"\n'
    run = make_run(job=job + '[generate]\nprovider = "openai"\nmodel = "gpt-6-luna"\n')
    odd = {"finish_reason": "<i>odd</i>\x1b[2J", "check_failures": ["</p><script>alert(4)</script>"], "model": HOSTILE}
    run.add(run.record(0, HOSTILE, reasoning=HOSTILE, **odd), run.failure(1, HOSTILE))
    page = page_of(run)
    for number in range(2):
        for view in ("run", f"records?row={run.record(number).key}"):
            go(page, view)
            page.wait_for_timeout(200)
            assert page.locator("main img, main script, main i, main b").count() == 0
    go(page, f"records?row={run.record(0).key}")
    answer = page.locator(".text.answer")
    expect(answer).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer).to_contain_text("␛]0;title␇")
    expect(answer).to_contain_text("⟨U+202E⟩")
    expect(answer).to_contain_text("⟨U+2066⟩")
    expect(answer).to_contain_text("⟨U+200B⟩")
    shown = page.locator("body").inner_text() + page.title()
    attributes = page.evaluate(
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.value)).join('')"
    )
    assert not set(shown + attributes) & set("\x1b\x07\x00\u202e\u2066\u200b")
    assert page.locator("a[href^='javascript']").count() == 0


def test_the_list_is_used_by_keyboard_alone(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=18)
    page = page_of(run)
    press = page.keyboard.press
    press("2")
    expect(page.locator(".total")).to_have_text("18 rows")
    press("Enter")
    text = page.locator(".text.answer")
    expect(text).to_have_text("Advert number 17, cheap and cheerful.")
    press("j")
    expect(text).to_have_text("Advert number 16, cheap and cheerful.")
    press("x")
    expect(page.locator(".detail .status")).to_contain_text("rejected")
    expect(page.locator(".detail")).to_contain_text("You rejected this answer")
    press("u")
    expect(page.locator(".detail .status")).to_contain_text("done")
    press("s")
    expect(page.locator(".detail").get_by_text("seen", exact=True)).to_be_visible()
    press("k")
    expect(text).to_have_text("Advert number 17, cheap and cheerful.")
    press("Escape")
    expect(page.locator(".detail")).to_have_count(0)
    press("End")
    expect(text).to_have_text("Advert number 0, cheap and cheerful.")
    press("/")
    page.keyboard.type("number 5,")
    expect(page.locator(".total")).to_have_text("1 row of 18")
    press("Escape")
    press("?")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_have_count(0)
    press("1")
    expect(page.get_by_role("heading", name="Grid")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Grid")).to_be_visible()
    press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()


def test_a_row_that_was_marked_as_seen_stays_so(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=3)
    page = page_of(run)
    go(page, "records")
    page.get_by_role("button", name="All seen").click()
    expect(page.get_by_role("checkbox", name=re.compile("^seen 3"))).to_be_visible()
    another = page_of(run)
    go(another, "records?review=seen")
    expect(another.locator(".total")).to_have_text("3 rows of 3")


def test_only_rows_whose_repeats_differ_are_listed_where_asked_for(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run()
    run.add(*(run.record(n, "same") for n in (0, 1)), run.record(3, "yes"), run.record(4, "no"))
    page = page_of(run)
    go(page, "records")
    page.get_by_role("checkbox", name="Only rows whose repeats differ").check()
    expect(page.locator(".total")).to_have_text("2 rows of 4")


def test_new_rows_do_not_push_away_what_is_being_read(make_run: MakeRun, page_of: PageOf) -> None:
    values = ", ".join(f'"{n}"' for n in range(100))
    run = make_run(job=f'name = "adverts"\n[grid]\nn = [{values}]\n[prompt]\nuser = "{{n}}"\n')
    run.add(*(run.record(n) for n in range(60)))
    page = page_of(run)
    go(page, "records")
    expect(page.locator(".total")).to_have_text("60 rows")
    page.get_by_role("listbox").evaluate("element => { element.scrollTop = 1000 }")
    shown = page.get_by_text("Advert number 40,")
    expect(shown).to_be_visible()
    before = shown.bounding_box()
    run.add(*(run.record(n) for n in range(60, 80)))
    fresh = page.get_by_role("button", name="Show new rows")
    expect(fresh).to_be_visible()
    expect(shown).to_be_visible()
    assert before is not None
    fresh.click()
    expect(page.get_by_text("Advert number 79,")).to_be_visible()
    expect(page.locator(".total")).to_have_text("80 rows")


def test_a_run_that_cannot_be_read_says_so_and_how_to_mend_it(make_run: MakeRun, page_of: PageOf) -> None:
    run = make_run(rows=3)
    with run.directory.records.open("ab") as file:
        file.write(b"garbage\n")
    page = page_of(run)
    expect(page.get_by_role("alert")).to_contain_text("records.jsonl, line 4")
    expect(page.get_by_role("alert")).to_contain_text("asyncgen repair")
    run.directory.job.write_text("not TOML [", encoding="utf-8")
    run.change_state(spend=run.directory.read_state().spend.__class__(records=3))
    run.change_state(job=run.directory.read_state().job.__class__(name="adverts", model="other", requests=18))
    page.reload()
    expect(page.get_by_text("cannot be opened, so what is left is not known by cell")).to_be_visible()


def test_every_view_of_a_run_that_has_just_begun_says_what_comes_next(make_run: MakeRun, page_of: PageOf) -> None:
    page = page_of(make_run())
    for view, words in [
        ("records", "No rows yet"),
        ("training", "No fine-tuning job yet"),
        ("compare", "No evaluation yet"),
    ]:
        go(page, view)
        expect(page.get_by_role("heading", name=words)).to_be_visible()
    go(page, "run", "nowhere")
    expect(page.get_by_role("heading", name="there is no run 'nowhere' here")).to_be_visible()


def test_a_folder_without_runs_has_a_page_too(page_of: PageOf) -> None:
    page = page_of()
    expect(page.get_by_role("heading", name="No runs here yet")).to_be_visible()


def test_the_list_of_runs_leads_from_one_to_another(make_run: MakeRun, page_of: PageOf) -> None:
    make_run("first", rows=2)
    page = page_of(make_run("second", rows=5))
    page.keyboard.press("6")
    page.get_by_role("link", name="first").click()
    expect(page.get_by_role("heading", name="first")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuetext", "2 done, 16 left")


def test_a_server_that_is_gone_is_told(make_run: MakeRun, browser: Any) -> None:
    import sys  # noqa: PLC0415 - only here
    from subprocess import PIPE, Popen  # noqa: PLC0415 - only here

    run = make_run(rows=3)
    command = [sys.executable, "-m", "asyncgen", "view", str(run.path), "--no-browser", "--port", "0", "-q"]
    with Popen(command, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        page = browser.new_page()
        page.goto(server.stdout.readline().strip())
        expect(page.locator(".pill", has_text="stopped")).to_be_visible()
        server.terminate()
        assert server.wait(timeout=30) == 143
    expect(page.get_by_text("disconnected")).to_be_visible(timeout=20_000)
    expect(page.get_by_text("this page shows its last state")).to_be_visible()
    page.close()
