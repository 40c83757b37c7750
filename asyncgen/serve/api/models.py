"""`/v1/models`: list, get, delete a tuned one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.local_http import json_response
from asyncgen.serve.wire import ListPage

if TYPE_CHECKING:
    from asyncgen.serve.stores.models import ModelStore


class ModelRoutes:
    """The routes over the store."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self._list),
            web.get("/v1/models/{name}", self._get),
            web.delete("/v1/models/{name}", self._delete),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response(ListPage(data=self._models.all()))

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(self._models.get(request.match_info["name"]))

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._models.delete(name)
        return json_response({"id": name, "object": "model", "deleted": True})
