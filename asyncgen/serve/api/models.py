"""`/v1/models`: list, get, delete or download a tuned one; and requests for models that another server answers.

Such a server is one that a user's trainer started. The model's name is replaced by its name there, and back; everything
else is passed on unchanged.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import orjson
from aiohttp import web

from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.local_http import json_response
from asyncgen.serve.wire import ApiError, ListPage

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
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
        """Description of an adapter that can be downloaded. An extension of OpenAI's API."""
        model, path = self._found(request)
        kept = self._jobs.find(model.job)
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
                "hyperparameters": msgspec.to_builtins(kept.job.hyperparameters) if kept else {},
                "training_file": kept.job.training_file if kept else None,
                "trained_tokens": kept.job.trained_tokens if kept else None,
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
            message = f"The model '{model.id}' has no adapter: its training was made up, or another server answers."
            raise ApiError(404, message, param="model", code="not_found")
        return model, path

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._models.delete(name)
        return json_response({"id": name, "object": "model", "deleted": True})


_CONNECT_S = 10
_OK = 200


async def passed_on(request: web.Request, model: ServedModel, body: dict[str, Any]) -> web.StreamResponse:
    """Pass on the other server's answer as it arrives.

    Raises:
        ApiError: 503 if it cannot be reached.
    """
    async with _session() as session:
        try:
            async with _asked(session, model, request.path, body) as answer:
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(model) from error


async def asked_remotely(model: ServedModel, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of the other server's answer, for a row of a batch.

    Raises:
        ApiError: its refusal, or 503 if it cannot be reached.
    """
    async with _session() as session:
        try:
            async with _asked(session, model, route, body) as answer:
                content = decode_loosely(await answer.read())
        except (aiohttp.ClientError, NotJsonError) as error:
            raise _unreachable(model) from error
    if answer.status != _OK or not isinstance(content, dict):
        raise ApiError(answer.status, f"The model's server answered with status {answer.status}: {content}")
    return content


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_S))


def _asked(
    session: aiohttp.ClientSession, model: ServedModel, route: str, body: dict[str, Any]
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    url = f"{(model.base_url or '').rstrip('/')}/{route.removeprefix('/v1/')}"
    data = orjson.dumps({**body, "model": model.remote_model or model.id})
    return session.post(url, data=data, headers={"Content-Type": "application/json"}, allow_redirects=False)


def _unreachable(model: ServedModel) -> ApiError:
    message = f"The server of the model '{model.id}' at {model.base_url} cannot be reached: start it again."
    return ApiError(503, message, kind="server_error", code="model_not_served")
