"""The engine interface: the types between the API and what answers and trains behind it.

Routes pass a `ModelCall` and get an `Answer`; the fine-tuning queue passes a `TrainingTask` and gets the trainer's
messages. HTTP is left to `api`, llama.cpp to `llama`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from pathlib import Path

    from asyncgen.serve.training.protocol import Hyperparameters, TrainerMessage

EngineName = Literal["llama", "simulated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """Properties of an engine, as the API shows them.

    Attributes:
        name: "llama" or "simulated".
        base_model: the model that is available from the start.
        base_path: its file; "" if there is none.
        any_model: whether every other name is answered too, as in a simulation.
        owner: `owned_by` of its models.
        organization: part of the names of tuned models, and of jobs.
        fingerprint: `system_fingerprint` of its answers.
        created: Unix seconds of the base model.
        methods: accepted fine-tuning methods.
        integrations: whether a job may name integrations.
        parallel: number of requests processed at the same time.
        notice: text of the first event of a fine-tuning job; "" for none.
        strict: refuse parameters that neither the API nor llama.cpp knows.
        tunes_any_model: whether a job may name a model that does not answer here.
        simulated: whether its answers and trainings are simulated.
    """

    name: EngineName
    base_model: str
    any_model: bool
    owner: str
    organization: str
    fingerprint: str
    created: int
    methods: frozenset[str]
    integrations: bool
    parallel: int
    notice: str
    strict: bool
    base_path: str = ""
    tunes_any_model: bool = False
    simulated: bool = False


class ChatTurn(msgspec.Struct, frozen=True):
    """One message of a chat.

    Attributes:
        role: as in the API.
        text: all of its text parts; "" if it has none.
        rest: its further fields, unchanged: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    """

    role: str
    text: str
    rest: Mapping[str, Any] = {}


class ModelCall(msgspec.Struct, frozen=True, kw_only=True):
    """One validated request to a model.

    Attributes:
        model: as named in the request.
        adapter: the tuned model's adapter; None for the base model.
        messages: of a chat; None for a bare prompt.
        prompt: the bare prompt; None for a chat.
        echo: whether the prompt is the beginning of the answer.
        max_tokens: maximum tokens of the answer; None for as many as fit.
        stop: texts that end the answer, and are not in it.
        count: number of choices.
        tools: functions that the answer may call, unchanged.
        tool_choice: "auto", "none", "required", or the name of the function to call as `{"function": {"name": ...}}`.
        reasoning_effort: unchanged; None if the request does not set it.
        sampling: the remaining parameters, unchanged.
    """

    model: str
    adapter: Path | None = None
    messages: tuple[ChatTurn, ...] | None = None
    prompt: str = ""
    echo: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    count: int = 1
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    reasoning_effort: str | None = None
    sampling: Mapping[str, Any] = {}

    @property
    def opening(self) -> str:
        """The beginning of the answer in the request: a last assistant message, or the echoed prompt; else ""."""
        if self.messages is None:
            return self.prompt if self.echo else ""
        last = self.messages[-1]
        return last.text if last.role == "assistant" and not last.rest.get("tool_calls") else ""


class AnswerTokens(msgspec.Struct, frozen=True):
    """Tokens of one answer; the cached ones are part of the prompt, those of the reasoning part of the completion."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


class ToolCall(msgspec.Struct, frozen=True):
    """A function that the answer calls; its arguments are a JSON text, which the model may have got wrong."""

    id: str
    name: str
    arguments: str


class EngineChoice(msgspec.Struct, frozen=True):
    """One answer. If the request contains its beginning, `text` includes it."""

    text: str
    finish_reason: str
    refusal: str | None = None
    logprobs: Any = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class EngineAnswer(msgspec.Struct, frozen=True):
    """All choices of a call, and its token usage."""

    choices: tuple[EngineChoice, ...]
    answer_tokens: AnswerTokens


class ToolCallPart(msgspec.Struct, frozen=True):
    """A part of a streamed tool call. The first has id and name, each has a part of the arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class AnswerPiece(msgspec.Struct, frozen=True):
    """A part of a streamed choice: the opening first, the one with a finish reason last."""

    index: int
    text: str
    finish_reason: str | None = None
    refusal: str | None = None
    logprobs: Any = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """A training to execute.

    Attributes:
        model: the model to tune, by the job's name for it.
        suffix: of the tuned model's name; None if the job sets none.
        folder: the job's own folder, for all files of the training.
        train: validated samples, one JSON object per line.
        validation: validated samples; None if there are none.
        samples: number of samples in `train`.
        hyperparameters: as the job sets them.
    """

    model: str
    suffix: str | None
    folder: Path
    train: Path
    validation: Path | None
    samples: int
    hyperparameters: Hyperparameters
    seed: int


class ModelEngine(Protocol):
    """Answers requests, and trains."""

    @property
    def traits(self) -> EngineTraits: ...

    async def complete(self, call: ModelCall) -> EngineAnswer:
        """Answer a call. Raises ApiError."""
        ...

    def stream(self, call: ModelCall) -> AsyncIterator[AnswerPiece | AnswerTokens]:
        """Answer a call piece by piece, the token usage last. Raises ApiError before the first piece."""
        ...

    def train(self, task: TrainingTask) -> AsyncGenerator[TrainerMessage, None]:
        """Train, and yield messages up to `TrainingEnded` or `TrainingFailed`.

        Closing the iterator ends the training.
        """
        ...

    async def untunable(self) -> str | None:
        """Why the base model cannot be tuned; None when it can."""
        ...

    async def adopt(self, adapter: Path, /) -> None:
        """Make a trained adapter answer from now on. Raises ApiError when it cannot be loaded."""
        ...

    async def close(self) -> None: ...
