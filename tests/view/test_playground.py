"""The playground against a server that answers as a tuned model does, and what it never does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import RunDirectory
from asyncgen.run.state import DatasetState, FinetuningState
from asyncgen.view.playground import Playground, PlaygroundQuestion, form_for, offered

if TYPE_CHECKING:
    from playwright.sync_api import Page

KEY = "sk-canary-0123456789abcdef"
MakeRun = Callable[..., Any]
DATASET = DatasetState(files=[], format="completion", separator=" -->", ending=" END")


def tuned(model: str | None) -> FinetuningState:
    return FinetuningState(
        intent="i", provider="local", base_url="", model="base", training_file="f", job_id="j", tuned_model=model
    )


def test_the_models_of_a_run_are_offered_tuned_ones_first_and_each_once(make_run: MakeRun) -> None:
    run = make_run()
    run.change_state(finetuning=[tuned("first"), tuned(None), tuned("second")])
    assert [choice.name for choice in offered(run.directory.read_state())] == ["second", "first", "base", "gpt-6-luna"]


def test_a_question_is_put_as_the_dataset_was_made_or_as_a_plain_chat(make_run: MakeRun) -> None:
    run = make_run()
    run.change_state(dataset=DATASET)
    state = run.directory.read_state()
    form = form_for(state, PlaygroundQuestion(model="m", prompt="p"))
    assert (form.format, form.separator, form.stop) == ("completion", " -->", (" END",))
    assert form_for(state, PlaygroundQuestion(model="m", prompt="p", form="chat")).format == "chat"


def answering(base_url: str, asked: list[str], key: str | None = KEY) -> Any:
    @asynccontextmanager
    async def open_endpoint(_: RunDirectory, model: str) -> AsyncIterator[Endpoint]:
        asked.append(model)
        yield Endpoint(PROFILES["local"], base_url, Secret(key, "TEST") if key else None, model, "the test says so")

    return open_endpoint


def ask(run: Any, open_endpoint: Any, **question: Any) -> list[dict[str, Any]]:
    async def whole() -> list[dict[str, Any]]:
        async with Playground(open_endpoint) as playground:
            wanted = PlaygroundQuestion(**{"model": "simulated", "prompt": "Hotel", **question})
            return [piece async for piece in playground.ask(run.directory, run.directory.read_state(), wanted)]

    with ThreadPoolExecutor(1) as thread:  # Playwright keeps an event loop in this one
        return thread.submit(asyncio.run, whole()).result()


def test_an_answer_comes_in_pieces_and_ends_with_its_tokens(make_run: MakeRun, simulated_server: Any) -> None:
    run = make_run()
    run.change_state(dataset=DATASET)
    for form in ("chat", "dataset"):
        *pieces, last = ask(run, answering(simulated_server().base_url, []), form=form)
        assert len(pieces) > 1
        assert last["done"]["completion_tokens"] > 0
        assert last["done"]["prompt_tokens"] > 0


class Refusing(BaseHTTPRequestHandler):
    """A server that refuses every key, and quotes it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        words = f"Incorrect API key provided: {self.headers['Authorization'].removeprefix('Bearer ')}"
        content = json.dumps({"error": {"message": words, "code": "invalid_api_key"}}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_a_server_that_refuses_is_told_without_the_key_that_it_quotes(make_run: MakeRun, refusing: str) -> None:
    [piece] = ask(make_run(), answering(refusing, []), model="mine")
    assert "mine" in piece["error"]["what"]
    assert "Incorrect API key" in piece["error"]["cause"]
    assert KEY not in json.dumps(piece)


def test_a_server_that_is_not_there_is_told(make_run: MakeRun) -> None:
    [piece] = ask(make_run(), answering("http://127.0.0.1:9/v1", []))
    assert piece["error"]["cause"]


def test_a_question_without_words_asks_nobody(make_run: MakeRun) -> None:
    asked: list[str] = []
    [piece] = ask(make_run(), answering("http://127.0.0.1:9/v1", asked), prompt="  ")
    assert (asked, "no prompt" in piece["error"]["what"]) == ([], True)


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # noqa: PLC0415 - not on every machine

    return playwright_expect(locator)


@pytest.mark.browser
def test_two_models_answer_side_by_side_when_send_is_pressed_and_not_before(
    make_run: MakeRun, simulated_server: Any, refusing: str, page_of: Callable[..., Page]
) -> None:
    run = make_run()
    asked: list[str] = []
    run.change_state(dataset=DATASET, finetuning=[tuned("simulated")])
    places = {"simulated": answering(simulated_server().base_url, asked), "absent": answering(refusing, asked)}
    page = page_of(run, open_endpoint=lambda directory, model: places[model](directory, model))
    bodies: list[str] = []
    page.on("response", lambda response: bodies.append(response.text()) if "/playground" in response.url else None)
    filled = "prompt=large+hotel+in+Rome&left=simulated&right=absent&max_tokens=64"
    page.evaluate("hash => { location.hash = hash }", f"#/adverts/playground?{filled}")
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("large hotel in Rome")
    page.reload()
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("large hotel in Rome")
    expect(page.get_by_text("Nothing is sent until you press Send.").first).to_be_visible()
    assert asked == []
    page.get_by_role("button", name="Send").click()
    left, right = page.get_by_role("region", name="left model"), page.get_by_role("region", name="right model")
    expect(left).to_contain_text("completion tokens")
    expect(right.get_by_role("alert")).to_contain_text("could not ask absent")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert sorted(asked) == ["absent", "simulated"]
    assert KEY not in page.content() + "".join(bodies)


@pytest.mark.browser
def test_values_picked_from_the_axes_make_the_short_prompt(make_run: MakeRun, page_of: Callable[..., Page]) -> None:
    page = page_of(make_run())
    page.keyboard.press("5")
    page.get_by_label("city").fill("Paris")
    page.get_by_label("city").press("Tab")
    page.get_by_label("size").fill("large")
    page.get_by_label("size").press("Tab")
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("large shop in Paris")
    assert "axis.city=Paris" in page.url
