"""Fireworks' own API, as a small server on loopback has it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import JobOrder, check_order
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncgen.finetune.api import Tuner

ACCOUNT = "/v1/accounts/me"
JOBS = f"{ACCOUNT}/supervisedFineTuningJobs"
BASE = "accounts/fireworks/models/llama-v3p1-8b-instruct"


class FakeFireworks:
    """Datasets become ready at the second look; jobs run until they are told otherwise; pages hold one thing."""

    def __init__(self) -> None:
        self.accounts = ["accounts/me"]
        self.datasets: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.looks_until_ready = 1
        self.broken = False

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/accounts", self._accounts),
                web.post(f"{ACCOUNT}/datasets", self._create_dataset),
                web.get(f"{ACCOUNT}/datasets/{{id}}", self._get_dataset),
                web.post(f"{ACCOUNT}/datasets/{{id}}:upload", self._upload),
                web.post(JOBS, self._create_job),
                web.get(JOBS, self._list_jobs),
                web.get(f"{JOBS}/{{id}}", self._get_job),
                web.post(f"{JOBS}/{{id}}:cancel", self._cancel),
                web.delete(f"{ACCOUNT}/{{kind}}/{{id}}", self._delete),
            ]
        )
        return app

    async def _accounts(self, _request: web.Request) -> web.Response:
        return web.json_response({"accounts": [{"name": name} for name in self.accounts]})

    async def _create_dataset(self, request: web.Request) -> web.Response:
        identifier = (await request.json())["datasetId"]
        self.datasets[identifier] = {"name": f"accounts/me/datasets/{identifier}", "state": "UPLOADING"}
        return web.json_response(self.datasets[identifier])

    async def _get_dataset(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        if identifier not in self.datasets:
            return web.json_response({"code": 5, "message": "not found"}, status=404)
        found = self.datasets[identifier]
        if identifier in self.contents:
            self.looks_until_ready -= 1
            if self.broken:
                found["status"] = {"code": "INVALID_ARGUMENT", "message": "line 3 has no messages"}
            elif self.looks_until_ready < 0:
                found["state"] = "READY"
        return web.json_response(found)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.contents[request.match_info["id"]] = form["file"].file.read()  # type: ignore[union-attr]
        return web.json_response({})

    async def _create_job(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        number = len(self.jobs) + 1
        self.jobs[f"job{number}"] = {
            "name": f"accounts/me/supervisedFineTuningJobs/job{number}",
            "state": "JOB_STATE_RUNNING",
            "createTime": f"2026-11-2{number}T10:00:00Z",
            "baseModel": body["baseModel"],
            "outputModel": f"accounts/me/models/job{number}",
            "dataset": body["dataset"],
        }
        return web.json_response(self.jobs[f"job{number}"])

    async def _list_jobs(self, request: web.Request) -> web.Response:
        assert request.query["orderBy"] == "createTime desc"
        found = list(self.jobs.values())[::-1]
        start = int(request.query.get("pageToken", 0))
        more = {"nextPageToken": str(start + 1)} if start + 1 < len(found) else {}
        return web.json_response({"supervisedFineTuningJobs": found[start : start + 1], **more})

    async def _get_job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs[request.match_info["id"]])

    async def _cancel(self, request: web.Request) -> web.Response:
        self.jobs[request.match_info["id"]]["state"] = "JOB_STATE_CANCELLED"
        return web.json_response({})

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.path)
        return web.json_response({})


def using(
    open_provider: Any,
    provider: Any,
    work: Callable[[Tuner, FakeFireworks], Awaitable[None]],
    fake: FakeFireworks | None = None,
) -> None:
    fake = fake or FakeFireworks()

    async def scenario() -> None:
        runner = web.AppRunner(fake.app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.base_url = "http://{}:{}/inference/v1".format(*runner.addresses[0][:2])
        try:
            async with open_provider("fireworks") as tuner:
                await work(tuner, fake)
        finally:
            await runner.cleanup()

    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIREWORKS_ACCOUNT_ID", raising=False)


def test_a_file_is_a_dataset_that_is_waited_for_and_not_sent_twice(
    provider: Any, open_provider: Any, training_file: Path
) -> None:
    content = training_file.read_bytes()

    async def work(tuner: Tuner, fake: FakeFireworks) -> None:
        fake.looks_until_ready = 3
        name = await tuner.files.upload(training_file, "Train-1a2b.jsonl", lambda *_: None)
        assert name == "accounts/me/datasets/asyncgen-train-1a2b"
        assert fake.contents == {"asyncgen-train-1a2b": content}
        fake.contents["asyncgen-train-1a2b"] = b"as it was"
        assert await tuner.files.upload(training_file, "Train-1a2b.jsonl", lambda *_: None) == name
        assert fake.contents == {"asyncgen-train-1a2b": b"as it was"}
        assert (await tuner.files.get(name)).id == name
        await tuner.files.delete(name)
        assert fake.deleted == [f"{ACCOUNT}/datasets/asyncgen-train-1a2b"]

    using(open_provider, provider, work)


def test_a_dataset_that_is_refused_says_why(provider: Any, open_provider: Any, training_file: Path) -> None:
    async def work(tuner: Tuner, fake: FakeFireworks) -> None:
        fake.broken = True
        with pytest.raises(AsyncgenError) as refused:
            await tuner.files.upload(training_file, "t.jsonl", lambda *_: None)
        assert refused.value.cause == "line 3 has no messages"

    using(open_provider, provider, work)


def test_a_job_is_created_found_followed_and_cancelled(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeFireworks) -> None:
        order = JobOrder(
            model=BASE,
            training_file="accounts/me/datasets/t",
            validation_file="accounts/me/datasets/v",
            suffix="adverts",
            hyperparameters={"n_epochs": 2, "lora_rank": 8},
        )
        check_order(order, tuner.profile)
        job = await tuner.jobs.create(order)
        assert fake.bodies == [
            {
                "baseModel": BASE,
                "dataset": "accounts/me/datasets/t",
                "evaluationDataset": "accounts/me/datasets/v",
                "displayName": "adverts",
                "epochs": 2,
                "loraRank": 8,
            }
        ]
        assert (job.status, job.outcome, job.tuned_model) == ("running", None, None)
        assert await tuner.jobs.get("job1") == await tuner.jobs.get(job.id)
        await tuner.jobs.create(order)
        assert [each.id.rpartition("/")[2] async for each in tuner.jobs.all()] == ["job2", "job1"]
        fake.jobs["job1"]["jobProgress"] = {"percent": 40, "epoch": 1}
        (event,) = (await tuner.jobs.events(job.id, None)).events
        assert event.message == "running, epoch 1, 40 %"
        assert (await tuner.jobs.events(job.id, event.id)).events == ()
        fake.jobs["job1"] |= {"state": "JOB_STATE_COMPLETED", "completedTime": "2026-11-22T11:00:00Z"}
        done = await tuner.jobs.get(job.id)
        assert (done.outcome, done.tuned_model) == ("succeeded", "accounts/me/models/job1")
        cancelled = await tuner.jobs.cancel("job2")
        assert cancelled.outcome == "cancelled"
        await tuner.models.delete("accounts/me/models/job1")
        assert fake.deleted == [f"{ACCOUNT}/models/job1"]

    using(open_provider, provider, work)


def test_a_failed_job_tells_the_status(provider: Any, open_provider: Any) -> None:
    async def work(tuner: Tuner, fake: FakeFireworks) -> None:
        job = await tuner.jobs.create(JobOrder(model=BASE, training_file="accounts/me/datasets/t"))
        status = {"code": "RESOURCE_EXHAUSTED", "message": "no credit"}
        fake.jobs["job1"] |= {"state": "JOB_STATE_FAILED", "status": status}
        found = await tuner.jobs.get(job.id)
        assert found.outcome == "failed"
        assert found.error is not None
        assert (found.error.code, found.error.message) == ("RESOURCE_EXHAUSTED", "no credit")

    using(open_provider, provider, work)


def test_several_accounts_ask_for_the_variable_and_its_value_is_taken(
    provider: Any, open_provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeFireworks()
    fake.accounts.append("accounts/other")

    async def unclear(tuner: Tuner, _fake: FakeFireworks) -> None:
        with pytest.raises(UsageError) as refused:
            await tuner.jobs.get("job1")
        assert "FIREWORKS_ACCOUNT_ID" in (refused.value.help_text or "")

    using(open_provider, provider, unclear, fake)
    monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "me")

    async def clear(tuner: Tuner, _fake: FakeFireworks) -> None:
        assert (await tuner.jobs.create(JobOrder(model=BASE))).id.endswith("/job1")

    using(open_provider, provider, clear, fake)


@pytest.mark.parametrize(
    "name", ["../x", "accounts/me/models/a", "accounts/me/supervisedFineTuningJobs/../../keys", "a?b", "a b", ""]
)
def test_a_name_that_would_lead_elsewhere_is_refused(provider: Any, open_provider: Any, name: str) -> None:
    async def work(tuner: Tuner, _fake: FakeFireworks) -> None:
        with pytest.raises(UsageError, match=re.escape(repr(name))):
            await tuner.jobs.cancel(name)

    using(open_provider, provider, work)


def test_every_hyperparameter_of_the_profile_has_a_name_in_the_api() -> None:
    from asyncgen.finetune.fireworks import job_request  # noqa: PLC0415 - the SDK takes a second to import

    finetuning = PROFILES["fireworks"].finetuning
    assert finetuning is not None
    given = dict.fromkeys(finetuning.hyperparameters, 3)
    body = job_request(JobOrder(model=BASE, training_file="t", hyperparameters=given), None)
    assert len(body) == len(given) + 2
    with pytest.raises(UsageError) as refused:
        check_order(JobOrder(model=BASE, hyperparameters={"lora_rnk": 8}), PROFILES["fireworks"])
    assert "lora_rank" in (refused.value.cause or "")
