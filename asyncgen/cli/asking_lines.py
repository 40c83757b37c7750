"""What models answered, for people and for machines.

Owns the look: a bare answer for one prompt, its prompt before it for several, columns for two models. Text from a
model passes `terminal.clean`.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.cli.output import say
from asyncgen.cli.progress import money
from asyncgen.finetune.complete import Completion, Unanswered
from asyncgen.terminal import clean

if TYPE_CHECKING:
    from asyncgen.cli.asking import Asked

_GAP = " │ "
_NARROWEST = 30


def lines(asked: Sequence[Asked], prompts: Sequence[str]) -> Iterator[str]:
    """The answers; tokens and cost go to stderr."""
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
        say(_used(each))
        if cut := sum(isinstance(answer, Completion) and answer.finish_reason == "length" for answer in each.answers):
            say(f"{each.model}: {cut:,} answers are cut off at the token limit: raise --max-tokens")


def _text(answer: Completion | Unanswered) -> str:
    if isinstance(answer, Completion):
        return answer.text.strip("\n")
    return f"(no answer: {answer.error.what})"


def _beside(asked: Sequence[Asked], answers: Sequence[Completion | Unanswered]) -> Iterator[str]:
    """Two answers in columns, or one under the other where the terminal is too narrow for that."""
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


def _used(asked: Asked) -> str:
    answers = [answer for answer in asked.answers if isinstance(answer, Completion)]
    tokens_in = sum(answer.usage.prompt_tokens for answer in answers)
    tokens_out = sum(answer.usage.completion_tokens for answer in answers)
    cost = "" if asked.cost_usd is None else f", {money(asked.cost_usd)}"
    return f"{asked.model}: {tokens_in:,} tokens in, {tokens_out:,} out{cost}"


def as_object(asked: Sequence[Asked]) -> dict[str, Any]:
    """The same for machines; texts as they came."""
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
