"""The playground: send a prompt to a model and stream its answer.

Builds the request (in the form of the run's dataset, or a plain chat), reads the stream, and computes the cost. The
provider and key of each model come from the caller; a key never leaves this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.complete import PromptForm, PromptSettings, answer_limit, form_of, request_body
from asyncgen.generate.http.reply import read_usage
from asyncgen.providers.endpoint import Endpoint, redacted
from asyncgen.providers.user_files import load_price_list
from asyncgen.run.directory import RunDirectory

if TYPE_CHECKING:
    from asyncgen.run.records import Usage
    from asyncgen.run.state import RunState

OpenEndpoint = Callable[[RunDirectory, str], AbstractAsyncContextManager[Endpoint]]
"""Opens who answers for a model, seen from a run; raises AsyncgenError."""


class PlaygroundQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question of the page.

    Attributes:
        model: the model to ask.
        prompt: the short prompt.
        form: "dataset" for the form of the run's dataset, "chat" for a plain chat.
        system: first message of a chat; None for the dataset's.
        temperature: None for the server's default.
        max_tokens: maximum tokens of the answer.
    """

    model: str
    prompt: str
    form: Literal["dataset", "chat"] = "dataset"
    system: str | None = None
    temperature: float | None = None
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model that the page offers, and why."""

    name: str
    why: str


def offered(state: RunState) -> list[ModelChoice]:
    """The models of a run: tuned ones, newest first, their base models, and the model that wrote the answers."""
    tuned = [ModelChoice(job.tuned_model, "tuned on this run") for job in reversed(state.finetuning) if job.tuned_model]
    base = [ModelChoice(job.model, "base model") for job in reversed(state.finetuning) if job.tuned_model]
    author = [ModelChoice(state.job.model, "generated this run")] if state.job.model else []
    found = {choice.name: choice for choice in reversed([*tuned, *base, *author])}
    return list(reversed(found.values()))


def form_for(state: RunState, question: PlaygroundQuestion) -> PromptForm:
    """The form of the prompt for a question."""
    form = form_of(state.dataset) if state.dataset and question.form == "dataset" else PromptForm()
    return form if question.system is None or form.format != "chat" else replace(form, system=question.system or None)


class Playground:
    """Asks models; endpoints stay open until the block ends, so that a local server is started once.

    Args:
        open_endpoint: opens the endpoint of a provider.
    """

    def __init__(self, open_endpoint: OpenEndpoint) -> None:
        self._open_endpoint = open_endpoint
        self._opened: dict[tuple[str, str], Any] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def ask(
        self, directory: RunDirectory, state: RunState, question: PlaygroundQuestion
    ) -> AsyncIterator[dict[str, Any]]:
        """Ask a model, and yield the answer: `{"text"}` any number of times, then `{"done"}` or `{"error"}`.

        Args:
            directory: of the run.
            state: content of its `run.json`.
            question: what to ask.
        """
        try:
            if not question.prompt.strip():
                raise UsageError("there is no prompt")
            endpoint, client = await self._opened_for(directory, question.model)
            async for piece in _streamed(endpoint, client, form_for(state, question), question):
                yield piece
        except AsyncgenError as error:
            yield {"error": {"what": error.what, "cause": error.cause, "help": error.help_text}}

    async def _opened_for(self, directory: RunDirectory, model: str) -> tuple[Endpoint, Any]:
        from asyncgen.providers.openai_client import open_client  # noqa: PLC0415 - imports the SDK, which takes a second

        asked = (str(directory.path), model)
        if asked not in self._opened:
            endpoint = await self._stack.enter_async_context(self._open_endpoint(directory, model))
            client = await self._stack.enter_async_context(open_client(endpoint))
            self._opened[asked] = (endpoint, client)
        found: tuple[Endpoint, Any] = self._opened[asked]
        return found


async def _streamed(
    endpoint: Endpoint, client: Any, form: PromptForm, question: PlaygroundQuestion
) -> AsyncIterator[dict[str, Any]]:
    from asyncgen.finetune.json_calls import translated_errors  # noqa: PLC0415 - imports the SDK

    parameters: dict[str, Any] = answer_limit(endpoint.profile, form, question.max_tokens)
    if question.temperature is not None:
        parameters["temperature"] = question.temperature
    asking = PromptSettings(question.model, form, parameters)
    body = {**request_body(asking, question.prompt), "stream": True, "stream_options": {"include_usage": True}}
    create = client.completions.create if form.format == "completion" else client.chat.completions.create
    began = time.monotonic()
    usage, finish_reason, model = None, "", question.model
    try:
        with translated_errors(f"ask {question.model}"):
            async for chunk in await create(**body):
                usage = read_usage(chunk.usage.model_dump()) if chunk.usage else usage
                model = chunk.model or model
                for choice in chunk.choices[:1]:
                    finish_reason = choice.finish_reason or finish_reason
                    if text := _text(choice):
                        yield {"text": text}
    except AsyncgenError as error:
        raise _without_key(error, endpoint) from error
    yield {"done": _ending(endpoint, model, finish_reason, usage, time.monotonic() - began)}


def _text(choice: Any) -> str:
    delta = getattr(choice, "delta", None)
    text = getattr(choice, "text", None) if delta is None else delta.content
    return text or ""


def _ending(
    endpoint: Endpoint, model: str, finish_reason: str, usage: Usage | None, elapsed_s: float
) -> dict[str, Any]:
    price = load_price_list(None, os.environ).price(endpoint.profile.name, endpoint.base_url, model)
    return {
        "model": model,
        "provider": endpoint.profile.name,
        "finish_reason": finish_reason,
        "elapsed_s": elapsed_s,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "cost_usd": price.cost_usd(usage) if price and usage else None,
    }


def _without_key(error: AsyncgenError, endpoint: Endpoint) -> AsyncgenError:
    """The error's text without the API key, which a server may quote."""
    what, cause = (redacted(text or "", endpoint.key) for text in (error.what, error.cause))
    return AsyncgenError(what, cause=cause or None, help_text=error.help_text, code=error.code)
