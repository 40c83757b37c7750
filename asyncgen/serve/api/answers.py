"""The JSON of answers: of a chat and of a bare completion, whole and in chunks.

Owns field names and their order. Pure: ids and times are given.

`/v1/chat/completions` and `/v1/completions`, whole or as a stream.

Owns how a request is answered. One rule about a last assistant message, for every model and for streams
too: it is continued, and the answer is the whole text, that opening included; its tokens count as prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from asyncgen.serve.calls import chat_call, text_calls, wants_stream, wants_stream_usage
from asyncgen.serve.engine import Answer, Call, Engine, Piece, Tally
from asyncgen.serve.wire import ApiError, Clock, new_id, read_object

if TYPE_CHECKING:
    from asyncgen.serve.calls import Resolve
    from asyncgen.serve.engine import Choice


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the two forms of an answer.

    Attributes:
        prefix: of the answer's id.
        whole, part: the `object` of an answer and of a chunk.
        choice: one entry of `choices`.
        chunk: likewise in a chunk; the flag says whether it is the choice's first.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[int, Choice], dict[str, Any]]
    chunk: Callable[[Piece, bool], dict[str, Any]]


def usage(tally: Tally) -> dict[str, Any]:
    return {
        "prompt_tokens": tally.prompt,
        "completion_tokens": tally.completion,
        "total_tokens": tally.prompt + tally.completion,
        "prompt_tokens_details": {"cached_tokens": tally.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _chat_choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": None if choice.refusal else choice.text,
            "refusal": choice.refusal,
        },
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }


def _chat_chunk(piece: Piece, first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if piece.text:
        delta["content"] = piece.text
    if piece.refusal:
        delta["refusal"] = piece.refusal
    return {
        "index": piece.index,
        "delta": delta,
        "finish_reason": piece.finish_reason,
        "logprobs": piece.logprobs,
    }


def _text_choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }


def _text_chunk(piece: Piece, first: bool) -> dict[str, Any]:  # noqa: ARG001 - the first is like any other here
    return {
        "index": piece.index,
        "text": piece.text,
        "finish_reason": piece.finish_reason,
        "logprobs": piece.logprobs,
    }


CHAT = Shape("chatcmpl-", "chat.completion", "chat.completion.chunk", _chat_choice, _chat_chunk)
TEXT = Shape("cmpl-", "text_completion", "text_completion", _text_choice, _text_chunk)


Admit = Callable[[Call], dict[str, str]]
"""Takes a call out of the limits; returns headers, or raises the 429."""

CHAT_ROUTE = "/v1/chat/completions"
TEXT_ROUTE = "/v1/completions"
_JSON = {"Content-Type": "application/json"}
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class AnswerRoutes:
    """The two routes over one engine."""

    def __init__(self, engine: Engine, resolve: Resolve, admit: Admit, clock: Clock) -> None:
        self._engine = engine
        self._resolve = resolve
        self._admit = admit
        self._clock = clock

    def table(self) -> list[web.RouteDef]:
        return [web.post(CHAT_ROUTE, self._respond), web.post(TEXT_ROUTE, self._respond)]

    async def answer(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's JSON for a body, outside of HTTP and of the limits: a row of a batch.

        Raises:
            ApiError: as the route would answer.
        """
        shape, calls = self._read(route, body)
        if wants_stream(body):
            raise ApiError(400, "A batch cannot stream.", param="stream", code="invalid_value")
        return self._object(shape, calls[0].model, await self._complete(calls))

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        shape, calls = self._read(request.path, body)
        headers: dict[str, str] = {}
        for call in calls:
            headers = self._admit(call)
        if wants_stream(body):
            return await self._stream(request, shape, calls, headers, with_usage=wants_stream_usage(body))
        content = self._object(shape, calls[0].model, await self._complete(calls))
        return web.Response(body=orjson.dumps(content), headers={**_JSON, **headers})

    def _read(self, route: str, body: dict[str, Any]) -> tuple[Shape, list[Call]]:
        strict = self._engine.traits.strict
        if route == CHAT_ROUTE:
            return CHAT, [chat_call(body, self._resolve, strict=strict)]
        return TEXT, text_calls(body, self._resolve, strict=strict)

    async def _complete(self, calls: list[Call]) -> Answer:
        if len(calls) == 1:
            return await self._engine.complete(calls[0])
        answers = await asyncio.gather(*(self._engine.complete(call) for call in calls))
        tallies = [answer.tally for answer in answers]
        return Answer(
            tuple(choice for answer in answers for choice in answer.choices),
            Tally(
                prompt=sum(tally.prompt for tally in tallies),
                completion=sum(tally.completion for tally in tallies),
                cached=sum(tally.cached for tally in tallies),
            ),
        )

    def _object(self, shape: Shape, model: str, answer: Answer) -> dict[str, Any]:
        return {
            "id": new_id(shape.prefix),
            "object": shape.whole,
            "created": int(self._clock()),
            "model": model,
            "choices": [shape.choice(index, choice) for index, choice in enumerate(answer.choices)],
            "usage": usage(answer.tally),
            "system_fingerprint": self._engine.traits.fingerprint,
        }

    async def _stream(
        self,
        request: web.Request,
        shape: Shape,
        calls: list[Call],
        headers: dict[str, str],
        *,
        with_usage: bool,
    ) -> web.StreamResponse:
        if len(calls) > 1:
            raise ApiError(400, "A stream answers one prompt only.", param="prompt", code="invalid_value")
        pieces = self._engine.stream(calls[0])
        first = await anext(pieces)  # an error before it is answered as such, not as a broken stream
        response = web.StreamResponse(headers={**_EVENTS, **headers})
        await response.prepare(request)
        common = {
            "id": new_id(shape.prefix),
            "object": shape.part,
            "created": int(self._clock()),
            "model": calls[0].model,
            "system_fingerprint": self._engine.traits.fingerprint,
        }
        async for chunk in _chunks(shape, first, pieces, with_usage=with_usage):
            await response.write(b"data: " + orjson.dumps(common | chunk) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


async def _chunks(
    shape: Shape, first: Piece | Tally, rest: AsyncIterator[Piece | Tally], *, with_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    begun: set[int] = set()
    no_usage = {"usage": None} if with_usage else {}
    async for piece in _chained(first, rest):
        if isinstance(piece, Piece):
            yield {"choices": [shape.chunk(piece, piece.index not in begun)], **no_usage}
            begun.add(piece.index)
        elif with_usage:
            yield {"choices": [], "usage": usage(piece)}


async def _chained(first: Piece | Tally, rest: AsyncIterator[Piece | Tally]) -> AsyncIterator[Piece | Tally]:
    yield first
    async for piece in rest:
        yield piece
