"""The forms of the API: OpenAI's with its gaps elsewhere, and Together's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from asyncgen.errors import UsageError
from asyncgen.finetune.api import AbsentError, JobOrder, OutageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import date
    from pathlib import Path

    from asyncgen.finetune.api import Tuner


def using(open_provider: Any, work: Callable[[Tuner], Awaitable[Any]], name: str = "openai") -> Any:
    async def scenario() -> Any:
        async with open_provider(name) as tuner:
            return await work(tuner)

    return asyncio.run(scenario())


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_job_that_says_little_is_read_all_the_same(provider: Any, open_provider: Any) -> None:
    provider.jobs["ftjob-x"] = {"id": "ftjob-x", "status": "queued", "hyperparameters": None, "new_field": 1}
    job = using(open_provider, lambda tuner: tuner.jobs.get("ftjob-x"))
    assert (job.status, job.outcome, job.error, job.result_files) == ("queued", None, None, ())
    assert job.raw["new_field"] == 1


@pytest.mark.parametrize(
    "body", [b"<html></html>", b"[]", b'{"status": "x"}', b"", b'{"id": 7, "status": {}}', b"\xff"]
)
def test_what_is_no_job_is_an_outage(body: bytes, provider: Any, open_provider: Any) -> None:
    provider.raw_job = body
    with pytest.raises(OutageError, match="could not") as caught:
        using(open_provider, lambda tuner: tuner.jobs.get("ftjob-x"))
    assert caught.value.code == "bad_answer"


def test_results_are_read_plain_or_base64(provider: Any, open_provider: Any) -> None:
    tables = []
    for encoded in (False, True):
        provider.base64_results = encoded
        job = provider.add_job()
        provider.finish(job)
        identifier = job["id"]

        async def read(tuner: Tuner, identifier: str = identifier) -> bytes | None:
            return await tuner.jobs.metrics(await tuner.jobs.get(identifier))

        tables.append(using(open_provider, read))
    assert tables[0] == tables[1]
    assert tables[0].startswith(b"step,train_loss")


def test_a_job_without_result_files_has_no_metrics(provider: Any, open_provider: Any) -> None:
    provider.add_job()

    async def read(tuner: Tuner) -> bytes | None:
        return await tuner.jobs.metrics(await tuner.jobs.get("ftjob-1"))

    assert using(open_provider, read) is None


@pytest.mark.parametrize(("told", "day"), [("2027-01-14", "2027-01-14"), (None, None), ("soon", None)])
def test_a_model_tells_the_day_it_goes(told: str | None, day: str | None, provider: Any, open_provider: Any) -> None:
    provider.shutdown_date = told
    facts = using(open_provider, lambda tuner: tuner.models.get("gpt-4.1-mini-2025-04-14"))
    shutdown: date | None = facts.shutdown
    assert (shutdown and shutdown.isoformat()) == day


def test_models_and_files_that_are_not_there_are_absent(provider: Any, open_provider: Any) -> None:
    with pytest.raises(AbsentError, match="could not delete the model ft:x"):
        using(open_provider, lambda tuner: tuner.models.delete("ft:x"))
    with pytest.raises(AbsentError, match="could not delete the file file-x"):
        using(open_provider, lambda tuner: tuner.files.delete("file-x"))


@pytest.mark.parametrize("identifier", ["", "..", "."])
def test_an_id_that_would_lead_elsewhere_is_refused(identifier: str, provider: Any, open_provider: Any) -> None:
    with pytest.raises(UsageError):
        using(open_provider, lambda tuner: tuner.jobs.get(identifier))
    assert provider.seen == []


def test_an_id_with_a_slash_stays_one_part_of_the_path(provider: Any, open_provider: Any) -> None:
    with pytest.raises(AbsentError):
        using(open_provider, lambda tuner: tuner.models.delete("../files/file-1"))
    assert provider.seen == [("DELETE", "/models/../files/file-1")]  # as the server read it, decoded


ODD_FIELDS: dict[str, Any] = {
    "created_at": "yesterday",
    "error": {"message": ["no"]},
    "result_files": ["file-1", 5, None],
    "trained_tokens": "many",
    "metadata": {"a": [1]},
    "fine_tuned_model": {"a": 1},
    "model": 7,
}


@pytest.mark.parametrize("name", ODD_FIELDS)
def test_an_odd_side_field_keeps_nobody_from_a_job(name: str, provider: Any, open_provider: Any) -> None:
    provider.jobs["ftjob-x"] = {"id": "ftjob-x", "status": "running", name: ODD_FIELDS[name]}
    job = using(open_provider, lambda tuner: tuner.jobs.get("ftjob-x"))
    assert (job.id, job.status) == ("ftjob-x", "running")
    if name == "result_files":
        assert job.result_files == ("file-1",)


def test_an_odd_job_among_others_hides_none_of_them(provider: Any, open_provider: Any) -> None:
    odd = [{"id": 5, "status": "running", **ODD_FIELDS}, 5, None, {"id": "ftjob-y", "status": "failed"}]
    provider._page = lambda _request, _items: web.json_response({"data": odd, "has_more": "perhaps"})

    async def all_jobs(tuner: Tuner) -> list[str]:
        return [job.id async for job in tuner.jobs.all()]

    assert using(open_provider, all_jobs) == ["5", "ftjob-y"]


def test_a_list_ends_where_a_server_repeats_itself(provider: Any, open_provider: Any) -> None:
    provider.add_job()

    async def all_jobs(tuner: Tuner) -> list[str]:
        return [job.id async for job in tuner.jobs.all()]

    provider._page = lambda _request, items: web.json_response({"data": items, "has_more": True})
    assert using(open_provider, all_jobs) == ["ftjob-1"]


def test_no_key_is_in_an_error(provider: Any, open_provider: Any) -> None:
    for how in ("reset", 401, 403, 404, 500, "html", "half"):
        provider.fail("GET", "ftjob-x", how, times=2)
        with pytest.raises(Exception, match="could not") as caught:
            using(open_provider, lambda tuner: tuner.jobs.get("ftjob-x"))
        error: BaseException | None = caught.value
        while error is not None:
            assert "canary" not in repr(error) + str(error)
            error = error.__cause__ or error.__context__


class FakeTogether:
    """Together's paths, as far as one job needs them."""

    def __init__(self) -> None:
        self.forms: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.status = "running"
        self.job_events: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/files/upload", self._upload),
                web.post("/v1/fine-tunes", self._create),
                web.get("/v1/fine-tunes", self._list),
                web.get("/v1/fine-tunes/{id}", self._get),
                web.get("/v1/fine-tunes/{id}/events", self._events),
                web.get("/v1/fine-tunes/{id}/checkpoints", self._checkpoints),
                web.get("/v1/fine-tunes/{id}/metrics", self._metrics),
                web.post("/v1/fine-tunes/{id}/cancel", self._get),
            ]
        )
        return app

    def _job(self, identifier: str = "ft-1") -> dict[str, Any]:
        return {
            "id": identifier,
            "status": self.status,
            "model": "llama",
            "model_output_name": "me/llama-adverts",
            "created_at": "2026-11-22T10:00:00.123456789Z",
            "updated_at": "2026-11-22T10:05:00Z",
            "training_file": "file-9",
            "token_count": 4321,
            "progress": {"estimate_available": True, "seconds_remaining": 60},
            "events": self.job_events,
        }

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.forms.append(
            {name: value.file.read() if hasattr(value, "file") else value for name, value in form.items()}
        )
        return web.json_response({"id": "file-9", "filename": form["file_name"], "bytes": 0, "Processed": False})

    async def _create(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response(self._job())

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{**self._job("ft-0"), "created_at": "2026-11-21T00:00:00Z"}, self._job()]})

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request.match_info["id"]))

    async def _events(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": self.job_events})

    async def _checkpoints(self, _request: web.Request) -> web.Response:
        found = [{"step": step, "created_at": "2026-11-22T10:00:00Z", "path": f"s3://{step}"} for step in (10, 20)]
        return web.json_response({"data": found})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.json_response({"metrics": [{"train/global_step": 1, "train/loss": 2.0}, {"eval/loss": 1.0}]})


def with_together(open_provider: Any, work: Callable[[Tuner, FakeTogether], Awaitable[None]], provider: Any) -> None:
    fake = FakeTogether()

    async def scenario() -> None:
        runner = web.AppRunner(fake.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.base_url = "http://{}:{}/v1".format(*runner.addresses[0][:2])
        try:
            async with open_provider("together") as tuner:
                await work(tuner, fake)
        finally:
            await runner.cleanup()

    run(scenario())


def test_a_file_goes_to_togethers_own_place(provider: Any, open_provider: Any, training_file: Path) -> None:
    content = training_file.read_bytes()

    async def work(tuner: Tuner, fake: FakeTogether) -> None:
        assert await tuner.files.upload(training_file, "train-1.jsonl", lambda *_: None) == "file-9"
        (form,) = fake.forms
        assert form == {
            "purpose": "fine-tune",
            "file_name": "train-1.jsonl",
            "file_type": "jsonl",
            "file": content,
        }

    with_together(open_provider, work, provider)


def test_together_jobs_are_created_and_read(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeTogether) -> None:
        job = await tuner.jobs.create(JobOrder(model="llama", training_file="file-9", suffix="adverts"))
        assert fake.bodies[0]["suffix"] == "adverts"
        assert (job.id, job.status, job.outcome, job.tuned_model) == ("ft-1", "running", None, None)
        assert (job.created, job.estimated_finish) == (1795341600, 1795341900 + 60)
        for status, outcome in (("completed", "succeeded"), ("cancelled", "cancelled"), ("compressing", None)):
            fake.status = status
            job = await tuner.jobs.get("ft-1")
            assert job.outcome == outcome
            assert job.tuned_model == ("me/llama-adverts" if outcome == "succeeded" else None)
        assert [job.id async for job in tuner.jobs.all()] == ["ft-1", "ft-0"]

    with_together(open_provider, work, provider)


def test_a_together_job_that_failed_tells_its_last_words(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeTogether) -> None:
        fake.status = "error"
        fake.job_events = [{"message": "started"}, {"message": "out of memory"}]
        job = await tuner.jobs.get("ft-1")
        assert job.error is not None
        assert job.error.message == "out of memory"

    with_together(open_provider, work, provider)


def test_together_events_get_ids_that_stay_and_tell_twins_apart(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeTogether) -> None:
        twin = {
            "created_at": "2026-11-22T10:00:01Z",
            "message": "epoch done",
            "type": "epoch_complete",
            "level": "info",
        }
        fake.job_events = [
            {"created_at": "2026-11-22T10:00:00Z", "message": "", "type": "job_pending", "level": None},
            twin,
            twin,
        ]
        first = await tuner.jobs.events("ft-1", None)
        fake.job_events.append({**twin, "created_at": "2026-11-22T10:00:02Z", "level": "warning"})
        second = await tuner.jobs.events("ft-1", None)
        assert [event.message for event in first.events] == ["epoch done", "epoch done", "job_pending"]
        assert [event.id for event in second.events][1:] == [event.id for event in first.events]
        assert len({event.id for event in second.events}) == 4
        assert second.events[0].level == "warn"

    with_together(open_provider, work, provider)


def test_together_checkpoints_and_metrics_are_brought_to_our_form(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeTogether) -> None:
        checkpoints = await tuner.jobs.checkpoints("ft-1")
        assert [(found.step, found.model) for found in checkpoints] == [(20, "s3://20"), (10, "s3://10")]
        table = await tuner.jobs.metrics(await tuner.jobs.get("ft-1"))
        assert table == b"train/global_step,train/loss,eval/loss\n1.0,2.0,\n,,1.0\n"

    with_together(open_provider, work, provider)
