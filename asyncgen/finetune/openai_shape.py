"""Files, fine-tuning jobs and models of OpenAI-compatible providers.

Builds the body of a job request for each provider of that form; knows paths and pages; reads OpenAI's objects, also
where a provider leaves fields out. What differs between providers is in their profiles. Importing this module imports
the SDK.
"""

from __future__ import annotations

import base64
import binascii
from datetime import date
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from asyncgen.finetune.api import (
    AbsentError,
    Checkpoint,
    Event,
    EventPage,
    FileApi,
    JobApi,
    JobError,
    JobOrder,
    ModelFacts,
    RemoteFile,
    StoredFile,
    TunedWeights,
    TuningJob,
)
from asyncgen.finetune.json_calls import JsonCalls, parsed, segment, translated_errors
from asyncgen.providers.openai_client import upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncgen.finetune.api import OnProgress
    from asyncgen.providers.profiles import Finetuning


def job_request(order: JobOrder, finetuning: Finetuning) -> dict[str, Any]:
    """The JSON to POST to `/fine_tuning/jobs`; what the order leaves open is left out."""
    hyperparameters = {key: value for key, value in order.hyperparameters.items() if key not in finetuning.fields}
    fields = {key: order.hyperparameters.get(key, value) for key, value in finetuning.fields.items()}
    body = {
        "model": order.model,
        "training_file": order.training_file,
        "validation_file": order.validation_file,
        "suffix": order.suffix,
        "seed": order.seed,
        "metadata": order.metadata if finetuning.metadata else None,
        "integrations": order.integrations or None,
        **_method(order.method, hyperparameters, finetuning),
        **fields,
    }
    return {key: value for key, value in body.items() if value not in (None, {})}


def _method(method: str, hyperparameters: dict[str, Any], finetuning: Finetuning) -> dict[str, Any]:
    if finetuning.hyperparameters_in == "top":
        return {"hyperparameters": hyperparameters}
    part = {"hyperparameters": hyperparameters} if hyperparameters else {}
    return {"method": {"type": method, method: part} if part else {"type": method}}


Item = TypeVar("Item")
_JOBS = "/fine_tuning/jobs"
_FILES_A_PAGE = 1000
_PAGE = 100
_MOST_PAGES = 1000  # more mean a server whose pages never end


class _Job(msgspec.Struct, kw_only=True):
    id: str
    status: str = ""
    model: str = ""
    fine_tuned_model: str | None = None
    created_at: int = 0
    finished_at: int | None = None
    estimated_finish: int | None = None
    training_file: str = ""
    result_files: list[str] = []
    trained_tokens: int | None = None
    metadata: dict[str, str] = {}
    error: JobError | None = None


class _Event(msgspec.Struct, kw_only=True):
    id: str
    created_at: int = 0
    level: str = "info"
    message: str = ""
    type: str = "message"
    data: dict[str, Any] = {}


class _Checkpoint(msgspec.Struct, kw_only=True):
    id: str
    created_at: int = 0
    step_number: int = 0
    fine_tuned_model_checkpoint: str = ""
    metrics: dict[str, Any] = {}
    result_files: list[str] = []


class _Model(msgspec.Struct, kw_only=True):
    id: str
    shutdown_date: str | None = None


class _Card(msgspec.Struct, kw_only=True):
    """Description of an adapter by asyncgen's own server."""

    id: str
    base_model: str
    base_path: str
    job: str
    bytes: int | None = None
    sha256: str | None = None
    hyperparameters: dict[str, Any] = {}
    training_file: str | None = None
    trained_tokens: int | None = None


class JobPage(msgspec.Struct, Generic[Item], kw_only=True):
    """One page of a list."""

    data: list[Item]
    has_more: bool = False


class OpenaiFiles:
    """`/files`. Implements `FileApi`."""

    def __init__(self, calls: JsonCalls) -> None:
        self._calls = calls

    async def upload(self, path: Path, filename: str, on_progress: OnProgress) -> str:
        with translated_errors(f"upload {path.name}"):
            return await upload(
                self._calls.client, path, "fine-tune", self._calls.pacing, filename=filename, on_progress=on_progress
            )

    async def get(self, file_id: str) -> StoredFile:
        return await self._calls.get(f"/files/{segment(file_id)}", StoredFile, f"look up the file {file_id}")

    async def all(self) -> AsyncIterator[StoredFile]:
        query = {"purpose": "fine-tune", "limit": _FILES_A_PAGE}
        async for item in paged(self._calls, "/files", "list the files", query):
            yield parsed(item, StoredFile, "list the files")

    async def content(self, file_id: str) -> bytes:
        return await self._calls.content(f"/files/{segment(file_id)}/content", f"read the file {file_id}")

    async def delete(self, file_id: str) -> None:
        await self._calls.delete(f"/files/{segment(file_id)}", f"delete the file {file_id}")


class OpenaiJobs:
    """`/fine_tuning/jobs`. Implements `JobApi`."""

    def __init__(self, calls: JsonCalls, finetuning: Finetuning) -> None:
        self._calls = calls
        self._finetuning = finetuning

    async def create(self, order: JobOrder) -> TuningJob:
        body = job_request(order, self._finetuning)
        return self._job(await self._calls.post(_JOBS, dict[str, Any], "create the fine-tuning job", body))

    async def get(self, job_id: str) -> TuningJob:
        return self._job(await self._calls.get(_path(job_id), dict[str, Any], f"look up the job {job_id}"))

    async def all(self) -> AsyncIterator[TuningJob]:
        async for item in paged(self._calls, _JOBS, "list the fine-tuning jobs", {"limit": _PAGE}):
            yield self._job(item)

    async def events(self, job_id: str, after: str | None) -> EventPage:
        query = {"limit": _PAGE, **({"after": after} if after else {})}
        doing = f"list the events of {job_id}"
        page = await self._calls.get(f"{_path(job_id)}/events", JobPage[_Event], doing, query)
        return EventPage(tuple(_event(job_id, event) for event in page.data), page.has_more)

    async def checkpoints(self, job_id: str) -> list[Checkpoint]:
        doing = f"list the checkpoints of {job_id}"
        found = paged(self._calls, f"{_path(job_id)}/checkpoints", doing, {"limit": _PAGE})
        return [_checkpoint(parsed(item, _Checkpoint, doing)) async for item in found]

    async def cancel(self, job_id: str) -> TuningJob:
        return self._job(await self._calls.post(f"{_path(job_id)}/cancel", dict[str, Any], f"cancel the job {job_id}"))

    async def metrics(self, job: TuningJob) -> bytes | None:
        if not job.result_files:
            return None
        file_id = job.result_files[0]
        path = f"/files/{segment(file_id)}/content"
        return plain_table(await self._calls.content(path, f"read the results of {job.id}"))

    def _job(self, raw: dict[str, Any]) -> TuningJob:
        job = parsed(raw, _Job, "read the fine-tuning job")
        return TuningJob(
            id=job.id,
            status=job.status,
            outcome=self._finetuning.outcomes.get(job.status),
            model=job.model,
            tuned_model=job.fine_tuned_model,
            created=job.created_at,
            finished=job.finished_at,
            estimated_finish=job.estimated_finish,
            training_file=job.training_file,
            result_files=tuple(job.result_files),
            trained_tokens=job.trained_tokens,
            metadata=job.metadata,
            error=job.error if job.error and job.error != JobError() else None,
            raw=raw,
        )


class OpenaiModels:
    """`/models`. Implements `ModelApi`."""

    def __init__(self, calls: JsonCalls) -> None:
        self._calls = calls

    async def get(self, name: str) -> ModelFacts:
        model = await self._calls.get(f"/models/{segment(name)}", _Model, f"look up the model {name}")
        return ModelFacts(id=model.id, shutdown=_day(model.shutdown_date))

    async def delete(self, name: str) -> None:
        await self._calls.delete(f"/models/{segment(name)}", f"delete the model {name}")


class OpenaiWeights:
    """An adapter from asyncgen's own server, or the files of a job's checkpoint. Implements `WeightApi`.

    Nebius has checkpoints with files: a checkpoint's `result_files` are ids of the Files API, as its cookbook downloads
    them (nebius/token-factory-cookbook, distillation/distillation-1/2_training.ipynb, November 2026).
    """

    def __init__(self, calls: JsonCalls, files: FileApi, jobs: JobApi) -> None:
        self._calls = calls
        self._files = files
        self._jobs = jobs

    async def find(self, model: str | None, job: TuningJob | None, step: int | None) -> TunedWeights:
        refusal = AbsentError(
            f"there are no weights for {model or (job.id if job else 'this job')}",
            help_text="asyncgen finetune list   (lists the jobs)",
        )
        if step is None and model is not None:
            try:
                return await self._adapter(model)
            except AbsentError as error:
                refusal = error
        checkpoint = await self._checkpoint(job, step) if job is not None else None
        if job is None or checkpoint is None:
            raise refusal
        if not checkpoint.files:
            if step is None:
                raise refusal
            return await self._adapter(checkpoint.model)
        found = [await self._files.get(identifier) for identifier in checkpoint.files]
        files = (
            RemoteFile(name=file.filename or file.id, url=f"files/{segment(file.id)}/content", bytes=file.bytes or None)
            for file in found
        )
        facts = {"checkpoint": checkpoint.id, "step": checkpoint.step or None}
        return TunedWeights(model=model or job.id, files=tuple(files), base_model=job.model, job=job.id, facts=facts)

    async def _adapter(self, model: str) -> TunedWeights:
        at = f"models/{segment(model)}"
        card = await self._calls.get(f"/{at}/card", _Card, f"read the card of {model}")
        return TunedWeights(
            model=card.id,
            files=(RemoteFile(name="adapter.gguf", url=f"{at}/adapter", bytes=card.bytes, sha256=card.sha256),),
            base_model=card.base_model,
            base_path=card.base_path,
            job=card.job,
            facts={
                "training file": card.training_file,
                "trained tokens": card.trained_tokens,
                **card.hyperparameters,
            },
        )

    async def _checkpoint(self, job: TuningJob, step: int | None) -> Checkpoint | None:
        """The last checkpoint, or that of a step; None if there are none.

        Raises AbsentError if there is none of that step.
        """
        found = await self._jobs.checkpoints(job.id)
        if step is None:
            return max(found, key=lambda each: (each.step, each.created_at), default=None)
        for each in found:
            if each.step == step:
                return each
        steps = ", ".join(str(each.step) for each in found) or "none"
        raise AbsentError(f"{job.id} has no checkpoint of step {step}", help_text=f"--step is one of: {steps}")


async def paged(calls: JsonCalls, path: str, doing: str, query: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """List all objects over all pages. A server that repeats a page is not asked again.

    Args:
        calls: of the endpoint.
        path: of the API call.
        doing: what is done, for the error message.
        query: parameters of the URL.

    Yields:
        The objects, as decoded JSON.
    """
    after: dict[str, str] = {}
    seen: set[str] = set()
    for _ in range(_MOST_PAGES):
        page = await calls.get(path, JobPage[dict[str, Any]], doing, {**query, **after})
        fresh = [item for item in page.data if str(item.get("id")) not in seen]
        for item in fresh:
            yield item
        seen.update(str(item.get("id")) for item in fresh)
        if not page.has_more or not fresh:
            return
        after = {"after": str(page.data[-1].get("id"))}


def plain_table(content: bytes) -> bytes:
    """A CSV table; OpenAI serves it base64-encoded at times."""
    if b"," in content or not content.strip():
        return content
    try:
        return base64.b64decode(content, validate=False)
    except binascii.Error:
        return content


def _path(job_id: str) -> str:
    return f"{_JOBS}/{segment(job_id)}"


def _event(job_id: str, event: _Event) -> Event:
    return Event(
        job=job_id,
        id=event.id,
        created_at=event.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def _checkpoint(found: _Checkpoint) -> Checkpoint:
    return Checkpoint(
        id=found.id,
        created_at=found.created_at,
        step=found.step_number,
        model=found.fine_tuned_model_checkpoint,
        metrics=found.metrics,
        files=tuple(found.result_files),
    )


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat((text or "")[:10])
    except ValueError:
        return None
