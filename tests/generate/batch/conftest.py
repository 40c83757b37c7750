"""A provider of the Batch API on loopback that keeps state, fails on demand, and counts what it sold."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web

from asyncgen.errors import AsyncgenError
from asyncgen.generate.batch.api import BatchApi
from asyncgen.generate.batch.engine import BatchPace, open_batch_loop
from asyncgen.generate.batch.join import JoinResult
from asyncgen.generate.batch.send import Allowance
from asyncgen.generate.journal.journal import open_journal
from asyncgen.generate.journal.settled import CostOf
from asyncgen.generate.pool.pool import Outcome
from asyncgen.job.answers import AnswerChecks
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, open_job
from asyncgen.providers.endpoint import Endpoint, Secret
from asyncgen.providers.openai_client import Pacing, open_client
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.records import Failure, Record, Usage, decode_failure, decode_record
from asyncgen.run.state import BatchState

Json = dict[str, Any]
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def answered(custom_id: str, text: str | None = None, **message: Any) -> Json:
    """An output line that answers."""
    content = text if text is not None else f"Answer to {custom_id[:6]}."
    body = {
        "model": "m-1",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
        ],
        "usage": USAGE,
    }
    return {"custom_id": custom_id, "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def refused(custom_id: str, status: int, code: str | None = None) -> Json:
    """A line of the error file that tells an HTTP error."""
    body = {"error": {"message": "no", "code": code}}
    return {"custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": None}


def never_done(custom_id: str, code: str) -> Json:
    """A line of the error file for a request that was not made."""
    return {"custom_id": custom_id, "response": None, "error": {"code": code, "message": "not done"}}


class Provider:
    """The provider.

    Attributes:
        script: statuses that each new batch passes through, one a look; the last one is its end.
        line_of: the line that a request comes to; None for none at all. Called with the key and how often it was asked.
        queue_rows: rows that may be in batches under way; more, and a batch fails as OpenAI's do.
        faults: route to what befalls its next calls: a status, "reset" (before it is done), "lost" (after it), or
            "page" (HTML).
        sold: key to how often an answer to it was made.
        calls: routes as they were called.
        change: fields laid over every batch that is shown.
        renamed: statuses to the names that are shown for them.
        strangers: shown in lists beside the batches.
    """

    def __init__(self) -> None:
        self.script = ["validating", "in_progress", "finalizing", "completed"]
        self.scripts: list[list[str]] = []
        self.line_of: Callable[[str, int], Json | None] = lambda key, _asked: answered(key)
        self.queue_rows: int | None = None
        self.refusal: list[Json] = [{"code": "invalid_model", "message": "no such model", "line": 1}]
        self.failed_keep_answers = False
        self.faults: dict[str, list[int | str]] = {}
        self.called: Callable[[str], None] = lambda _route: None
        self.asked: Counter[str] = Counter()
        self.sold: Counter[str] = Counter()
        self.calls: list[str] = []
        self.change: Json = {}
        self.renamed: dict[str, str] = {}
        self.strangers: list[Any] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self._coming: dict[str, Iterator[str]] = {}
        self._ids = itertools.count(1)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=10**9)
        for method, path, handle in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{id}", self._retrieve),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ):
            app.router.add_route(method, path, self._faulty(handle))
        return app

    def end_all(self, status: str) -> None:
        """Let every batch end so at the next look."""
        self._coming = {batch_id: iter([status]) for batch_id in self.batches}

    def _faulty(self, handle: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        route = handle.__name__.removeprefix("_")

        async def respond(request: web.Request) -> web.StreamResponse:
            self.calls.append(route)
            fault = self.faults[route].pop(0) if self.faults.get(route) else None
            if isinstance(fault, int):
                await request.read()
                return web.json_response({"error": {"message": "no", "code": None}}, status=fault)
            if fault == "page":
                return web.Response(text="<html>welcome</html>", content_type="text/html")
            response = None if fault == "reset" else await handle(request)
            self.called(route)
            if fault is not None:
                assert request.transport is not None
                request.transport.close()
            return response or web.Response()

        return respond

    def _shown(self, batch: Json) -> Json:
        plain = {name: value for name, value in batch.items() if not name.startswith("_")}
        return plain | {"status": self.renamed.get(batch["status"], batch["status"])} | self.change

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        assert form["purpose"] == "batch"
        file_id = f"file-{next(self._ids)}"
        self.files[file_id] = file.file.read()
        return web.json_response({"id": file_id, "object": "file"})

    async def _content(self, request: web.Request) -> web.Response:
        content = self.files.get(request.match_info["id"])
        return web.Response(body=content) if content is not None else _missing()

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        lines = self.files[asked["input_file_id"]].splitlines()
        assert len({orjson.loads(line)["custom_id"] for line in lines}) == len(lines)
        batch_id = f"batch_{next(self._ids)}"
        script = self.scripts.pop(0) if self.scripts else self.script
        rows_queued = sum(each["request_counts"]["total"] for each in self.batches.values() if each["_running"])
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "status": "validating",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "metadata": asked["metadata"],
            "created_at": 1_800_000_000 + len(self.batches),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "_running": True,
        }
        if self.queue_rows is not None and rows_queued + len(lines) > self.queue_rows:
            self.batches[batch_id]["_refusal"] = [{"code": "token_limit_exceeded", "message": "the queue is full"}]
            script = ["failed"]
        self._coming[batch_id] = iter(script)
        return web.json_response(self._shown(self.batches[batch_id]))

    async def _list(self, request: web.Request) -> web.Response:
        newest_first = list(reversed(self.batches.values()))
        after = request.query.get("after")
        start = next((at + 1 for at, each in enumerate(newest_first) if each["id"] == after), 0)
        page = newest_first[start : start + int(request.query["limit"])]
        return web.json_response(
            {"object": "list", "data": [*self.strangers, *(self._shown(each) for each in page)], "has_more": False}
        )

    async def _retrieve(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _missing()
        status = next(self._coming[batch["id"]], None)
        if status is not None:
            batch["status"] = status
        if batch["_running"] and status in {"completed", "expired", "cancelled", "failed"}:
            self._finish(batch)
        return web.json_response(self._shown(batch))

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _missing()
        batch["status"] = "cancelling"
        self._coming[batch["id"]] = iter(["cancelling", "cancelled"])
        return web.json_response(self._shown(batch))

    def _finish(self, batch: Json) -> None:
        batch["_running"] = False
        if batch["status"] == "failed" and not self.failed_keep_answers:
            batch["errors"] = {"object": "list", "data": batch.get("_refusal", self.refusal)}
            return
        output, errors = [], []
        for line in self.files[batch["input_file_id"]].splitlines():
            key = orjson.loads(line)["custom_id"]
            self.asked[key] += 1
            made = self.line_of(key, self.asked[key])
            if made is None:
                continue
            if made["response"] and made["response"]["status_code"] == 200:
                self.sold[key] += 1
                output.append(made)
            else:
                errors.append(made)
        counts = {"total": batch["request_counts"]["total"], "completed": len(output), "failed": len(errors)}
        batch["request_counts"] = counts
        for name, made_lines in (("output_file_id", output), ("error_file_id", errors)):
            if made_lines:
                Random(7).shuffle(made_lines)
                batch[name] = f"file-{next(self._ids)}"
                self.files[batch[name]] = b"".join(orjson.dumps(made) + b"\n" for made in made_lines)


def _missing() -> web.Response:
    return web.json_response({"error": {"message": "not found", "code": "not_found"}}, status=404)


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    """The base URL of a provider while the block runs."""
    runner = web.AppRunner(provider.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


class Seen:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.joined: list[JoinResult] = []
        self.uploaded: list[tuple[int, int]] = []

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        self.uploaded.append((sent, size))

    def changed(self, batch: BatchState) -> None:
        self.statuses.append(batch.status)

    def collected(self, batch: BatchState, joined: JoinResult) -> None:
        self.joined.append(joined)


def half_in_batch(usages: Sequence[Usage], in_batch: bool) -> float:
    return sum(usage.completion_tokens for usage in usages) * (0.5 if in_batch else 1.0)


class Desk:
    """A run and a provider: `generate()` is one invocation of the command, in this process.

    Attributes:
        waits_s: how long it slept between looks.
        api_kind: made for each invocation; a test may put its own in the place.
        run_kind: likewise.
    """

    def __init__(self, folder: Path, opened: OpenedJob) -> None:
        self.provider = Provider()
        self.seen = Seen()
        self.opened = opened
        self.folder = folder
        self.waits_s: list[float] = []
        self.retry_failed = False
        self.profile = "openai"
        self.base_url = "https://provider.example/v1"  # what is noted; each invocation is served at another port
        self.api_kind: Callable[..., BatchApi] = BatchApi
        self.run_kind: Callable[[RunWriter], RunWriter] = lambda run: run
        self.cost_of: CostOf = half_in_batch

    def generate(self, allowance: Allowance | None = None) -> Outcome:
        return asyncio.run(self._generate(allowance or Allowance()))

    async def _generate(self, allowance: Allowance) -> Outcome:
        async with serving(self.provider) as address:
            with open_run(self.folder, job_name="c") as opened_run:
                run = self.run_kind(opened_run)
                with open_journal(run, cost_of=self.cost_of, retry_failed=self.retry_failed) as journal:
                    endpoint = Endpoint(PROFILES[self.profile], self.base_url, Secret("sk", "K"), "m", "")
                    reached = Endpoint(PROFILES[self.profile], address, Secret("sk", "K"), "m", "")
                    async with open_client(reached) as client:
                        engine = open_batch_loop(
                            run,
                            journal,
                            self.opened.grid,
                            endpoint,
                            self.api_kind(client, self._pacing()),
                            checks=AnswerChecks(self.opened.job.checks),
                            allowance=allowance,
                            watcher=self.seen,
                            pace=BatchPace(sleep=self._sleep),
                            now=lambda: 1_800_000_000.0,
                        )
                        return await engine.run()

    def _pacing(self) -> Pacing:
        return Pacing(attempts=3, sleep=_at_once, now=lambda: 0.0, rng=Random(1))

    async def _sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        assert len(self.waits_s) < 10_000, "it waits for ever"
        await asyncio.sleep(0)

    def fails(self, allowance: Allowance | None = None) -> AsyncgenError:
        """An invocation that raises, or ends with an error."""
        try:
            error = self.generate(allowance).error
        except AsyncgenError as raised:
            return raised
        assert error is not None
        return error

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder)

    @property
    def records(self) -> list[Record]:
        return [decode_record(line) for line in _lines(self.directory.records)]

    @property
    def failures(self) -> list[Failure]:
        return [decode_failure(line) for line in _lines(self.directory.failures)]

    @property
    def batches(self) -> list[BatchState]:
        return self.directory.read_state().batches

    @property
    def keys(self) -> set[str]:
        return {request.key.hex() for request in self.opened.grid.requests()}


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


JOB = """
name = "c"
[grid]
a = {values}
[prompt]
user = "Say something about {{a}}."
[generate.parameters]
max_completion_tokens = 20
[checks]
max_words = 50
"""


@pytest.fixture
def open_rows(tmp_path: Path) -> Callable[[int], OpenedJob]:
    """A job of so many rows."""

    def open_grid(rows: int, tables: str = "") -> OpenedJob:
        path = tmp_path / "job.toml"
        values = orjson.dumps([f"value {number}" for number in range(rows)]).decode()
        path.write_text(JOB.format(values=values) + tables, encoding="utf-8")
        return open_job(read_job_file(path), generation="openai", tuning="openai", model="m")

    return open_grid


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing takes no time, if there is such a place: these tests note thousands of small steps."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@pytest.fixture
def desk(folder: Path, open_rows: Callable[[int], OpenedJob]) -> Desk:
    """A run of ten rows that nothing was done for."""
    return Desk(folder / "run", open_rows(10))


@pytest.fixture
def lines() -> tuple[Callable[..., Json], ...]:
    """Makers of a provider's lines: `answered`, `refused`, `never_done`."""
    return answered, refused, never_done
