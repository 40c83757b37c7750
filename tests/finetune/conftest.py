"""A provider that tunes, on loopback: files, jobs through their states, paged events, and failures where a test wants.

It lives in a thread of its own, so that the command line can be run against it as a process too.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import BodyPartReader, web
from msgspec.structs import replace

from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import open_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from asyncgen.finetune.api import Tuner
    from asyncgen.run.directory import RunWriter

NOW = 1_800_000_000
METRICS = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.5,0.4,,\n2,1.5,0.6,1.7,0.5\n"


@dataclass
class Fault:
    """What happens to the next `times` requests that match, after the first `skip`."""

    method: str
    path: re.Pattern[str]
    how: int | str
    times: float = 1
    code: str | None = None
    skip: int = 0


@dataclass
class FakeProvider:
    """The API's state, and what was asked of it.

    Attributes:
        page_size: the most that a page holds, whatever is asked for.
        script: what becomes of a job with each time that it is looked up: functions of the job and its events.
        keeps_metadata: jobs show the metadata that they were created with.
    """

    base_url: str = ""
    page_size: int = 100
    keeps_metadata: bool = True
    closed_account: bool = False
    lists_files: bool = True
    base64_results: bool = False
    shutdown_date: str | None = None
    raw_job: bytes | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    models: set[str] = field(default_factory=lambda: {"gpt-4.1-mini-2025-04-14", "smollm2-135m-instruct"})
    script: list[Callable[[dict[str, Any], list[dict[str, Any]]], None]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fail(
        self, method: str, path: str, how: int | str, times: float = 1, code: str | None = None, skip: int = 0
    ) -> None:
        """`how`: a status, "reset" before anything is done, "reset-after" it, "html", or "half" of the answer."""
        self.faults.append(Fault(method, re.compile(path), how, times, code, skip))

    def count(self, method: str, path: str) -> int:
        return sum(found == method and re.fullmatch(path, at) is not None for found, at in self.seen)

    def add_job(self, **fields: Any) -> dict[str, Any]:
        job = {
            "id": f"ftjob-{next(self.numbers)}",
            "object": "fine_tuning.job",
            "status": "validating_files",
            "model": "gpt-4.1-mini-2025-04-14",
            "created_at": NOW,
            "fine_tuned_model": None,
            "finished_at": None,
            "trained_tokens": None,
            "result_files": [],
            "training_file": "file-0",
            "metadata": None,
            "error": {"code": None, "message": None, "param": None},
            **fields,
        }
        self.jobs[job["id"]] = job
        self.events[job["id"]] = []
        return job

    def tell(self, job_id: str, message: str, *, at: int = NOW, level: str = "info", data: Any = None) -> None:
        """Add an event; the newest stands first, as in the API."""
        event = {
            "id": f"ftevent-{next(self.numbers)}",
            "object": "fine_tuning.job.event",
            "created_at": at,
            "level": level,
            "message": message,
            "type": "metrics" if data else "message",
            "data": data,
        }
        self.events[job_id].insert(0, event)

    def finish(self, job: dict[str, Any], status: str = "succeeded", **fields: Any) -> None:
        results = f"file-results-{job['id']}"
        self.contents[results] = base64.b64encode(METRICS.encode()) if self.base64_results else METRICS.encode()
        job.update(status=status, finished_at=NOW + 60, result_files=[results], trained_tokens=1234)
        if status == "succeeded":
            job["fine_tuned_model"] = f"ft:gpt-4.1-mini-2025-04-14:org:{job['id']}"
            self.models.add(job["fine_tuned_model"])
        job.update(fields)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._meet_faults], client_max_size=10**9)
        one = "/v1/fine_tuning/jobs/{id}"
        app.add_routes(
            [
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._list_files),
                web.get("/v1/files/{id}", self._get_file),
                web.get("/v1/files/{id}/content", self._file_content),
                web.delete("/v1/files/{id}", self._delete_file),
                web.post("/v1/fine_tuning/jobs", self._create),
                web.get("/v1/fine_tuning/jobs", self._list_jobs),
                web.get(one, self._get_job),
                web.get(f"{one}/events", self._list_events),
                web.get(f"{one}/checkpoints", self._list_checkpoints),
                web.post(f"{one}/cancel", self._cancel),
                web.get("/v1/models/{name}", self._get_model),
                web.delete("/v1/models/{name}", self._delete_model),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._complete),
            ]
        )
        return app

    @web.middleware
    async def _meet_faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append((request.method, request.path.removeprefix("/v1")))
        fault = self._fault(request)
        how = fault.how if fault else None
        if how == "reset":
            return _dropped(request)
        if how == "html":
            return web.Response(text="<html>sign in</html>", content_type="text/html")
        if fault and isinstance(how, int):
            await request.read()
            body = {"error": {"message": f"scripted {how}", "type": "t", "param": None, "code": fault.code}}
            return web.json_response(body, status=how, headers={"retry-after-ms": "1"})
        response: web.Response = await handler(request)
        if how == "reset-after":
            return _dropped(request)
        if how == "half":
            assert isinstance(response.body, bytes)
            return web.Response(body=response.body[: len(response.body) // 2], content_type="application/json")
        return response

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.method == request.method and fault.path.search(request.path) and fault.times > 0:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _page(self, request: web.Request, items: list[dict[str, Any]]) -> web.Response:
        limit = min(int(request.query.get("limit", 20)), self.page_size)
        after = request.query.get("after")
        start = next((place + 1 for place, item in enumerate(items) if item["id"] == after), 0) if after else 0
        data = items[start : start + limit]
        return web.json_response({"object": "list", "data": data, "has_more": start + limit < len(items)})

    async def _upload(self, request: web.Request) -> web.Response:
        form: dict[str, str] = {}
        content, filename = b"", ""
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name == "file":
                content, filename = bytes(await part.read()), part.filename or ""
            else:
                form[part.name or ""] = bytes(await part.read()).decode()
        self.forms.append(form)
        file: dict[str, Any] = {
            "id": f"file-{next(self.numbers)}",
            "object": "file",
            "bytes": len(content),
            "filename": filename,
        }
        self.files[file["id"]], self.contents[file["id"]] = {**file, "purpose": form.get("purpose")}, content
        return web.json_response(self.files[file["id"]])

    async def _list_files(self, request: web.Request) -> web.Response:
        if not self.lists_files:
            return _missing("page")
        return self._page(request, list(self.files.values())[::-1])

    async def _get_file(self, request: web.Request) -> web.Response:
        file = self.files.get(request.match_info["id"])
        return web.json_response(file) if file else _missing("file")

    async def _file_content(self, request: web.Request) -> web.Response:
        content = self.contents.get(request.match_info["id"])
        return web.Response(body=content) if content is not None else _missing("file")

    async def _delete_file(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        return web.json_response({"deleted": True}) if self.files.pop(identifier, None) else _missing("file")

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if self.closed_account:
            error = {"message": "Training is not available.", "type": "invalid_request_error", "param": None}
            return web.json_response({"error": {**error, "code": "training_not_available"}}, status=403)
        job = self.add_job(model=body["model"], training_file=body["training_file"])
        job["metadata"] = body.get("metadata") if self.keeps_metadata else None
        self.tell(job["id"], f"Created fine-tuning job: {job['id']}")
        return web.json_response(job)

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return self._page(request, list(self.jobs.values())[::-1])

    async def _get_job(self, request: web.Request) -> web.Response:
        if self.raw_job is not None:
            return web.Response(body=self.raw_job, content_type="application/json")
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return _missing("fine-tuning job")
        if self.script and job["status"] not in ("succeeded", "failed", "cancelled"):
            self.script.pop(0)(job, self.events[job["id"]])
        return web.json_response(job)

    async def _list_events(self, request: web.Request) -> web.Response:
        return self._page(request, self.events[request.match_info["id"]])

    async def _list_checkpoints(self, request: web.Request) -> web.Response:
        return self._page(request, self.checkpoints.get(request.match_info["id"], []))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return _missing("fine-tuning job")
        job["status"] = "cancelled"
        return web.json_response(job)

    async def _get_model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.models:
            return _missing("model")
        return web.json_response({"id": name, "object": "model", "shutdown_date": self.shutdown_date})

    async def _delete_model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.models:
            return _missing("model")
        self.models.remove(name)
        return web.json_response({"id": name, "deleted": True})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        text = f"{body['model']} says \x1b[2J{body['messages'][-1]['content']}"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response(_answer(body, choice))

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        return web.json_response(_answer(body, {"index": 0, "text": f" on {body['prompt']}", "finish_reason": "stop"}))


def _answer(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    return {"id": "x", "object": "o", "model": body["model"], "choices": [choice], "usage": usage}


def _missing(what: str) -> web.Response:
    error = {"message": f"No such {what}.", "type": "invalid_request_error", "param": "id", "code": "not_found"}
    return web.json_response({"error": error}, status=404)


def _dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    fake = FakeProvider()
    ready: threading.Event = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def live() -> None:
        runner = web.AppRunner(fake.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.base_url = f"http://{host}:{port}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert ready.wait(30)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def open_provider(provider: FakeProvider) -> Callable[..., Any]:
    """`async with open_provider("nebius") as tuner`: the fake under a provider's profile, with no waits."""

    @asynccontextmanager
    async def opened(name: str = "openai", attempts: int = 2, **finetuning: Any) -> AsyncIterator[Tuner]:
        from asyncgen.finetune.target import open_tuner  # noqa: PLC0415 - the SDK takes a second to import
        from asyncgen.providers.openai_client import Pacing  # noqa: PLC0415 - as above

        async def sleep(_seconds: float) -> None:
            await asyncio.sleep(0)

        profile = PROFILES[name]
        assert profile.finetuning is not None
        if finetuning:
            profile = replace(profile, finetuning=replace(profile.finetuning, **finetuning))
        endpoint = Endpoint(profile, provider.base_url, Secret("sk-canary-0123456789", "TEST_KEY"), "m", "a test")
        pacing = Pacing(attempts=attempts, sleep=sleep, now=lambda: float(NOW), rng=Random(1))
        async with open_tuner(endpoint, pacing=pacing) as tuner:
            yield tuner

    return opened


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunWriter]:
    with open_run(tmp_path / "run", job_name="adverts") as opened:
        yield opened


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    line = '{"messages":[{"role":"user","content":"Hotel %d"},{"role":"assistant","content":"Come in."}]}\n'
    path.write_text("".join(line % number for number in range(12)), encoding="utf-8")
    return path
