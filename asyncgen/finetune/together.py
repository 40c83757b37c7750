"""Together's files, fine-tuning jobs and models, adapted to our interface.

Handles what differs from OpenAI's API: the upload's address, a job's fields and states, events without ids, times as
text, metrics as a list. From Together's OpenAPI description, April 2026. Importing this module imports the SDK.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlencode

import httpx2
import msgspec

from asyncgen.finetune.api import (
    AbsentError,
    Checkpoint,
    Event,
    EventPage,
    JobError,
    RemoteFile,
    StoredFile,
    TunedWeights,
    TuningJob,
)
from asyncgen.finetune.json_calls import JsonCalls, parsed, segment, translated_errors
from asyncgen.finetune.openai_shape import JobPage, OpenaiFiles
from asyncgen.providers.openai_client import sending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from asyncgen.finetune.api import JobOrder, OnProgress
    from asyncgen.providers.endpoint import Secret
    from asyncgen.providers.profiles import Finetuning

_JOBS = "/fine-tunes"
_LEVELS = {"warning": "warn", "legacy_iwarning": "warn", "error": "error", "legacy_ierror": "error"}


class _Remaining(msgspec.Struct, kw_only=True):
    estimate_available: bool = False
    seconds_remaining: float = 0


class _Job(msgspec.Struct, kw_only=True):
    id: str
    status: str = ""
    model: str = ""
    model_output_name: str | None = None
    created_at: str = ""
    updated_at: str = ""
    training_file: str = ""
    token_count: int | None = None
    progress: _Remaining = msgspec.field(default_factory=_Remaining)


class _Event(msgspec.Struct, kw_only=True):
    created_at: str = ""
    level: str = "info"
    message: str = ""
    type: str = ""
    step: int | None = None
    total_steps: int | None = None


class _Checkpoint(msgspec.Struct, kw_only=True):
    created_at: str = ""
    step: int = 0
    path: str = ""
    object_name: str | None = None


class _Metrics(msgspec.Struct, kw_only=True):
    metrics: list[dict[str, float]] = []


class TogetherFiles(OpenaiFiles):
    """`/files`, where only the upload differs. Implements `FileApi`."""

    async def upload(self, path: Path, filename: str, on_progress: OnProgress) -> str:
        form = {"purpose": "fine-tune", "file_name": filename, "file_type": "jsonl"}
        calls = self._calls

        async def send(file: BinaryIO) -> httpx2.Response:
            return await calls.client.post(
                "/files/upload",
                cast_to=httpx2.Response,
                body=form,
                files={"file": (filename, file)},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )

        with translated_errors(f"upload {path.name}"):
            response = await sending(path, send, calls.pacing, on_progress)
        return calls.decoded(response.content, StoredFile, f"upload {path.name}").id


class TogetherJobs:
    """`/fine-tunes`. Implements `JobApi`.

    Args:
        calls: of the endpoint.
        finetuning: how the provider tunes.
        wandb_key: for a job that reports to Weights & Biases; None for none.
    """

    def __init__(self, calls: JsonCalls, finetuning: Finetuning, wandb_key: Secret | None) -> None:
        self._calls = calls
        self._finetuning = finetuning
        self._wandb_key = wandb_key

    async def create(self, order: JobOrder) -> TuningJob:
        body = job_request(order, self._wandb_key.reveal() if self._wandb_key else None)
        return self._job(await self._calls.post(_JOBS, dict[str, Any], "create the fine-tuning job", body))

    async def get(self, job_id: str) -> TuningJob:
        return self._job(await self._calls.get(_path(job_id), dict[str, Any], f"look up the job {job_id}"))

    async def all(self) -> AsyncIterator[TuningJob]:
        page = await self._calls.get(_JOBS, JobPage[dict[str, Any]], "list the fine-tuning jobs")
        jobs = [self._job(raw) for raw in page.data]
        for job in sorted(jobs, key=lambda job: job.created, reverse=True):
            yield job

    async def events(self, job_id: str, after: str | None) -> EventPage:
        # The first page contains all of them.
        if after is not None:
            return EventPage((), has_more=False)
        doing = f"list the events of {job_id}"
        page = await self._calls.get(f"{_path(job_id)}/events", JobPage[_Event], doing)
        oldest_first = sorted(page.data, key=lambda event: _unix(event.created_at))
        return EventPage(tuple(_with_ids(job_id, oldest_first))[::-1], has_more=False)

    async def checkpoints(self, job_id: str) -> list[Checkpoint]:
        doing = f"list the checkpoints of {job_id}"
        page = await self._calls.get(f"{_path(job_id)}/checkpoints", JobPage[_Checkpoint], doing)
        return [
            Checkpoint(
                id=f"{job_id}:{found.step}",
                created_at=_unix(found.created_at),
                step=found.step,
                model=found.object_name or found.path,
            )
            for found in sorted(page.data, key=lambda found: found.step, reverse=True)
        ]

    async def cancel(self, job_id: str) -> TuningJob:
        return self._job(await self._calls.post(f"{_path(job_id)}/cancel", dict[str, Any], f"cancel the job {job_id}"))

    async def metrics(self, job: TuningJob) -> bytes | None:
        found = await self._calls.get(f"{_path(job.id)}/metrics", _Metrics, f"read the results of {job.id}")
        return _table(found.metrics) if found.metrics else None

    def _job(self, raw: dict[str, Any]) -> TuningJob:
        job = parsed(raw, _Job, "read the fine-tuning job")
        outcome = self._finetuning.outcomes.get(job.status)
        updated = _unix(job.updated_at)
        return TuningJob(
            id=job.id,
            status=job.status,
            outcome=outcome,
            model=job.model,
            tuned_model=job.model_output_name if outcome == "succeeded" else None,
            created=_unix(job.created_at),
            finished=updated if outcome else None,
            estimated_finish=_finish(job.progress, updated) if not outcome else None,
            training_file=job.training_file,
            trained_tokens=job.token_count,
            error=JobError(code=job.status, message=_error_message(raw)) if outcome == "failed" else None,
            raw=raw,
        )


class TogetherWeights:
    """`/finetune/download`, one archive. Implements `WeightApi`.

    From Together's API reference (page "Download model") and its Python package 3.1.1, November 2026: `checkpoint` is
    `adapter` or `merged` for LoRA, `model_output_path` for a training of all weights; the answer may redirect to a
    signed address.
    """

    async def find(self, model: str | None, job: TuningJob | None, step: int | None) -> TunedWeights:
        if job is None:
            raise AbsentError(
                f"no job at Together has created {model}", help_text="asyncgen finetune list   (lists the jobs)"
            )
        kind = job.raw.get("training_type")
        is_full = isinstance(kind, dict) and kind.get("type") == "Full"
        query = {"ft_id": job.id, "checkpoint": "model_output_path" if is_full else "adapter"}
        if step is not None:
            query["checkpoint_step"] = str(step)
        name = "model.tar" if is_full else "adapter.tar"
        file = RemoteFile(name=name, url=f"finetune/download?{urlencode(query)}")
        tokens = {"trained tokens": job.trained_tokens, "step": step}
        return TunedWeights(model=model or job.id, files=(file,), base_model=job.model, job=job.id, facts=tokens)


def job_request(order: JobOrder, wandb_key: str | None) -> dict[str, Any]:
    """The JSON to POST to `/fine-tunes`; what the order leaves open is left out."""
    hyperparameters = {**order.hyperparameters}
    return _without_none(
        {
            "model": order.model,
            "training_file": order.training_file,
            "validation_file": order.validation_file,
            "suffix": order.suffix,
            "random_seed": order.seed,
            "training_method": _method(order.method, hyperparameters),
            **hyperparameters,
            **_wandb(order.integrations, wandb_key),
        }
    )


def _method(method: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The method in Together's form; what belongs to it is taken out of the hyperparameters."""
    on_inputs = hyperparameters.pop("train_on_inputs", "auto")
    beta = hyperparameters.pop("beta", None)
    if method == "dpo":
        return _without_none({"method": "dpo", "dpo_beta": beta})
    return {"method": "sft", "train_on_inputs": on_inputs}


def _wandb(integrations: list[dict[str, Any]], key: str | None) -> dict[str, Any]:
    if not integrations:
        return {}
    settings = integrations[0]["wandb"]
    names = {"wandb_project_name": settings.get("project"), "wandb_name": settings.get("name")}
    return {**names, "wandb_api_key": key}


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _with_ids(job_id: str, oldest_first: Iterable[_Event]) -> Iterable[Event]:
    """Events under ids made of what they say; the second one that says the same counts."""
    twins: Counter[bytes] = Counter()
    for event in oldest_first:
        said = msgspec.json.encode(event)
        identifier = hashlib.sha256(b"%b%d" % (said, twins[said])).hexdigest()[:24]
        twins[said] += 1
        yield Event(
            job=job_id,
            id=f"event-{identifier}",
            created_at=_unix(event.created_at),
            level=_LEVELS.get(event.level, "info"),
            message=event.message or event.type,
            data=_without_none({"step": event.step or None, "total_steps": event.total_steps or None}),
        )


def _error_message(raw: dict[str, Any]) -> str:
    events = raw.get("events")
    texts = [str(event.get("message") or "") for event in events or [] if isinstance(event, dict)]
    return texts[-1] if texts else ""


def _finish(remaining: _Remaining, updated: int) -> int | None:
    return updated + int(remaining.seconds_remaining) if remaining.estimate_available and updated else None


def _table(rows: list[dict[str, float]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue().encode()


def _unix(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def _path(job_id: str) -> str:
    return f"{_JOBS}/{segment(job_id)}"
