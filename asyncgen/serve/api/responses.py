"""`/v1/responses`: the newer API of agent libraries, whole or as a stream.

Converts its items to a chat and back, over the same calls and engines. Stateless: each request contains the whole
conversation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
import orjson
from aiohttp import web

from asyncgen.local_http import json_response
from asyncgen.serve.api.answers import EVENT_HEADERS, SIMULATED_HEADER, passed_on
from asyncgen.serve.calls import chat_call
from asyncgen.serve.engine import AnswerPiece, AnswerTokens, EngineAnswer, ToolCallPart
from asyncgen.serve.wire import DISTURB, ApiError, Clock, new_id, parsed, read_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from asyncgen.serve.api.answers import Admit
    from asyncgen.serve.engine import ModelCall, ModelEngine
    from asyncgen.serve.stores.models import ModelStore

ROUTE = "/v1/responses"
_NOT_KEPT = "this server does not store responses; send the whole conversation as 'input'"
_REFUSED = {
    "previous_response_id": _NOT_KEPT,
    "conversation": _NOT_KEPT,
    "background": "this server has no background mode",
    "prompt": "this server does not store prompts",
}
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_PASSED_ON = ("model", "temperature", "top_p", "parallel_tool_calls", "seed")


class _Format(msgspec.Struct, kw_only=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _Body(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class ResponseRoutes:
    """The route `/v1/responses`."""

    def __init__(self, engine: ModelEngine, models: ModelStore, admit: Admit, clock: Clock) -> None:
        self._engine = engine
        self._models = models
        self._admit = admit
        self._clock = clock

    def table(self) -> list[web.RouteDef]:
        return [web.post(ROUTE, self._respond)]

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        if remote := self._models.remote(body.get("model")):
            return await passed_on(request, remote, body)
        given = _checked(body)
        call = chat_call(_chat_body(body, given), self._models.adapter, strict=self._engine.traits.strict)
        headers = {SIMULATED_HEADER: "true"} if self._engine.traits.simulated else {}
        headers |= self._admit(call)
        if given.stream:
            return await self._stream(request, body, call, headers)
        answer = await self._engine.complete(call)
        items = _Items()
        for piece in _pieces(answer):
            list(items.events_of(piece))
        list(items.close())
        return json_response(self._object(body, call, items, answer.answer_tokens), headers=headers)

    def _object(
        self, body: Mapping[str, Any], call: ModelCall, items: _Items, answer_tokens: AnswerTokens | None
    ) -> dict[str, Any]:
        status = "in_progress" if answer_tokens is None else "incomplete" if items.is_cut else "completed"
        return {
            "id": new_id("resp_", 48),
            "object": "response",
            "created_at": int(self._clock()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": call.max_tokens,
            "model": call.model,
            "output": items.done,
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": call.reasoning_effort, "summary": None},
            "store": False,
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if answer_tokens is None else _usage(answer_tokens),
            "metadata": body.get("metadata") or {},
            "system_fingerprint": self._engine.traits.fingerprint,
        }

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], call: ModelCall, headers: dict[str, str]
    ) -> web.StreamResponse:
        pieces = self._engine.stream(call)
        first = await anext(pieces)  # an error before the first piece becomes an error response, not a broken stream
        response = web.StreamResponse(headers={**EVENT_HEADERS, **headers})
        await response.prepare(request)
        disturb, number = request.get(DISTURB), 0
        async for event in self._events(body, call, first, pieces):
            data = orjson.dumps(event | {"sequence_number": number})
            line = b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)
            if disturb and not await disturb(response, number, line):
                return response
            await response.write(line)
            number += 1
        return response

    async def _events(
        self,
        body: Mapping[str, Any],
        call: ModelCall,
        first: AnswerPiece | AnswerTokens,
        rest: AsyncIterator[AnswerPiece | AnswerTokens],
    ) -> AsyncIterator[dict[str, Any]]:
        items, answer_tokens = _Items(), AnswerTokens(0, 0)
        shown = self._object(body, call, items, None)
        yield {"type": "response.created", "response": {**shown, "output": []}}
        yield {"type": "response.in_progress", "response": {**shown, "output": []}}
        for event in items.events_of(first) if isinstance(first, AnswerPiece) else ():
            yield event
        async for piece in rest:
            if isinstance(piece, AnswerTokens):
                answer_tokens = piece
                continue
            for event in items.events_of(piece):
                yield event
        for event in items.close():
            yield event
        final = {**self._object(body, call, items, answer_tokens), "id": shown["id"], "created_at": shown["created_at"]}
        yield {"type": f"response.{final['status']}", "response": final}


class _Items:
    """The items of a streamed answer: turns parts of the answer into events of the stream.

    Attributes:
        done: the complete items.
        is_cut: whether the token limit ended the answer.
    """

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.is_cut = False
        self._open: dict[str, Any] | None = None
        self._text = ""
        self._call: int | None = None

    def events_of(self, piece: AnswerPiece) -> Iterator[dict[str, Any]]:
        if piece.reasoning:
            yield from self._opened("reasoning", {"summary": []})
            yield from self._grown(piece.reasoning, "reasoning_text")
        if piece.text or piece.refusal:
            yield from self._opened("message", {"role": "assistant", "content": []})
            yield from self._grown(piece.text or piece.refusal or "", "refusal" if piece.refusal else "output_text")
        for part in piece.tool_calls:
            yield from self._called(part)
        self.is_cut = self.is_cut or piece.finish_reason == "length"

    def close(self) -> Iterator[dict[str, Any]]:
        """End the item that is open."""
        if self._open is None:
            return
        item, place = self._open, len(self.done)
        common = {"item_id": item["id"], "output_index": place}
        if item["type"] == "function_call":
            item["arguments"] = self._text
            yield {"type": "response.function_call_arguments.done", **common, "arguments": self._text}
        elif self._text:
            kind = item["content"][0]["type"]
            field = "refusal" if kind == "refusal" else "text"
            item["content"][0][field] = self._text
            yield {"type": f"response.{kind}.done", **common, "content_index": 0, field: self._text}
            part = item["content"][0]
            yield {"type": "response.content_part.done", **common, "content_index": 0, "part": part}
        item["status"] = "completed"
        self.done.append(item)
        self._open, self._call, self._text = None, None, ""
        yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def _opened(self, kind: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open is not None and self._open["type"] == kind and self._call is None:
            return
        yield from self.close()
        prefixes = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}
        self._open = {"id": new_id(prefixes[kind]), "type": kind, "status": "in_progress", **fields}
        yield {"type": "response.output_item.added", "output_index": len(self.done), "item": dict(self._open)}

    def _grown(self, text: str, kind: str) -> Iterator[dict[str, Any]]:
        assert self._open is not None, "the item was opened"
        common = {"item_id": self._open["id"], "output_index": len(self.done), "content_index": 0}
        if not self._text:
            part: dict[str, Any] = {"type": kind, "refusal": ""} if kind == "refusal" else {"type": kind, "text": ""}
            part |= {"annotations": []} if kind == "output_text" else {}
            self._open["content"] = [part]
            yield {"type": "response.content_part.added", **common, "part": dict(part)}
        self._text += text
        yield {"type": f"response.{kind}.delta", **common, "delta": text}

    def _called(self, part: ToolCallPart) -> Iterator[dict[str, Any]]:
        if self._call != part.index:
            yield from self.close()
            call_id = part.id or new_id("call_")
            fields = {"call_id": call_id, "name": part.name or "", "arguments": ""}
            yield from self._opened("function_call", fields)
            self._call = part.index
        assert self._open is not None, "the item was opened"
        if part.arguments:
            self._text += part.arguments
            common = {"item_id": self._open["id"], "output_index": len(self.done)}
            yield {"type": "response.function_call_arguments.delta", **common, "delta": part.arguments}


def _pieces(answer: EngineAnswer) -> Iterator[AnswerPiece]:
    """A whole answer as the pieces of a stream."""
    choice = answer.choices[0]
    parts = [ToolCallPart(place, call.arguments, call.id, call.name) for place, call in enumerate(choice.tool_calls)]
    yield AnswerPiece(0, choice.text, choice.finish_reason, choice.refusal, None, choice.reasoning, tuple(parts))


def _usage(answer_tokens: AnswerTokens) -> dict[str, Any]:
    return {
        "input_tokens": answer_tokens.prompt,
        "input_tokens_details": {"cached_tokens": answer_tokens.cached},
        "output_tokens": answer_tokens.completion,
        "output_tokens_details": {"reasoning_tokens": answer_tokens.reasoning},
        "total_tokens": answer_tokens.prompt + answer_tokens.completion,
    }


def _checked(body: dict[str, Any]) -> _Body:
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise ApiError(400, f"'{name}' is not supported: {reason}.", param=name, code="unsupported_parameter")
    return parsed(body, _Body)


def _chat_body(body: Mapping[str, Any], given: _Body) -> dict[str, Any]:
    """The request converted for `/v1/chat/completions`."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": given.instructions}] if given.instructions else []
    if isinstance(given.input, str):
        messages.append({"role": "user", "content": given.input})
    else:
        messages += _messages(given.input)
    chat: dict[str, Any] = {name: body[name] for name in _PASSED_ON if body.get(name) is not None}
    chat["messages"] = messages
    if given.max_output_tokens is not None:
        chat["max_completion_tokens"] = given.max_output_tokens
    if given.reasoning and given.reasoning.effort:
        chat["reasoning_effort"] = given.reasoning.effort
    if given.text and given.text.format:
        chat["response_format"] = _response_format(given.text.format)
    if given.tools:
        chat["tools"] = [_tool(tool, place) for place, tool in enumerate(given.tools)]
    if isinstance(given.tool_choice, dict):
        chat["tool_choice"] = {"type": "function", "function": {"name": given.tool_choice.get("name")}}
    elif given.tool_choice:
        chat["tool_choice"] = given.tool_choice
    return chat


def _messages(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The chat turns of the items; all calls of a turn are in one message."""
    calls: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        if kind == "function_call_output":
            yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"), place)}
        elif kind == "message":
            yield {"role": item.get("role"), "content": _content(item.get("content"), place)}
        elif kind != "reasoning":  # earlier reasoning is not sent to the model again
            message = f"Items of the type {kind!r} are not supported by this server."
            raise ApiError(400, message, param=f"input[{place}].type", code="invalid_value")
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _content(content: Any, place: int) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            texts.append(str(part.get("refusal", "")))
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            param = f"input[{place}].content[{number}].type"
            raise ApiError(400, f"Invalid '{param}': this server only reads text.", param=param, code="invalid_value")
    return "".join(texts)


def _response_format(wanted: _Format) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    return {"type": "json_schema", "json_schema": {"name": wanted.name or "reply", "schema": wanted.schema}}


def _tool(tool: dict[str, Any], place: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        message = f"Tools of the type {tool.get('type')!r} are not supported by this server; it supports functions."
        raise ApiError(400, message, param=f"tools[{place}].type", code="invalid_value")
    function = {name: tool[name] for name in ("name", "description", "parameters", "strict") if name in tool}
    return {"type": "function", "function": function}
