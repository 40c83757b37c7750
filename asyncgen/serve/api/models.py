"""`/v1/models`: list, get, delete or download a tuned one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from asyncgen.local_http import json_response
from asyncgen.serve.wire import ApiError, ListPage

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.serve.engine import ModelEngine
    from asyncgen.serve.stores.jobs import JobStore
    from asyncgen.serve.stores.models import ModelStore, ServedModel


class ModelRoutes:
    """The routes over the stores."""

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
        """What an adapter is that can be downloaded; not of OpenAI's API."""
        model, path = self._found(request)
        kept = self._jobs.find(model.job)
        return json_response(
            {
                "id": model.id,
                "base_model": model.base,
                "base_path": self._engine.traits.base_path,
                "job": model.job,
                "created": model.created,
                "bytes": path.stat().st_size,
                "hyperparameters": msgspec.to_builtins(kept.job.hyperparameters) if kept else {},
                "training_file": kept.job.training_file if kept else None,
                "trained_tokens": kept.job.trained_tokens if kept else None,
            }
        )

    async def _adapter(self, request: web.Request) -> web.StreamResponse:
        _, path = self._found(request)
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    def _found(self, request: web.Request) -> tuple[ServedModel, Path]:
        """The tuned model and its adapter. Raises ApiError: 404 where there is none."""
        model = self._models.tuned(request.match_info["name"])
        path = self._models.adapter(model.id)
        if path is None or not path.exists():
            message = f"The model '{model.id}' has no adapter: its training was made up, or another server answers."
            raise ApiError(404, message, param="model", code="not_found")
        return model, path

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._models.delete(name)
        return json_response({"id": name, "object": "model", "deleted": True})
