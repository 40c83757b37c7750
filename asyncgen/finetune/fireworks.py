"""Fireworks' datasets, fine-tuning jobs and models, adapted to our interface.

Its API for them is separate from its OpenAI-compatible one: objects belong to an account and have full names, a file is
a dataset that is created first and filled afterwards, and a job has a state but no events. From Fireworks' API
reference (pages "Create Supervised Fine-tuning Job", "List ...", "Create Dataset", "Upload Dataset Files"), read in
November 2026; never tried with an account. Importing this module imports the SDK.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import httpx2
import msgspec

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import (
    AbsentError,
    Event,
    EventPage,
    JobError,
    ModelFacts,
    OutageError,
    RemoteFile,
    StoredFile,
    TunedWeights,
    TuningJob,
)
from asyncgen.finetune.json_calls import JsonCalls, parsed, translated_errors
from asyncgen.providers.openai_client import sending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncgen.finetune.api import Checkpoint, JobOrder, OnProgress
    from asyncgen.providers.endpoint import Secret
    from asyncgen.providers.profiles import Finetuning

ACCOUNT_VARIABLE = "FIREWORKS_ACCOUNT_ID"
_INFERENCE = "/inference/v1"
_NAME = re.compile(r"accounts/[\w-]+/[A-Za-z]+/[\w.-]+")
_ACCOUNT = re.compile(r"[\w-]+")
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")
_PAGE = 200
_MOST_PAGES = 1000  # more mean a server whose pages never end
_LOOKS, _LOOK_S = 60, 5.0  # polls of a dataset that is being processed
_READY = "READY"
# Our names of hyperparameters to its own.
_FIELDS = {
    "n_epochs": "epochs",
    "learning_rate": "learningRate",
    "lora_rank": "loraRank",
    "batch_size": "batchSize",
    "max_context_length": "maxContextLength",
    "early_stop": "earlyStop",
    "gradient_accumulation_steps": "gradientAccumulationSteps",
    "learning_rate_warmup_steps": "learningRateWarmupSteps",
}


class _Account(msgspec.Struct, kw_only=True):
    name: str


class _Accounts(msgspec.Struct, kw_only=True):
    accounts: list[_Account] = []


class _Status(msgspec.Struct, kw_only=True):
    code: str = ""
    message: str = ""


class _Progress(msgspec.Struct, kw_only=True):
    percent: int = 0
    epoch: int = 0


class _Job(msgspec.Struct, kw_only=True):
    name: str
    state: str = ""
    status: _Status = msgspec.field(default_factory=_Status)
    base_model: str = msgspec.field(name="baseModel", default="")
    output_model: str = msgspec.field(name="outputModel", default="")
    dataset: str = ""
    create_time: str = msgspec.field(name="createTime", default="")
    completed_time: str = msgspec.field(name="completedTime", default="")
    progress: _Progress = msgspec.field(name="jobProgress", default_factory=_Progress)


class _StoredDataset(msgspec.Struct, kw_only=True):
    name: str
    state: str = ""
    status: _Status = msgspec.field(default_factory=_Status)


class _Signed(msgspec.Struct, kw_only=True):
    urls: dict[str, str] = msgspec.field(name="filenameToSignedUrls", default_factory=dict)


class _Peft(msgspec.Struct, kw_only=True):
    base_model: str = msgspec.field(name="baseModel", default="")


class _StoredModel(msgspec.Struct, kw_only=True):
    name: str
    peft: _Peft = msgspec.field(name="peftDetails", default_factory=_Peft)


class FireworksAccount:
    """The account whose objects are used.

    Args:
        calls: of the endpoint, whose address is that of the OpenAI-compatible API.
        base_url: that address.
        account: the account's id; None to ask the provider for it, once.
    """

    def __init__(self, calls: JsonCalls, base_url: str, account: str | None) -> None:
        self.calls = calls
        self._root = base_url.removesuffix(_INFERENCE).removesuffix("/v1") + "/v1"
        self._account = account

    async def path(self, collection: str) -> str:
        """Build the path of a collection of the account.

        Args:
            collection: such as "datasets".

        Returns:
            The path.

        Raises:
            UsageError: the key has several accounts, and none was chosen.
            OutageError: the accounts could not be listed.
            AuthError: the key is refused.
            AsyncgenError: the provider refuses.
        """
        if self._account is None:
            found = await self.calls.get(f"{self._root}/accounts", _Accounts, "list the accounts of the key")
            if len(found.accounts) != 1:
                raise UsageError(
                    f"the key belongs to {len(found.accounts)} accounts at Fireworks",
                    help_text=f"set {ACCOUNT_VARIABLE} to the account's ID",
                )
            self._account = found.accounts[0].name.removeprefix("accounts/")
        if not _ACCOUNT.fullmatch(self._account):
            raise UsageError(
                f"{self._account!r} is not an account ID", help_text=f"set {ACCOUNT_VARIABLE} to the ID of your account"
            )
        return f"{self._root}/accounts/{self._account}/{collection}"

    async def address(self, name: str, collection: str) -> str:
        """Build the path of one object, from its full name or the last part of it.

        Args:
            name: of the object.
            collection: such as "datasets".

        Returns:
            The path.

        Raises:
            UsageError: it is not such a name; otherwise as `path`.
        """
        full = name if "/" in name else (await self.path(collection)).removeprefix(f"{self._root}/") + f"/{name}"
        if not _NAME.fullmatch(full) or f"/{collection}/" not in full or ".." in full:
            raise UsageError(f"{name!r} is not a valid name in Fireworks' {collection}")
        return f"{self._root}/{full}"

    async def listed(self, collection: str, doing: str) -> AsyncIterator[dict[str, Any]]:
        """List a collection, newest first.

        Args:
            collection: such as "datasets".
            doing: what is done, for the error message.

        Yields:
            The objects, as decoded JSON.
        """
        address, token = await self.path(collection), ""
        for _ in range(_MOST_PAGES):
            query = {"pageSize": _PAGE, "orderBy": "createTime desc", **({"pageToken": token} if token else {})}
            page = await self.calls.get(address, dict[str, Any], doing, query)
            for item in page.get(collection) or []:
                yield item
            after = str(page.get("nextPageToken") or "")
            if not after or after == token:
                return
            token = after


class FireworksFiles:
    """Datasets, whose ids are their full names. Implements `FileApi`."""

    def __init__(self, account: FireworksAccount) -> None:
        self._account = account
        self._calls = account.calls

    async def upload(self, path: Path, filename: str, on_progress: OnProgress) -> str:
        doing = f"upload {path.name}"
        identifier = _NOT_IN_IDS.sub("-", f"asyncgen-{filename.removesuffix('.jsonl')}".lower()).strip("-")
        datasets = await self._account.path("datasets")
        address = f"{datasets}/{identifier}"
        found = await self._found(address, doing)
        if found is None:
            body = {"datasetId": identifier, "dataset": {"userUploaded": {}}}
            found = await self._calls.post(datasets, _StoredDataset, doing, body)
        if found.state != _READY:
            await self._send(address, path, filename, on_progress, doing)
            await self._taken_in(address, doing)
        return found.name

    async def _send(self, address: str, path: Path, filename: str, on_progress: OnProgress, doing: str) -> None:
        calls = self._calls

        async def send(file: BinaryIO) -> httpx2.Response:
            return await calls.client.post(
                f"{address}:upload",
                cast_to=httpx2.Response,
                files={"file": (filename, file)},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )

        with translated_errors(doing):
            await sending(path, send, calls.pacing, on_progress)

    async def _taken_in(self, address: str, doing: str) -> None:
        """Wait until the dataset can be trained on. A job that is created earlier fails."""
        state = ""
        for _ in range(_LOOKS):
            found = await self._calls.get(address, _StoredDataset, doing)
            state = found.state
            if state == _READY:
                return
            if found.status.code not in {"", "OK"}:
                raise AsyncgenError(f"could not {doing}", cause=found.status.message or found.status.code)
            await self._calls.pacing.sleep(_LOOK_S)
        raise OutageError(f"could not {doing}", cause=f"the dataset is still {state or 'not ready'} after minutes")

    async def _found(self, address: str, doing: str) -> _StoredDataset | None:
        try:
            return await self._calls.get(address, _StoredDataset, doing)
        except AbsentError:
            return None

    async def get(self, file_id: str) -> StoredFile:
        address = await self._account.address(file_id, "datasets")
        found = await self._calls.get(address, _StoredDataset, f"look up the dataset {file_id}")
        return StoredFile(id=found.name, filename=found.name.rpartition("/")[2])

    async def all(self) -> AsyncIterator[StoredFile]:
        async for raw in self._account.listed("datasets", "list the datasets"):
            found = parsed(raw, _StoredDataset, "list the datasets")
            yield StoredFile(id=found.name, filename=found.name.rpartition("/")[2])

    async def content(self, file_id: str) -> bytes:
        raise AbsentError(f"Fireworks offers {file_id} at other addresses only", help_text="firectl dataset download")

    async def delete(self, file_id: str) -> None:
        await self._calls.delete(await self._account.address(file_id, "datasets"), f"delete the dataset {file_id}")


class FireworksJobs:
    """Supervised fine-tuning jobs. Implements `JobApi`.

    Their ids are their full names; the last part of one is accepted too.

    Args:
        account: whose jobs they are.
        finetuning: how the provider tunes.
        wandb_key: for a job that reports to Weights & Biases; None for none.
    """

    def __init__(self, account: FireworksAccount, finetuning: Finetuning, wandb_key: Secret | None) -> None:
        self._account = account
        self._calls = account.calls
        self._finetuning = finetuning
        self._wandb_key = wandb_key

    async def create(self, order: JobOrder) -> TuningJob:
        address = await self._account.path("supervisedFineTuningJobs")
        body = job_request(order, self._wandb_key.reveal() if self._wandb_key else None)
        return self._job(await self._calls.post(address, dict[str, Any], "create the fine-tuning job", body))

    async def get(self, job_id: str) -> TuningJob:
        address = await self._account.address(job_id, "supervisedFineTuningJobs")
        return self._job(await self._calls.get(address, dict[str, Any], f"look up the job {job_id}"))

    async def all(self) -> AsyncIterator[TuningJob]:
        async for raw in self._account.listed("supervisedFineTuningJobs", "list the fine-tuning jobs"):
            yield self._job(raw)

    async def events(self, job_id: str, after: str | None) -> EventPage:
        """Make events of the job's present state; the API keeps none."""
        job = await self.get(job_id)
        found = parsed(job.raw, _Job, f"list the events of {job_id}")
        done = f", epoch {found.progress.epoch}, {found.progress.percent} %" if found.progress.percent else ""
        identifier = f"{found.state}:{found.progress.epoch}:{found.progress.percent}"
        if after == identifier:
            return EventPage((), has_more=False)
        message = f"{_state_text(found.state)}{done}"
        return EventPage(
            (Event(job=job.id, id=identifier, created_at=job.finished or job.created, message=message),), has_more=False
        )

    async def checkpoints(self, job_id: str) -> list[Checkpoint]:  # noqa: ARG002 - the API tells of none
        return []

    async def cancel(self, job_id: str) -> TuningJob:
        address = await self._account.address(job_id, "supervisedFineTuningJobs")
        await self._calls.post_for_content(f"{address}:cancel", f"cancel the job {job_id}", {})
        return await self.get(job_id)

    async def metrics(self, job: TuningJob) -> bytes | None:  # noqa: ARG002 - they lie at an address of another host
        return None

    def _job(self, raw: dict[str, Any]) -> TuningJob:
        job = parsed(raw, _Job, "read the fine-tuning job")
        outcome = self._finetuning.outcomes.get(job.state)
        failed = JobError(code=job.status.code, message=job.status.message)
        return TuningJob(
            id=job.name,
            status=_state_text(job.state),
            outcome=outcome,
            model=job.base_model,
            tuned_model=job.output_model or None if outcome == "succeeded" else None,
            created=_unix(job.create_time),
            finished=_unix(job.completed_time) if outcome and job.completed_time else None,
            training_file=job.dataset,
            error=failed if outcome == "failed" else None,
            raw=raw,
        )


class FireworksModels:
    """Models of the account, and Fireworks' own. Implements `ModelApi`."""

    def __init__(self, account: FireworksAccount) -> None:
        self._account = account
        self._calls = account.calls

    async def get(self, name: str) -> ModelFacts:
        address = await self._account.address(name, "models")
        found = await self._calls.get(address, _StoredDataset, f"look up the model {name}")
        return ModelFacts(id=found.name)

    async def delete(self, name: str) -> None:
        await self._calls.delete(await self._account.address(name, "models"), f"delete the model {name}")


class FireworksWeights:
    """A model's files at signed addresses. Implements `WeightApi`.

    From Fireworks' API reference, page "Get Model Download Endpoint", November 2026.
    """

    def __init__(self, account: FireworksAccount) -> None:
        self._account = account
        self._calls = account.calls

    async def find(self, model: str | None, job: TuningJob | None, step: int | None) -> TunedWeights:
        name = model or (job.id if job else "")
        by_hand = f"firectl model download {name.rpartition('/')[2]} FOLDER"
        if step is not None:
            raise AbsentError(
                "Fireworks does not list checkpoints", help_text="leave --step out: the final model is available"
            )
        address = await self._account.address(name, "models")
        try:
            found = await self._calls.get(
                f"{address}:getDownloadEndpoint", _Signed, f"look up the download address of {name}"
            )
            facts = await self._calls.get(address, _StoredModel, f"look up the model {name}")
        except AbsentError as error:
            raise AbsentError(
                error.what, cause=error.cause, help_text=f"{by_hand}   (the provider's own command)"
            ) from error
        if not found.urls:
            raise AbsentError(
                f"Fireworks lists no files of {name}", help_text=f"{by_hand}   (the provider's own command)"
            )
        files = tuple(RemoteFile(name=file, url=url) for file, url in sorted(found.urls.items()))
        base = facts.peft.base_model or (job.model if job else "")
        return TunedWeights(model=name, files=files, base_model=base, job=job.id if job else "")


def job_request(order: JobOrder, wandb_key: str | None) -> dict[str, Any]:
    """The JSON to POST to `/supervisedFineTuningJobs`; the tuned model is named after the job."""
    body = {
        "baseModel": order.model,
        "dataset": order.training_file,
        "evaluationDataset": order.validation_file,
        "displayName": order.suffix,
        "wandbConfig": _wandb(order.integrations, wandb_key),
        **{_FIELDS[name]: value for name, value in order.hyperparameters.items()},
    }
    return {name: value for name, value in body.items() if value is not None}


def _wandb(integrations: list[dict[str, Any]], key: str | None) -> dict[str, Any] | None:
    if not integrations:
        return None
    return {"enabled": True, "apiKey": key or "", "project": integrations[0]["wandb"]["project"]}


def _state_text(state: str) -> str:
    return state.removeprefix("JOB_STATE_").lower() or "unknown"


def _unix(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0
