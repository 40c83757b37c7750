"""Ask a model for `asyncgen complete`, and show its answers to people and machines.

Finds the form of the prompt, the provider, one model or two, and the cost. Shows a bare answer for one prompt, answers
under their prompts for several, columns for two models. Text from a model passes `terminal.clean`. The request is left
to `finetune.complete`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import textwrap
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.cli.output import say
from asyncgen.errors import AsyncgenError, AuthError, QuotaError, nearest
from asyncgen.finetune.api import AbsentError
from asyncgen.finetune.complete import (
    Completion,
    PromptForm,
    PromptSettings,
    Unanswered,
    answer_limit,
    ask_all,
)
from asyncgen.finetune.openai_shape import JobPage
from asyncgen.finetune.target import form_for, open_calls, owner_of_model
from asyncgen.generate.http.completer import absence_error
from asyncgen.providers.choose import AUTO, EndpointFlags, choose_generation, open_endpoint
from asyncgen.providers.user_files import load_price_list
from asyncgen.terminal import clean, counted, one_line, usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from asyncgen.finetune.json_calls import JsonCalls
    from asyncgen.providers.endpoint import Endpoint
    from asyncgen.providers.price import Price
    from asyncgen.providers.profiles import ProviderChoice

_GAP = " │ "
_NARROWEST = 30
_MODELS_SHOWN = 8
_REASON_WIDTH = 120
_SHARED = (AbsentError, AuthError, QuotaError)  # these errors occur for all prompts alike


def lines(asked: Sequence[ModelAnswers], prompts: Sequence[str]) -> Iterator[str]:
    """Lines with the answers; tokens and cost go to stderr."""
    for place, prompt in enumerate(prompts):
        if len(prompts) > 1:
            yield f"> {clean(prompt)}"
        answers = [each.answers[place] for each in asked]
        if len(asked) > 1:
            yield from _beside(asked, answers)
        else:
            yield clean(_text(answers[0]))
        if len(prompts) > 1:
            yield ""
    for each in asked:
        if any(isinstance(answer, Completion) for answer in each.answers):
            say(_used(each))
        if cut := sum(isinstance(answer, Completion) and answer.finish_reason == "length" for answer in each.answers):
            say(
                f"{each.model}: {counted(cut, 'answer was', 'answers were')} cut off at the token limit; raise "
                "--max-tokens"
            )


def _text(answer: Completion | Unanswered) -> str:
    if isinstance(answer, Completion):
        return answer.text.strip("\n")
    error = answer.error
    return f"(no answer: {one_line(error.cause or error.what, _REASON_WIDTH)})"


def _beside(asked: Sequence[ModelAnswers], answers: Sequence[Completion | Unanswered]) -> Iterator[str]:
    """Two answers in columns; one below the other if the terminal is too narrow."""
    width = (shutil.get_terminal_size((100, 24)).columns - len(_GAP)) // len(asked)
    if width < _NARROWEST:
        for each, answer in zip(asked, answers, strict=True):
            yield f"{each.model}:"
            yield clean(_text(answer))
        return
    columns = [
        [each.model[:width], "─" * width, *_wrapped(_text(answer), width)]
        for each, answer in zip(asked, answers, strict=True)
    ]
    for cells in zip_longest(*columns, fillvalue=""):
        yield _GAP.join(cell.ljust(width) for cell in cells).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return [line for paragraph in clean(text).split("\n") for line in textwrap.wrap(paragraph, width) or [""]]


def _used(asked: ModelAnswers) -> str:
    answers = [answer for answer in asked.answers if isinstance(answer, Completion)]
    tokens_in = sum(answer.usage.prompt_tokens for answer in answers)
    tokens_out = sum(answer.usage.completion_tokens for answer in answers)
    cost = "" if asked.cost_usd is None else f", {usd(asked.cost_usd)}"
    if not tokens_in and not tokens_out:
        return f"{asked.model}: the server does not report token counts"
    return f"{asked.model}: {counted(tokens_in, 'token')} in, {tokens_out:,} out{cost}"


def as_object(asked: Sequence[ModelAnswers]) -> dict[str, Any]:
    """The answers as JSON, for `--json`; texts unchanged."""
    costs = [each.cost_usd for each in asked]
    return {
        "answers": [_answer_object(answer) for each in asked for answer in each.answers],
        "cost_usd": None if None in costs else sum(cost for cost in costs if cost is not None),
    }


def _answer_object(answer: Completion | Unanswered) -> dict[str, Any]:
    if isinstance(answer, Unanswered):
        error = {"code": answer.error.code, "message": answer.error.what, "cause": answer.error.cause}
        return {"model": answer.model, "prompt": answer.prompt, "error": error}
    return {
        "model": answer.model,
        "prompt": answer.prompt,
        "completion": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": msgspec.to_builtins(answer.usage),
    }


@dataclass(frozen=True, slots=True)
class Question:
    """The models to ask, and the form of the prompts.

    Attributes:
        models: one, or two to compare.
        form: that of the run's dataset; a plain chat if no run is known.
    """

    models: tuple[str, ...]
    choice: ProviderChoice
    where: EndpointFlags
    form: PromptForm

    @classmethod
    def of(
        cls, model: str, compared: str | None, where: EndpointFlags, run: Path | None, environment: Mapping[str, str]
    ) -> Question:
        """Find the run that tuned the model, and with it form and provider.

        Args:
            model: the model to ask.
            compared: a second model; None for none.
            where: the flags.
            run: the run that the user named; None to search for the one that tuned the model.
            environment: for the provider of a model that no run knows.

        Raises:
            UsageError: `run` is not a run, or has no dataset.
        """
        models = (model, compared) if compared else (model,)
        owner = owner_of_model(model, where, run)
        choice = owner.choice if owner else choose_generation(where, AUTO, environment)
        place = owner.where if owner else where
        return cls(models, choice, place, form_for(owner, run))


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """The answers of one model, in the order of the prompts.

    Attributes:
        cost_usd: cost of all answers; None for an unknown price.
    """

    model: str
    answers: list[Completion | Unanswered]
    cost_usd: float | None

    @property
    def errors(self) -> list[AsyncgenError]:
        """The errors of prompts without an answer."""
        return [answer.error for answer in self.answers if isinstance(answer, Unanswered)]


async def ask_models(
    question: Question, form: PromptForm, prompts: Sequence[str], parameters: Mapping[str, Any], max_tokens: int | None
) -> list[ModelAnswers]:
    """Ask each model every prompt.

    Args:
        question: the model and provider to ask.
        form: of the prompts.
        prompts: short ones.
        parameters: of the API.
        max_tokens: of an answer, under the name that the provider has for it.

    Raises:
        AsyncgenError: nothing could be asked; a prompt that fails is in the answer.
    """
    limit = answer_limit(question.choice.profile, form, max_tokens) if max_tokens else {}
    chosen = {**parameters, **limit}
    async with (
        open_endpoint(question.choice, question.where, question.models[0], say) as endpoint,
        open_calls(endpoint) as calls,
    ):
        askings = [PromptSettings(model, form, chosen) for model in question.models]
        gathered = await asyncio.gather(*(_all(calls, endpoint, asking, prompts) for asking in askings))
        prices = load_price_list(None, os.environ)
        return [
            ModelAnswers(model, answers, _cost(answers, prices.price(endpoint.profile.name, endpoint.base_url, model)))
            for model, answers in zip(question.models, gathered, strict=True)
        ]


async def _all(
    calls: JsonCalls, endpoint: Endpoint, asking: PromptSettings, prompts: Sequence[str]
) -> list[Completion | Unanswered]:
    """The answers to all prompts. Stops after the first one if its error would occur for all."""
    gathered: list[Completion | Unanswered] = []
    async with aclosing(ask_all(calls, asking, prompts)) as answers:
        async for answer in answers:
            if isinstance(answer, Unanswered) and not gathered and isinstance(answer.error, _SHARED):
                raise await _with_models(calls, endpoint, asking.model, answer.error)
            gathered.append(answer)
    return gathered


async def _with_models(calls: JsonCalls, endpoint: Endpoint, model: str, error: AsyncgenError) -> AsyncgenError:
    """The error; for a model or path that is not there, as `generate` has it, with the models that are there."""
    if not isinstance(error, AbsentError):
        return error
    absent = absence_error(endpoint, model, f"{error.code} {error.cause}", cause=error.cause)
    help_text = absent.help_text
    with suppress(AsyncgenError):
        page = await calls.get("/models", JobPage[dict[str, Any]], "list the models")
        names = [str(each.get("id")) for each in page.data]
        near = nearest(model, names)
        listed = ", ".join(names[:_MODELS_SHOWN]) + (", ..." if len(names) > _MODELS_SHOWN else "")
        help_text = f"{f'did you mean {near}? ' if near else ''}it has {listed}" if names else help_text
    return AuthError(absent.what, cause=absent.cause, help_text=help_text, code=absent.code)


def _cost(answers: list[Completion | Unanswered], price: Price | None) -> float | None:
    if price is None:
        return None
    return sum(price.cost_usd(answer.usage) for answer in answers if isinstance(answer, Completion))
