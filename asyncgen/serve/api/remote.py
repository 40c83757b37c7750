"""Proxy requests for models that another server answers, such as one that a user's trainer started.

The model's name is replaced by its name there, and back; everything else is passed on unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import web

from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncgen.serve.stores.models import ServedModel

_CONNECT_S = 10
_OK = 200


async def passed_on(request: web.Request, model: ServedModel, body: dict[str, Any]) -> web.StreamResponse:
    """The other server's answer, as it comes.

    Raises:
        ApiError: 503 where it cannot be reached.
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
    """The JSON of the other server's answer, for a row of a batch.

    Raises:
        ApiError: its refusal, or 503 where it cannot be reached.
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
