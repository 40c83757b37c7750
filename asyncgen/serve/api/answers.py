"""`/v1/chat/completions` and `/v1/completions`, whole or as a stream, and the JSON of their answers.

A last assistant message is continued, for every model and in streams too: the answer is the whole text, including that
opening, whose tokens count as prompt. Ids and times are arguments. Sampling is left to the engine.

A model that a user's trainer serves elsewhere is asked there: its name is replaced by its name there, and back;
everything else is passed on unchanged.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiohttp import web

from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.serve.calls import chat_call, text_calls, wants_stream, wants_stream_usage
from asyncgen.serve.engine import AnswerPiece, AnswerTokens, EngineAnswer, ModelCall, ModelEngine
from asyncgen.serve.wire import DISTURB, ApiError, Clock, new_id, read_object

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncgen.serve.engine import EngineChoice, ToolCallPart
    from asyncgen.serve.stores.models import ModelStore, ServedModel

CHAT_ROUTE = "/v1/chat/completions"
TEXT_ROUTE = "/v1/completions"
SIMULATED_HEADER = "x-asyncgen-simulated"
_JSON = {"Content-Type": "application/json"}
EVENT_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_CONNECT_S = 10
_OK = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the two forms of an answer.

    Attributes:
        prefix: beginning of the answer's id.
        whole: `object` of an answer.
        part: `object` of a chunk.
        choice: makes an entry of `choices`.
        chunk: makes an entry of a chunk's `choices`, given the number of characters of this choice before it; None for
            its first chunk.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[int, EngineChoice], dict[str, Any]]
    chunk: Callable[[AnswerPiece, int | None], dict[str, Any]]


def usage(answer_tokens: AnswerTokens) -> dict[str, Any]:
    return {
        "prompt_tokens": answer_tokens.prompt,
        "completion_tokens": answer_tokens.completion,
        "total_tokens": answer_tokens.prompt + answer_tokens.completion,
        "prompt_tokens_details": {"cached_tokens": answer_tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": answer_tokens.reasoning},
    }


def _chat_choice(index: int, choice: EngineChoice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.refusal or (choice.tool_calls and not choice.text) else choice.text,
        "refusal": choice.refusal,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return {
        "index": index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }


def _chat_chunk(piece: AnswerPiece, written: int | None) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if written is None else {}
    if piece.text:
        delta["content"] = piece.text
    if piece.refusal:
        delta["refusal"] = piece.refusal
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.tool_calls:
        delta["tool_calls"] = [_tool_call_part(part) for part in piece.tool_calls]
    return {
        "index": piece.index,
        "delta": delta,
        "finish_reason": piece.finish_reason,
        "logprobs": piece.logprobs,
    }


def _tool_call_part(part: ToolCallPart) -> dict[str, Any]:
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    called = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": called}


def _text_choice(index: int, choice: EngineChoice) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "logprobs": _text_logprobs(choice.logprobs, choice.text, 0),
    }


def _text_chunk(piece: AnswerPiece, written: int | None) -> dict[str, Any]:
    return {
        "index": piece.index,
        "text": piece.text,
        "finish_reason": piece.finish_reason,
        "logprobs": _text_logprobs(piece.logprobs, piece.text, written or 0),
    }


def _text_logprobs(logprobs: Any, text: str, written: int) -> dict[str, Any] | None:
    """The form of bare completions: four lists side by side; offsets are characters of the whole text.

    Args:
        logprobs: in the form of a chat's.
        text: of the choice or the chunk. What is before its tokens has none: an echoed prompt.
        written: characters in the chunks before.
    """
    if not logprobs:
        return None
    entries = logprobs["content"]
    offset = written + len(text) - sum(len(entry["token"]) for entry in entries)
    offsets = list(itertools.accumulate((len(entry["token"]) for entry in entries[:-1]), initial=max(0, offset)))
    tops = [{top["token"]: top["logprob"] for top in entry.get("top_logprobs", ())} for entry in entries]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets[: len(entries)],
    }


CHAT = Shape("chatcmpl-", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_chunk)
TEXT = Shape("cmpl-", "text_completion", "text_completion", _text_choice, _text_chunk)


Admit = Callable[[ModelCall], dict[str, str]]
"""Takes a call out of the limits; returns headers, or raises the 429."""


class AnswerRoutes:
    """The routes `/v1/chat/completions` and `/v1/completions`."""

    def __init__(self, engine: ModelEngine, models: ModelStore, admit: Admit, clock: Clock) -> None:
        self._engine = engine
        self._models = models
        self._resolve = models.adapter
        self._admit = admit
        self._clock = clock

    def table(self) -> list[web.RouteDef]:
        return [web.post(CHAT_ROUTE, self._respond), web.post(TEXT_ROUTE, self._respond)]

    async def answer(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a row of a batch: without HTTP, and without the rate limits.

        Raises:
            ApiError: as the route would answer.
        """
        if remote := self._models.remote(body.get("model")):
            return await asked_remotely(remote, route, body)
        shape, calls = self._read(route, body)
        if wants_stream(body):
            raise ApiError(400, "A batch cannot stream.", param="stream", code="invalid_value")
        return self._object(shape, calls[0].model, await self._complete(calls))

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        if remote := self._models.remote(body.get("model")):
            return await passed_on(request, remote, body)
        shape, calls = self._read(request.path, body)
        headers: dict[str, str] = {SIMULATED_HEADER: "true"} if self._engine.traits.simulated else {}
        for call in calls:
            headers |= self._admit(call)
        if wants_stream(body):
            return await self._stream(request, shape, calls, headers, with_usage=wants_stream_usage(body))
        content = self._object(shape, calls[0].model, await self._complete(calls))
        return web.Response(body=orjson.dumps(content), headers={**_JSON, **headers})

    def _read(self, route: str, body: dict[str, Any]) -> tuple[Shape, list[ModelCall]]:
        strict = self._engine.traits.strict
        if route == CHAT_ROUTE:
            return CHAT, [chat_call(body, self._resolve, strict=strict)]
        return TEXT, text_calls(body, self._resolve, strict=strict)

    async def _complete(self, calls: list[ModelCall]) -> EngineAnswer:
        if len(calls) == 1:
            return await self._engine.complete(calls[0])
        answers = await asyncio.gather(*(self._engine.complete(call) for call in calls))
        token_counts = [answer.answer_tokens for answer in answers]
        return EngineAnswer(
            tuple(choice for answer in answers for choice in answer.choices),
            AnswerTokens(
                prompt=sum(answer_tokens.prompt for answer_tokens in token_counts),
                completion=sum(answer_tokens.completion for answer_tokens in token_counts),
                cached=sum(answer_tokens.cached for answer_tokens in token_counts),
                reasoning=sum(answer_tokens.reasoning for answer_tokens in token_counts),
            ),
        )

    def _object(self, shape: Shape, model: str, answer: EngineAnswer) -> dict[str, Any]:
        return {
            "id": new_id(shape.prefix),
            "object": shape.whole,
            "created": int(self._clock()),
            "model": model,
            "choices": [shape.choice(index, choice) for index, choice in enumerate(answer.choices)],
            "usage": usage(answer.answer_tokens),
            "system_fingerprint": self._engine.traits.fingerprint,
        }

    async def _stream(
        self,
        request: web.Request,
        shape: Shape,
        calls: list[ModelCall],
        headers: dict[str, str],
        *,
        with_usage: bool,
    ) -> web.StreamResponse:
        if len(calls) > 1:
            raise ApiError(400, "A stream answers one prompt only.", param="prompt", code="invalid_value")
        pieces = self._engine.stream(calls[0])
        first = await anext(pieces)  # an error before the first piece becomes an error response, not a broken stream
        response = web.StreamResponse(headers={**EVENT_HEADERS, **headers})
        await response.prepare(request)
        common = {
            "id": new_id(shape.prefix),
            "object": shape.part,
            "created": int(self._clock()),
            "model": calls[0].model,
            "system_fingerprint": self._engine.traits.fingerprint,
        }
        disturb, number = request.get(DISTURB), 0
        async for chunk in _chunks(shape, first, pieces, with_usage=with_usage):
            event = b"data: " + orjson.dumps(common | chunk) + b"\n\n"
            if disturb and not await disturb(response, number, event):
                return response
            await response.write(event)
            number += 1
        await response.write(b"data: [DONE]\n\n")
        return response


async def _chunks(
    shape: Shape,
    first: AnswerPiece | AnswerTokens,
    rest: AsyncIterator[AnswerPiece | AnswerTokens],
    *,
    with_usage: bool,
) -> AsyncIterator[dict[str, Any]]:
    written: dict[int, int] = {}
    no_usage = {"usage": None} if with_usage else {}
    async for piece in _chained(first, rest):
        if isinstance(piece, AnswerPiece):
            yield {"choices": [shape.chunk(piece, written.get(piece.index))], **no_usage}
            written[piece.index] = written.get(piece.index, 0) + len(piece.text)
        elif with_usage:
            yield {"choices": [], "usage": usage(piece)}


async def _chained(
    first: AnswerPiece | AnswerTokens, rest: AsyncIterator[AnswerPiece | AnswerTokens]
) -> AsyncIterator[AnswerPiece | AnswerTokens]:
    yield first
    async for piece in rest:
        yield piece


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
    message = f"The server of the model '{model.id}' at {model.base_url} cannot be reached. Start it again."
    return ApiError(503, message, kind="server_error", code="model_not_served")
