"""Runs to look at, made in a moment; the page's server in a thread of its own; a browser, where there is one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest

from asyncgen.generate.journal.stale import accept_stale, find_stale
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, keep_job, open_job
from asyncgen.providers.endpoint import Endpoint
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.records import Failure, FailureError, Record, Usage, encode_line

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NOW = 1_790_000_000
JOB = """
name = "adverts"

[grid]
city = ["Brussels", "Paris", "Berlin"]
size = ["small", "large"]

[prompt]
system = "You write adverts."
user = "An advert for a {size} shop in {city}."
sample = "{size} shop in {city}"

[generate]
provider = "openai"
model = "gpt-6-luna"
repeats = 3

[dataset]
format = "completion"
separator = " -->"
ending = " END"
"""


@dataclass(frozen=True, slots=True)
class MadeRun:
    """A run on disk, and what can be added to it as a generating process would."""

    directory: RunDirectory
    job: OpenedJob

    @property
    def path(self) -> Path:
        return self.directory.path

    def record(self, number: int, completion: str | None = None, **changed: Any) -> Record:
        """The answer to the job's request with that number."""
        request = next(islice(self.job.grid.requests(), number, None))
        fields: dict[str, Any] = {
            "key": request.key.hex(),
            "index": request.index,
            "repeat": request.repeat,
            "variables": self.job.grid.variables(request),
            "prompt": self.job.grid.prompt(request),
            "completion": f"Advert number {number}, cheap and cheerful." if completion is None else completion,
            "model": "gpt-6-luna",
            "finish_reason": "stop",
            "usage": Usage(prompt_tokens=20, completion_tokens=10 + number),
            "attempts": 1,
            "check_failures": [],
            "latency_s": 0.5 + number / 10,
            "created": NOW + number,
            "request_id": f"req_{number}",
        }
        return Record(**{**fields, **changed})

    def failure(self, number: int, message: str = "The server gave up.", **changed: Any) -> Failure:
        record = self.record(number)
        error = FailureError(type="server_error", status=500, message=message)
        fields: dict[str, Any] = {"error": error, "attempts": 5, "maybe_paid": 0, "created": record.created}
        same = {name: getattr(record, name) for name in ("key", "index", "repeat", "variables")}
        return Failure(**{**same, **fields, **changed})

    def add(self, *rows: Record | Failure) -> None:
        for row in rows:
            path = self.directory.records if isinstance(row, Record) else self.directory.failures
            with path.open("ab") as file:
                file.write(encode_line(row))

    def change_state(self, **changed: Any) -> None:
        with open_run(self.path) as run:
            run.update(lambda state: msgspec.structs.replace(state, **changed))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., MadeRun]:
    """Make a run under `runs`: `make_run("adverts", rows=5)`; without rows it has just begun."""

    def make(name: str = "adverts", *, rows: int = 0, job: str = JOB) -> MadeRun:
        source = tmp_path / f"{name}.toml"
        source.write_text(job, encoding="utf-8")
        file = read_job_file(source)
        opened = open_job(file, generation="openai", tuning="local", model="gpt-6-luna")
        path = tmp_path / "runs" / name
        with open_run(path, job_name="adverts") as run:
            keep_job(run, opened)
            accept_stale(run, opened.grid, find_stale(run, opened.grid))
        made = MadeRun(RunDirectory(path), opened)
        made.add(*(made.record(number) for number in range(rows)))
        return made

    return make


@dataclass(frozen=True, slots=True)
class Served:
    """A page that is served; `port` is where it listens, whatever its link says."""

    link: str
    port: int

    @property
    def origin(self) -> str:
        parts = urlsplit(self.link)
        return f"{parts.scheme}://{parts.netloc}"


OpenEndpoint = Callable[[RunDirectory, str], AbstractAsyncContextManager[Endpoint]]


@contextmanager
def serving(
    root: Path, run: RunDirectory | None, open_endpoint: OpenEndpoint | None, seen_at: str | None
) -> Iterator[Served]:
    from asyncgen.view.access import BrowserAddress, PageAccess  # noqa: PLC0415 - imports aiohttp
    from asyncgen.view.runs import Runs  # noqa: PLC0415 - with it
    from asyncgen.view.server import serve_view  # noqa: PLC0415 - with it

    def nobody(_: RunDirectory, model: str) -> AbstractAsyncContextManager[Endpoint]:
        raise AssertionError(f"nothing should be asked of {model}")

    started: Future[Served] = Future()
    stopping: Future[Callable[[], object]] = Future()

    async def live() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopping.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        access = PageAccess(BrowserAddress.of(seen_at) if seen_at else None)
        await serve_view(
            Runs(root, run), access, open_endpoint or nobody, port=0, stop=stop, say=lambda _: None,
            started=lambda link: started.set_result(Served(link, access.port)),
        )  # fmt: skip

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        yield started.result(timeout=30)
    finally:
        stopping.result()()
        thread.join()


@pytest.fixture
def serve_page(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serve the page over the runs of the test: `serve_page(run)`, `serve_page()` for all of them."""
    with ExitStack() as stack:

        def start(
            run: MadeRun | None = None, *, open_endpoint: OpenEndpoint | None = None, seen_at: str | None = None
        ) -> Served:
            directory = run.directory if run else None
            return stack.enter_context(serving(tmp_path / "runs", directory, open_endpoint, seen_at))

        yield start


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread, which other modules' tests need
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a network of its own."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    sync_api.expect.set_options(timeout=20_000)  # a busy machine is no fault of the page
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def is_trouble(said: Any) -> bool:
    """Whether the browser complains of the page; a request that the server refused is told by the page itself."""
    return said.type == "error" and "status of 400" not in said.text


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a link in a browser of its own, and see that nothing goes wrong in it: `open_page(served.link)`."""
    troubles: list[str] = []
    with ExitStack() as stack:

        def start(link: str, **context: Any) -> Page:
            opened = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context})
            stack.callback(opened.close)
            page = opened.new_page()
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", lambda said: troubles.append(said.text) if is_trouble(said) else None)
            page.goto(link)
            page.wait_for_selector("nav.rail")
            return page

        yield start
    assert troubles == []


@pytest.fixture
def page_of(serve_page: Callable[..., Served], open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Serve the page over a run and open it: `page_of(run)`; what is said of the server as `serve_page` takes it."""

    def start(run: MadeRun | None = None, *, context: dict[str, Any] | None = None, **server: Any) -> Page:
        return open_page(serve_page(run, **server).link, **(context or {}))

    return start
