"""Ask a model with short prompts, in the form in which a dataset taught it to answer.

The form is noted in the run's `run.json`. Prices and display are left to the callers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from asyncgen.errors import AsyncgenError
from asyncgen.generate.http.completer import Answer
from asyncgen.generate.http.reply import read_reply
from asyncgen.run.state import DatasetState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from asyncgen.providers.profiles import Profile
    from asyncgen.run.records import Usage


_AT_ONCE = 8
# `/completions` stops after 16 tokens by default, in the middle of a sentence.
_COMPLETION_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptForm:
    """How a short prompt becomes a request.

    Attributes:
        format: "chat" or "completion".
        system: first message of a chat; None for none.
        separator: end of the prompt of a completion.
        stop: texts at which the answer ends, which the server leaves out.
    """

    format: Literal["chat", "completion"] = "chat"
    system: str | None = None
    separator: str = ""
    stop: tuple[str, ...] = ()


def form_of(dataset: DatasetState) -> PromptForm:
    """Return the form of a dataset's samples.

    Args:
        dataset: as noted in the run.
    """
    if dataset.format == "completion":
        return PromptForm(
            format="completion", separator=dataset.separator, stop=(dataset.ending,) if dataset.ending else ()
        )
    return PromptForm(system=dataset.system)


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer.

    Attributes:
        prompt: the short prompt.
        model: the model as the server named it.
        text: the answer, without the blank that completions are trained to begin with.
        finish_reason: by its name in OpenAI's API.
        usage: token counts.
    """

    prompt: str
    model: str
    text: str
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A prompt without an answer.

    Attributes:
        prompt: the short prompt.
        model: the model that was asked.
        error: why there is no answer.
    """

    prompt: str
    model: str
    error: AsyncgenError


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """What all prompts have in common.

    Attributes:
        model: the model to ask.
        form: the form of its prompts.
        parameters: passed to the API as they are.
    """

    model: str
    form: PromptForm
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Calls(Protocol):
    """The one call that is needed. Implemented by `json_calls.JsonCalls`."""

    async def post_for_content(self, path: str, doing: str, body: Mapping[str, Any]) -> bytes:
        """POST a JSON body.

        Args:
            path: of the API call.
            doing: what is done, for the error message.
            body: the JSON.

        Returns:
            The body of the answer.
        """
        ...


async def ask_all(
    calls: Calls, asking: PromptSettings, prompts: Sequence[str]
) -> AsyncGenerator[Completion | Unanswered, None]:
    """Ask several prompts at once.

    Args:
        calls: of the endpoint.
        asking: model, form and parameters.
        prompts: short prompts.

    Yields:
        The answer or error of each prompt, in their order, as early as possible.
    """
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(prompt: str) -> Completion | Unanswered:
        async with turns:
            try:
                return await ask(calls, asking, prompt)
            except AsyncgenError as error:
                return Unanswered(prompt, asking.model, error)

    tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


async def ask(calls: Calls, asking: PromptSettings, prompt: str) -> Completion:
    """Ask one prompt.

    Args:
        calls: of the endpoint.
        asking: model, form and parameters.
        prompt: a short prompt.

    Returns:
        The answer.

    Raises:
        AsyncgenError: the server refuses or cannot be reached, or the answer has no text.
    """
    path = "/completions" if asking.form.format == "completion" else "/chat/completions"
    content = await calls.post_for_content(path, f"ask {asking.model}", request_body(asking, prompt))
    return _read(asking, prompt, content)


def request_body(asking: PromptSettings, prompt: str) -> dict[str, Any]:
    """Build the request for one prompt.

    Args:
        asking: model, form and parameters.
        prompt: a short prompt; the separator is appended unless it is there.

    Returns:
        The JSON to POST.
    """
    form = asking.form
    body: dict[str, Any] = {"model": asking.model}
    if form.format == "completion":
        body |= {"prompt": prompt.removesuffix(form.separator) + form.separator, "max_tokens": _COMPLETION_TOKENS}
    else:
        system = [{"role": "system", "content": form.system}] if form.system else []
        body["messages"] = [*system, {"role": "user", "content": prompt}]
    if form.stop:
        body["stop"] = list(form.stop)
    return {**body, **asking.parameters}


def answer_limit(profile: Profile, form: PromptForm, tokens: int) -> dict[str, int]:
    """Name the parameter that limits an answer.

    Args:
        profile: of the provider.
        form: of the prompts.
        tokens: maximum tokens of an answer.

    Returns:
        The provider's name for it, and the limit.
    """
    return {"max_tokens" if form.format == "completion" else profile.max_tokens_name: tokens}


def _read(asking: PromptSettings, prompt: str, content: bytes) -> Completion:
    answer = read_reply(200, {}, content)
    if not isinstance(answer, Answer):
        what = "refused to answer" if answer.type == "refusal" else "returned no answer"
        raise AsyncgenError(
            f"{asking.model} {what}", cause=answer.message or None, help_text=answer.remedy, code=answer.type
        )
    text = answer.text.removeprefix(" ") if asking.form.format == "completion" else answer.text
    if not text:
        raise AsyncgenError(
            f"{asking.model} returned no text",
            cause="it called tools instead, which are not supported here",
            code="tool_calls",
        )
    return Completion(prompt, answer.model or asking.model, text, answer.finish_reason, answer.usage)
