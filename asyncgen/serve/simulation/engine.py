"""The simulated engine: made-up answers (text, JSON by the schema, tool calls, reasoning) and made-up trainings.

An answer is chosen by the call's digest, so that the same question gets the same answer on every server; it comes at
once or after a set latency. A training's metrics follow the curve of a real one, in a few seconds or in the time that
is set; of the files only the number of lines is read. Also makes the faults that are within an answer (a refusal, an
empty text).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.providers.tokens import estimate_text
from asyncgen.run.records import SIMULATED_FINGERPRINT
from asyncgen.serve.engine import (
    AnswerPiece,
    AnswerTokens,
    EngineAnswer,
    EngineChoice,
    EngineTraits,
    ModelCall,
    ToolCall,
    ToolCallPart,
    TrainingTask,
)
from asyncgen.serve.simulation.faults import ANSWER_FAULTS, FaultDraw
from asyncgen.serve.simulation.values import (
    Repetitions,
    UnfitSchemaError,
    cut,
    digest_of,
    prompt_tokens,
    simulated_text,
    simulated_value,
)
from asyncgen.serve.training.protocol import (
    TrainedCheckpoint,
    TrainerMessage,
    TrainingEnded,
    TrainingStarted,
    TrainingStep,
)
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
    from pathlib import Path


_STEP_S = 0.02
_LONGEST_S = 5.0
_LOSS_FIRST, _LOSS_LAST = 4.8, 0.4
_EPOCHS, _BATCH = 3, 8
_TOKENS_PER_SAMPLE = 40
NOTICE = "simulated: no training took place; the figures are made up"
_FILTERED = "content_filter"
_SENTENCES = {"minimal": 1, "low": 1, "medium": 2, "high": 4, "xhigh": 8}
_USUAL_EFFORT = "medium"
_NOT_TELLING = frozenset({"get", "set", "run", "the", "and", "for", "from", "with", "use", "call", "make"})
_SHORTEST_WORD = 3
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_KEY = re.compile(r'["\'`]([A-Za-z_][\w-]*)["\'`]\s*:')


async def simulated_training(
    task: TrainingTask, *, training_s: float | None = None
) -> AsyncGenerator[TrainerMessage, None]:
    """The messages of a training of `task`.

    Args:
        task: its number of samples and its hyperparameters count.
        training_s: seconds that all of it takes; None for 20 ms a step, and 5 s at most.
    """
    start = _start(task)
    rng = random.Random(task.seed)  # noqa: S311 - figures, not secrets
    pause_s = (min(_STEP_S * start.total_steps, _LONGEST_S) if training_s is None else training_s) / start.total_steps
    yield start
    for number in range(1, start.total_steps + 1):
        await asyncio.sleep(pause_s)
        step = _step(number, start, rng, pause_s, with_validation=task.validation is not None)
        yield step
        if number * start.n_epochs % start.total_steps == 0:
            yield _checkpoint(step)
    yield TrainingEnded(trained_tokens=start.train_samples * start.n_epochs * _TOKENS_PER_SAMPLE)


def _start(task: TrainingTask) -> TrainingStarted:
    wanted = task.hyperparameters
    n_epochs = _EPOCHS if wanted.n_epochs == "auto" else wanted.n_epochs
    decided = msgspec.structs.replace(wanted, n_epochs=n_epochs).decided(task.samples)
    return TrainingStarted(
        total_steps=n_epochs * math.ceil(task.samples / decided.batch_size),
        train_samples=task.samples,
        **msgspec.structs.asdict(decided),
    )


def _step(
    number: int, start: TrainingStarted, rng: random.Random, pause_s: float, *, with_validation: bool
) -> TrainingStep:
    done = number / start.total_steps
    loss = _LOSS_LAST + (_LOSS_FIRST - _LOSS_LAST) * math.exp(-5 * done) * rng.uniform(0.9, 1.1)
    ends_epoch = number * start.n_epochs % start.total_steps == 0
    return TrainingStep(
        step=number,
        total_steps=start.total_steps,
        epoch=math.ceil(done * start.n_epochs),
        train_loss=round(loss, 4),
        train_mean_token_accuracy=_accuracy(loss),
        elapsed_s=number * pause_s,
        trained_tokens=round(done * start.train_samples * start.n_epochs * _TOKENS_PER_SAMPLE),
        valid_loss=round(loss * 1.1, 4) if with_validation and ends_epoch else None,
        valid_mean_token_accuracy=_accuracy(loss * 1.1) if with_validation and ends_epoch else None,
    )


def _checkpoint(step: TrainingStep) -> TrainedCheckpoint:
    return TrainedCheckpoint(
        step=step.step,
        epoch=step.epoch,
        train_loss=step.train_loss,
        train_mean_token_accuracy=step.train_mean_token_accuracy,
        full_valid_loss=step.valid_loss,
        full_valid_mean_token_accuracy=step.valid_mean_token_accuracy,
    )


def _accuracy(loss: float) -> float:
    return round(math.exp(-0.35 * loss), 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """Settings of a simulation.

    Attributes:
        latency_s: seconds that every answer takes.
        requests_per_minute: limit to enforce; None for none.
        tokens_per_minute: limit to enforce; None for none.
        faults: name to probability.
        seed: seed of the faults.
        reasons: answer with reasoning if a request does not say.
        training_s: seconds that a training takes; None for a few at most.
    """

    latency_s: float = 0.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    reasons: bool = False
    training_s: float | None = None


class SimulatedEngine:
    """An `Engine` without a model.

    Args:
        created: Unix seconds, for the model's entry.
    """

    def __init__(self, settings: SimulationSettings, *, created: int) -> None:
        self._latency_s = settings.latency_s
        self._reasons = settings.reasons
        self._training_s = settings.training_s
        faults = {name: chance for name, chance in settings.faults.items() if name in ANSWER_FAULTS}
        self._draw = FaultDraw(faults, settings.seed)
        self._repetitions = Repetitions()
        self._traits = EngineTraits(
            name="simulated",
            base_model="simulated",
            any_model=True,
            owner="asyncgen-simulation",
            organization="simulated",
            fingerprint=SIMULATED_FINGERPRINT,
            created=created,
            methods=frozenset({"supervised", "dpo"}),
            integrations=True,
            parallel=64,
            notice=NOTICE,
            strict=False,
            simulated=True,
        )

    @property
    def traits(self) -> EngineTraits:
        return self._traits

    async def complete(self, call: ModelCall) -> EngineAnswer:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        digest = digest_of(call)
        repetition = self._repetitions.count(digest)
        if "seed" in call.sampling or call.sampling.get("temperature") == 0:
            repetition = 0  # the same every time
        fault = self._draw.fault(digest) if self._draw else None
        choices = tuple(self._choice(call, digest, repetition, index, fault) for index in range(call.count))
        written, thought = sum(_tokens(call, choice) for choice in choices), sum(map(_thought, choices))
        return EngineAnswer(choices, AnswerTokens(prompt_tokens(call), written + thought, reasoning=thought))

    async def stream(self, call: ModelCall) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        answer = await self.complete(call)
        for index, choice in enumerate(answer.choices):
            for piece in _pieces(index, call.opening, choice):
                yield piece
            yield AnswerPiece(index, "", finish_reason=choice.finish_reason, refusal=choice.refusal)
        yield answer.answer_tokens

    def _choice(self, call: ModelCall, digest: bytes, repetition: int, index: int, fault: str | None) -> EngineChoice:
        if fault == "refusal":
            return EngineChoice("", "stop", refusal="Simulated refusal.")
        if fault == "empty":
            return EngineChoice("", "stop")
        choice = simulated_choice(call, digest, repetition, index, reasons=self._reasons)
        if fault == "length":
            return msgspec.structs.replace(choice, text=choice.text[: len(choice.text) // 2], finish_reason="length")
        return msgspec.structs.replace(choice, finish_reason=_FILTERED) if fault == "content-filter" else choice

    def train(self, task: TrainingTask) -> AsyncGenerator[TrainerMessage, None]:
        return simulated_training(task, training_s=self._training_s)

    async def untunable(self) -> str | None:
        return None

    async def adopt(self, _adapter: Path, /) -> None:
        raise AssertionError("a simulated training has no adapter")

    async def close(self) -> None:
        pass


def _tokens(call: ModelCall, choice: EngineChoice) -> int:
    called = sum(estimate_text(tool.arguments) for tool in choice.tool_calls)
    return estimate_text(choice.text[len(call.opening) :]) + called


def _thought(choice: EngineChoice) -> int:
    return estimate_text(choice.reasoning)


def _pieces(index: int, opening: str, choice: EngineChoice) -> Iterator[AnswerPiece]:
    """The reasoning, the opening and then the text word by word, the tool calls; nothing for an empty answer."""
    for text in _in_pieces("", choice.reasoning):
        yield AnswerPiece(index, "", reasoning=text)
    if choice.logprobs:
        for token in choice.logprobs["content"]:
            yield AnswerPiece(index, token["token"], logprobs={"content": [token], "refusal": None})
    else:
        for text in _in_pieces(opening, choice.text):
            yield AnswerPiece(index, text)
    for place, tool in enumerate(choice.tool_calls):
        yield AnswerPiece(index, "", tool_calls=(ToolCallPart(place, "", tool.id, tool.name),))
        for text in _in_pieces("", tool.arguments):
            yield AnswerPiece(index, "", tool_calls=(ToolCallPart(place, text),))


def _in_pieces(opening: str, text: str) -> list[str]:
    """The opening, then word by word; nothing at all for an empty text."""
    if not text.startswith(opening):
        return [text]
    words = text[len(opening) :].split(" ")
    return [piece for piece in (opening, words[0], *(f" {word}" for word in words[1:])) if piece]


def simulated_choice(call: ModelCall, digest: bytes, repetition: int, index: int, *, reasons: bool) -> EngineChoice:
    """Make one choice of an answer.

    Args:
        call: the call.
        digest: of the call.
        repetition: how often it was asked before.
        index: of the choice.
        reasons: whether the model reasons if the call does not say.

    Returns:
        The choice.

    Raises:
        ApiError: 400 for a schema that no value satisfies.
    """
    seed = digest if not (repetition or index) else blake2b(b"%b %d %d" % (digest, repetition, index)).digest()
    reasoning, cut_short = _reasoning(call, seed, reasons=reasons)
    left = None if call.max_tokens is None else call.max_tokens - estimate_text(reasoning)
    if cut_short or (left is not None and left <= 0 and reasoning):
        return EngineChoice(call.opening, "length", reasoning=reasoning)
    if tools := wanted_tools(call):
        calls, reason = _tool_calls(tools, seed, left)
        return EngineChoice("", reason, reasoning=reasoning, tool_calls=calls)
    text, reason = cut(_text(call, digest, repetition, index, seed), call.stop, left)
    if call.opening:
        text = call.opening + (" " if text and not call.opening[-1].isspace() else "") + text
    return EngineChoice(text, reason, reasoning=reasoning, logprobs=_logprobs(call, text, seed))


def wanted_tools(call: ModelCall) -> list[Mapping[str, Any]]:
    """Choose the tools to call: those of `tool_choice`, or those that the user mentions.

    A user mentions a tool by a word of its name. The results of a tool are answered with text.
    """
    functions = {tool["function"]["name"]: tool["function"] for tool in call.tools}
    if not isinstance(call.tool_choice, str):
        return [functions[call.tool_choice["function"]["name"]]]
    if not functions or call.tool_choice == "none" or not call.messages:
        return []
    asked = call.messages[-1].text if call.messages[-1].role == "user" else ""
    wanted = [function for name, function in functions.items() if _speaks_of(asked, name)]
    if not wanted and call.tool_choice == "required":
        wanted = [next(iter(functions.values()))]
    return wanted if call.sampling.get("parallel_tool_calls", True) else wanted[:1]


def _speaks_of(text: str, name: str) -> bool:
    words = {word.casefold().removesuffix("s") for word in _WORD.findall(text)}
    telling = {word.casefold().removesuffix("s") for word in _WORD.findall(_CAMEL.sub(" ", name).replace("_", " "))}
    return bool({word for word in telling - _NOT_TELLING if len(word) >= _SHORTEST_WORD} & words) or name in text


def _tool_calls(functions: list[Mapping[str, Any]], seed: bytes, left: int | None) -> tuple[tuple[ToolCall, ...], str]:
    calls = []
    for place, function in enumerate(functions):
        own = blake2b(b"%b tool %d" % (seed, place), digest_size=12).digest()
        value = _value(function.get("parameters") or {"type": "object"}, own, "tools")
        arguments, reason = cut(json.dumps(value, ensure_ascii=False), (), left)
        calls.append(ToolCall(f"call_{own.hex()}", function["name"], arguments))
        if reason == "length":
            return tuple(calls), reason
        left = None if left is None else max(1, left - estimate_text(arguments))
    return tuple(calls), "tool_calls"


def _text(call: ModelCall, digest: bytes, repetition: int, index: int, seed: bytes) -> str:
    wanted = call.sampling.get("response_format") or {}
    if call.messages is None or not isinstance(wanted, dict) or wanted.get("type", "text") == "text":
        return simulated_text(digest, repetition, index)
    if wanted["type"] == "json_schema":
        return json.dumps(_value(wanted["json_schema"]["schema"], seed, "response_format"), ensure_ascii=False)
    keys = dict.fromkeys(key for turn in call.messages for key in _KEY.findall(turn.text)) or {"answer": None}
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
    return json.dumps(_value(schema, seed, "response_format"), ensure_ascii=False)


def _value(schema: Any, seed: bytes, param: str) -> Any:
    try:
        return simulated_value(schema, seed)
    except UnfitSchemaError as error:
        raise ApiError(400, f"Invalid schema in '{param}': {error}.", param=param, code="invalid_json_schema") from None


def _reasoning(call: ModelCall, seed: bytes, *, reasons: bool) -> tuple[str, bool]:
    """The reasoning, and whether the token limit cut it short."""
    effort = call.reasoning_effort or (_USUAL_EFFORT if reasons else "none")
    if effort == "none" or call.messages is None:
        return "", False
    count = _SENTENCES.get(effort, _SENTENCES[_USUAL_EFFORT])
    sentences = [simulated_text(seed, 1, place).replace("text", "thought", 1) for place in range(count)]
    text, reason = cut(" ".join(sentences), (), call.max_tokens)
    return text, reason == "length"


def _logprobs(call: ModelCall, text: str, seed: bytes) -> dict[str, Any] | None:
    """Made-up probabilities, a token a word, in the form of a chat's."""
    wanted = call.sampling.get("logprobs")
    if wanted is None or wanted is False:
        return None
    top = call.sampling.get("top_logprobs") or (0 if wanted is True else wanted)
    tokens = re.findall(r"\s*\S+|\s+$", text)
    content = []
    for place, token in enumerate(tokens):
        drawn = -seed[place % len(seed)] / 256
        entry = {"token": token, "logprob": drawn, "bytes": list(token.encode("utf-8", "surrogatepass"))}
        others = [{"token": f" other{rank}", "logprob": drawn - rank, "bytes": None} for rank in range(1, top)]
        content.append({**entry, "top_logprobs": [dict(entry), *others][:top]})
    return {"content": content, "refusal": None}
