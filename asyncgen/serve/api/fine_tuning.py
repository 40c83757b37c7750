"""`/v1/fine_tuning/jobs`: create, list, get, cancel, events, checkpoints; `/v1/models`: list, get, delete, download.

Validates a request for a job; running it is left to `tuning`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from asyncgen.local_http import json_response
from asyncgen.serve.stores.jobs import JobEntry, JobStore, ServedJob
from asyncgen.serve.stores.models import tuned_name
from asyncgen.serve.training.protocol import Auto, Hyperparameters
from asyncgen.serve.wire import ApiError, Clock, ListPage, Metadata, new_id, page_of, parsed, read_object

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.stores.files import FileStore
    from asyncgen.serve.stores.models import ModelStore, ServedModel
    from asyncgen.serve.tuning.queue import TuningQueue


_SEEDS = 2**31
# The base rate is high already; with a larger multiplier a training diverges.
_LARGEST = {"n_epochs": 50, "batch_size": 256, "learning_rate_multiplier": 10}
_EXPECTED = {
    "n_epochs": '"auto" or a whole number from 1 to 50',
    "batch_size": '"auto" or a whole number from 1 to 256',
    "learning_rate_multiplier": '"auto" or a number above 0 and up to 10',
    "beta": '"auto" or a number above 0 and up to 2',
}


class _Hyperparameters(Hyperparameters, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Hyperparameters of a request; `_read` checks their upper limits."""


class _DpoHyperparameters(_Hyperparameters, kw_only=True, frozen=True):
    beta: Auto | Annotated[float, Meta(gt=0, le=2)] = "auto"


class _Supervised(msgspec.Struct, forbid_unknown_fields=True):
    hyperparameters: _Hyperparameters = msgspec.field(default_factory=_Hyperparameters)


class _Dpo(msgspec.Struct, forbid_unknown_fields=True):
    hyperparameters: _DpoHyperparameters = msgspec.field(default_factory=_DpoHyperparameters)


class _Method(msgspec.Struct, kw_only=True):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: _Supervised | None = None
    dpo: _Dpo | None = None


class _Create(msgspec.Struct, kw_only=True):
    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=_SEEDS)] | None = None
    metadata: Metadata | None = None
    integrations: list[dict[str, Any]] | None = None
    method: _Method | None = None
    hyperparameters: _Hyperparameters | None = None


class FineTuningRoutes:
    """The routes `/v1/fine_tuning/jobs`."""

    def __init__(
        self,
        engine: ModelEngine,
        queue: TuningQueue,
        *,
        jobs: JobStore,
        files: FileStore,
        models: ModelStore,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._jobs = jobs
        self._files = files
        self._models = models
        self._clock = clock

    def table(self) -> list[web.RouteDef]:
        one = "/v1/fine_tuning/jobs/{id}"
        return [
            web.post("/v1/fine_tuning/jobs", self._create),
            web.get("/v1/fine_tuning/jobs", self._list),
            web.get(one, self._get),
            web.post(f"{one}/cancel", self._cancel),
            web.get(f"{one}/events", self._events),
            web.get(f"{one}/checkpoints", self._checkpoints),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        wanted = _read(await read_object(request))
        await self._check(wanted)
        return json_response(self._queue.submit(self._new_entry(wanted)))

    async def _check(self, wanted: _Create) -> None:
        if not self._engine.traits.tunes_any_model:
            self._models.adapter(wanted.model)  # raises 404 for an unknown name
        method = wanted.method.type if wanted.method else "supervised"
        if method not in self._engine.traits.methods:
            raise ApiError(
                400,
                f"The method '{method}' is not supported by this server.",
                param="method",
                code="invalid_value",
            )
        if wanted.integrations and not self._engine.traits.integrations:
            raise ApiError(
                400,
                "Integrations are not supported by this server.",
                param="integrations",
                code="invalid_value",
            )
        reason = await self._engine.untunable()
        if reason or wanted.model.startswith("ft:"):
            message = f"The model {wanted.model} is not available for fine-tuning"
            message += f": {reason}." if reason else ": it is already a tuned model."
            raise ApiError(400, message, param="model", code="model_not_available")
        self._files.require(wanted.training_file, "fine-tune", param="training_file")
        if wanted.validation_file:
            self._files.require(wanted.validation_file, "fine-tune", param="validation_file")

    def _new_entry(self, wanted: _Create) -> JobEntry:
        method, chosen = _method(wanted)
        organization = self._engine.traits.organization
        job = ServedJob(
            id=new_id("ftjob-"),
            created_at=int(self._clock()),
            model=wanted.model,
            organization_id=f"org-{organization}",
            training_file=wanted.training_file,
            validation_file=wanted.validation_file,
            hyperparameters=chosen,
            method=method,
            seed=secrets.randbelow(_SEEDS) if wanted.seed is None else wanted.seed,
            integrations=wanted.integrations or [],
            metadata=wanted.metadata,
            user_provided_suffix=wanted.suffix,
        )
        return JobEntry(job=job, model_name=tuned_name(wanted.model, organization, wanted.suffix))

    async def _list(self, request: web.Request) -> web.Response:
        filters = {
            name.removeprefix("metadata[").removesuffix("]"): value
            for name, value in request.query.items()
            if name.startswith("metadata[")
        }
        jobs = [job for job in self._jobs.all() if filters.items() <= (job.metadata or {}).items()]
        return json_response(page_of(jobs, request.query, default_limit=20, identify=lambda job: job.id))

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(self._jobs.get(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        return json_response(await self._queue.cancel(request.match_info["id"]))

    async def _events(self, request: web.Request) -> web.Response:
        events = self._jobs.log.events(self._jobs.get(request.match_info["id"]).id)
        return json_response(page_of(events, request.query, default_limit=20, identify=lambda event: event.id))

    async def _checkpoints(self, request: web.Request) -> web.Response:
        checkpoints = self._jobs.log.checkpoints(self._jobs.get(request.match_info["id"]).id)
        page = page_of(checkpoints, request.query, default_limit=10, identify=lambda checkpoint: checkpoint.id)
        return json_response(page)


def _read(body: dict[str, Any]) -> _Create:
    """Parse the request, except what needs the stores. The error for a hyperparameter lists the allowed values."""
    try:
        wanted = parsed(body, _Create)
    except ApiError as error:
        if (error.param or "").rpartition(".")[2] not in _EXPECTED:
            raise
        raise _unexpected(error.param or "", error.code or "invalid_value") from None
    places = {"hyperparameters": wanted.hyperparameters}
    for kind in ("supervised", "dpo"):
        if part := getattr(wanted.method, kind, None):
            places[f"method.{kind}.hyperparameters"] = part.hyperparameters
    for place, given in places.items():
        for name, most in _LARGEST.items():
            value = getattr(given, name, "auto")
            if isinstance(value, int | float) and value > most:
                raise _unexpected(f"{place}.{name}", "invalid_value")
    return wanted


def _unexpected(param: str, code: str) -> ApiError:
    expected = _EXPECTED[param.rpartition(".")[2]]
    return ApiError(400, f"Invalid '{param}': expected {expected}.", param=param, code=code)


def _method(wanted: _Create) -> tuple[dict[str, Any], Hyperparameters]:
    """The method as the job shows it, with its hyperparameters, which older clients send at the top level."""
    kind = wanted.method.type if wanted.method else "supervised"
    part = getattr(wanted.method, kind, None) if wanted.method else None
    given = part.hyperparameters if part else wanted.hyperparameters or _Hyperparameters()
    chosen = Hyperparameters(**{name: getattr(given, name) for name in Hyperparameters.__struct_fields__})
    return {"type": kind, kind: {"hyperparameters": msgspec.to_builtins(given)}}, chosen


class ModelRoutes:
    """The routes `/v1/models`."""

    def __init__(self, engine: ModelEngine, models: ModelStore, jobs: JobStore) -> None:
        self._engine = engine
        self._models = models
        self._jobs = jobs

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self._list),
            web.get("/v1/models/{name}", self._get),
            web.delete("/v1/models/{name}", self._delete),
            web.get("/v1/models/{name}/card", self._card),
            web.get("/v1/models/{name}/adapter", self._adapter),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response(ListPage(data=self._models.all()))

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(self._models.get(request.match_info["name"]))

    async def _card(self, request: web.Request) -> web.Response:
        """Description of an adapter that can be downloaded. An extension of OpenAI's API."""
        model, path = self._found(request)
        entry = self._jobs.find(model.job)
        with path.open("rb") as file:
            digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
        return json_response(
            {
                "id": model.id,
                "base_model": model.base,
                "base_path": self._engine.traits.base_path,
                "job": model.job,
                "created": model.created,
                "bytes": path.stat().st_size,
                "sha256": digest.hexdigest(),
                "hyperparameters": msgspec.to_builtins(entry.job.hyperparameters) if entry else {},
                "training_file": entry.job.training_file if entry else None,
                "trained_tokens": entry.job.trained_tokens if entry else None,
            }
        )

    async def _adapter(self, request: web.Request) -> web.StreamResponse:
        _, path = self._found(request)
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    def _found(self, request: web.Request) -> tuple[ServedModel, Path]:
        """The tuned model and its adapter. Raises ApiError: 404 if there is none."""
        model = self._models.tuned(request.match_info["name"])
        path = self._models.adapter(model.id)
        if path is None or not path.exists():
            message = (
                f"The model '{model.id}' has no adapter: its training was simulated, or another server runs the model."
            )
            raise ApiError(404, message, param="model", code="not_found")
        return model, path

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._models.delete(name)
        return json_response({"id": name, "object": "model", "deleted": True})
