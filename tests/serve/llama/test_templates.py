"""What is learnt is what is seen: samples of a real template and vocabulary, and llama.cpp asked for the same."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.serve.engine import ChatTurn, ModelCall
from asyncgen.serve.llama.process import LlamaProcess, LlamaSettings
from asyncgen.serve.llama.translate import Encoder, Tokens, path_of, request_of
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.tuning.samples import ChatSample, CompletionSample, Message

from .chat_templates import LLAMA3, MISTRAL, QWEN3, TINYLLAMA
from .vocabularies import SENTENCEPIECE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import openai

    from asyncgen.providers.local_server import ServerInfo

Turns = list[tuple[str, str]]

ONE_ANSWER: Turns = [("system", "Be short."), ("user", "Where?"), ("assistant", "Here.")]
TWO_ANSWERS: Turns = [*ONE_ANSWER, ("user", "When?"), ("assistant", "Now, at once.")]
LINE_END: Turns = [*TWO_ANSWERS[:2], ("assistant", "Here.\n"), *TWO_ANSWERS[3:]]
FORMS: dict[str, dict[str, Any]] = {
    "chatml": {},
    "qwen3": {"architecture": "qwen3", "template": QWEN3},
    "mistral": {"template": MISTRAL},
    "llama3": {"template": LLAMA3},
    "llama2": {"template": MISTRAL, "vocabulary": SENTENCEPIECE},
    "tinyllama": {"template": TINYLLAMA, "vocabulary": SENTENCEPIECE},
}


def with_llama_cpp(model: Path, scenario: Callable[[LlamaProcess], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = LlamaSettings(model=model, slots=1, threads=1, training_threads=1, context=2048)
        process = await LlamaProcess.start(settings, ())
        try:
            await scenario(process)
        finally:
            await process.close()

    return asyncio.run(run())


def parts_of(tokens: Tokens) -> list[tuple[list[int], list[int]]]:
    """Of each answer: all tokens before it, and those to be learnt."""
    flags = [*tokens.targets, 0]
    starts = [place for place, flag in enumerate(flags) if flag and not flags[place - 1]]
    ends = [flags.index(0, start) for start in starts]
    return [(tokens.tokens[:start], tokens.tokens[start:end]) for start, end in zip(starts, ends, strict=True)]


async def is_the_request(process: LlamaProcess, context: list[int], call: ModelCall) -> bool:
    """Whether llama.cpp, having read these tokens, finds nothing new in the call's prompt.

    It reads the last token again in any case.
    """
    await process.ask("/completion", {"prompt": context, "n_predict": 1})
    answer = await process.ask(path_of(call), request_of(call, (), 0))
    usage = answer["usage"]
    return bool(usage["prompt_tokens"] == len(context) == usage["prompt_tokens_details"]["cached_tokens"] + 1)


async def text_of(process: LlamaProcess, tokens: list[int]) -> str:
    """What an answer of these tokens says."""
    pieces = (await process.ask("/detokenize", {"tokens": tokens}))["content"]
    assert isinstance(pieces, str)
    return pieces


@pytest.mark.parametrize("turns", [ONE_ANSWER, TWO_ANSWERS, LINE_END], ids=["one answer", "two", "line end"])
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_learnt_behind_the_request_by_which_it_is_asked_for(
    make_tiny_model: Callable[..., Path], form: str, turns: Turns
) -> None:
    sample = ChatSample(messages=[Message(role=role, content=text) for role, text in turns])  # type: ignore[arg-type]
    asked = [place for place, (role, _) in enumerate(turns) if role == "assistant"]

    async def scenario(process: LlamaProcess) -> None:
        end = (await process.ask("/props", None))["eos_token"]
        encoded = await (await Encoder.for_model(process.ask)).encode(sample)
        parts = [part for tokens in encoded for part in parts_of(tokens)]
        assert len(parts) == len(asked)
        for place, (context, learnt) in zip(asked, parts, strict=True):
            call = ModelCall(model="tiny", messages=tuple(ChatTurn(*turn) for turn in turns[:place]), max_tokens=1)
            assert await is_the_request(process, context, call)
            assert await text_of(process, learnt) == turns[place][1] + end

    with_llama_cpp(make_tiny_model(**FORMS[form]), scenario)


@pytest.mark.parametrize("form", FORMS)
def test_a_completion_is_learnt_behind_its_prompt(make_tiny_model: Callable[..., Path], form: str) -> None:
    sample = CompletionSample(prompt="Hotel, small ->", completion=" Come and stay.\n")

    async def scenario(process: LlamaProcess) -> None:
        end = (await process.ask("/props", None))["eos_token"]
        [encoded] = await (await Encoder.for_model(process.ask)).encode(sample)
        [(context, learnt)] = parts_of(encoded)
        assert await is_the_request(process, context, ModelCall(model="tiny", prompt=sample.prompt, max_tokens=1))
        assert await text_of(process, learnt) == sample.completion + end

    with_llama_cpp(make_tiny_model(**FORMS[form]), scenario)


@pytest.mark.parametrize("form", ["qwen3", "mistral", "tinyllama"])
def test_a_tuned_model_answers_what_it_was_taught_and_ends(
    make_tiny_model: Callable[..., Path],
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
    ended: Callable[..., Any],
    tmp_path: Path,
    form: str,
) -> None:
    model = make_tiny_model(**FORMS[form])
    client = sdk(start_server(ServeSettings(data_dir=tmp_path / "data", model_path=model, slots=1, threads=1)))
    messages: list[Any] = [{"role": role, "content": text} for role, text in ONE_ANSWER]
    line = json.dumps({"messages": messages}).encode() + b"\n"
    file = client.files.create(file=("train.jsonl", line * 10), purpose="fine-tune")
    hyperparameters: Any = {"n_epochs": 50, "batch_size": 10, "learning_rate_multiplier": 0.3}
    job = client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file.id,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    job = ended(client, job.id)
    assert job.status == "succeeded", job.error
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=messages[:-1], max_tokens=40, temperature=0
    )
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (ONE_ANSWER[-1][1], "stop")
