"""Function calls that `tool_choice` requires, from models whose chat template does not support tools.

llama.cpp ignores the tools of such a model, and answers with text although `tool_choice` requires a call. Here the
system message describes the function, and a grammar of the parameters' schema restricts the answer to the arguments. If
several functions may be called, the model first chooses one by name. Sending is left to the engine. With `tool_choice`
"auto" the request is sent to such a model without tools.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.serve.engine import (
    AnswerPiece,
    AnswerTokens,
    ChatTurn,
    EngineAnswer,
    EngineChoice,
    ModelCall,
    ToolCall,
    ToolCallPart,
)
from asyncgen.serve.wire import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_NAME_TOKENS = 64  # longer than any name of a function
_CALLED = "tool_calls"


def is_forced(call: ModelCall) -> bool:
    """Whether the answer must be a function call.

    Args:
        call: any call.
    """
    return bool(call.tools) and call.tool_choice not in ("auto", "none")


async def forced_call(call: ModelCall, complete: Callable[[ModelCall], Awaitable[EngineAnswer]]) -> ForcedCall:
    """Find out which function is to be called.

    Args:
        call: one that `is_forced`.
        complete: asks the model, where it has to choose.

    Returns:
        The call to send instead.

    Raises:
        ApiError: as `complete`.
    """
    functions = {tool["function"]["name"]: tool["function"] for tool in call.tools}
    if not isinstance(call.tool_choice, str):
        return _forced(call, functions[call.tool_choice["function"]["name"]])
    if len(functions) == 1:
        return _forced(call, *functions.values())
    told = "\n".join(_function_json(function) for function in functions.values())
    question = f"These functions can be called:\n{told}\nAnswer with the name of the one to call now, as a JSON string."
    schema = {"type": "string", "enum": list(functions)}
    choosing = msgspec.structs.replace(_with_schema(call, question, schema), count=1, max_tokens=_NAME_TOKENS)
    answer = await complete(choosing)
    try:
        name = decode_json(answer.choices[0].text.removeprefix(call.opening).encode(), str)
    except NotJsonError:  # the grammar admits no other text, but a stop text of the request may have cut it
        name = ""
    return _forced(call, functions.get(name) or next(iter(functions.values())), answer.answer_tokens.completion)


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """A call whose answer is the arguments of a function.

    Attributes:
        call: to be sent instead of the one that came.
        name: of the function.
        spent: tokens of the answer that chose it.
    """

    call: ModelCall
    name: str
    spent: int

    def answer_of(self, answer: EngineAnswer) -> EngineAnswer:
        """Turn the model's texts into calls.

        Args:
            answer: to `call`.

        Returns:
            The answer to the call that came.
        """
        return EngineAnswer(tuple(map(self._choice, answer.choices)), self._answer_tokens(answer.answer_tokens))

    async def pieces_of(
        self, pieces: AsyncIterator[AnswerPiece | AnswerTokens]
    ) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        """Turn a stream of the model's text into parts of calls.

        Args:
            pieces: of the answer to `call`.

        Yields:
            The pieces of the answer to the call that came.
        """
        begun: set[int] = set()
        async for piece in pieces:
            if isinstance(piece, AnswerTokens):
                yield self._answer_tokens(piece)
                continue
            first = piece.index not in begun
            begun.add(piece.index)
            if first and self.call.opening and piece.text == self.call.opening:
                begun.discard(piece.index)  # text that the request gave for continuation is not an argument
                continue
            part = ToolCallPart(0, piece.text, new_id("call_") if first else None, self.name if first else None)
            yield msgspec.structs.replace(
                piece,
                text="",
                tool_calls=(part,) if first or piece.text else (),
                finish_reason=_finish(piece.finish_reason) if piece.finish_reason else None,
            )

    def _choice(self, choice: EngineChoice) -> EngineChoice:
        arguments = choice.text.removeprefix(self.call.opening)
        called = ToolCall(new_id("call_"), self.name, arguments)
        return msgspec.structs.replace(
            choice, text="", tool_calls=(called,), finish_reason=_finish(choice.finish_reason)
        )

    def _answer_tokens(self, answer_tokens: AnswerTokens) -> AnswerTokens:
        return msgspec.structs.replace(answer_tokens, completion=answer_tokens.completion + self.spent)


def _finish(reason: str) -> str:
    return _CALLED if reason == "stop" else reason


def _forced(call: ModelCall, function: Mapping[str, Any], spent: int = 0) -> ForcedCall:
    order = "Answer with the arguments of the call alone, as one JSON object."
    text = f"Call this function now:\n{_function_json(function)}\n{order}"
    schema = function.get("parameters") or {"type": "object"}
    return ForcedCall(_with_schema(call, text, schema), function["name"], spent)


def _function_json(function: Mapping[str, Any]) -> str:
    kept = {name: function[name] for name in ("name", "description", "parameters") if function.get(name)}
    return json.dumps(kept, ensure_ascii=False)


def _with_schema(call: ModelCall, text: str, schema: Mapping[str, Any]) -> ModelCall:
    turns = call.messages or ()
    head = turns[0] if turns and turns[0].role in {"system", "developer"} else None
    told = ChatTurn("system", f"{head.text}\n\n{text}" if head else text)
    form = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    return msgspec.structs.replace(
        call,
        messages=(told, *(turns[1:] if head else turns)),
        tools=(),
        tool_choice="auto",
        sampling={**call.sampling, "response_format": form},
    )
