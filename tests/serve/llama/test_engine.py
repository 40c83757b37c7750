"""The whole server over llama.cpp and a tiny random model: served, tuned, served tuned."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.cli.main import main
from asyncgen.errors import AsyncgenError
from asyncgen.serve.llama.engine import ProcessSwitch
from asyncgen.serve.llama.process import LlamaProcess, LlamaSettings
from asyncgen.serve.server import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncgen.providers.local_server import ServerInfo

MODEL = "tiny-llama"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> ServeSettings:
    return ServeSettings(data_dir=tmp_path / "data", model_path=tiny_model, slots=4, threads=1)


@pytest.fixture
def llama(
    settings: ServeSettings, start_server: Callable[[ServeSettings], ServerInfo], sdk: Any
) -> Iterator[openai.OpenAI]:
    """A client of a server over the tiny model."""
    return sdk(start_server(settings))  # type: ignore[no-any-return]


def ask(client: openai.OpenAI, model: str = MODEL, **more: Any) -> Any:
    return client.chat.completions.create(
        **{"model": model, "messages": HELLO, "max_tokens": 8, "temperature": 0, **more}
    )


def tune(client: openai.OpenAI, ended: Any, content: bytes, **more: Any) -> Any:
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 10}}}
    job = client.fine_tuning.jobs.create(
        **{"model": MODEL, "training_file": file.id, "method": method, "seed": 1, **more}
    )
    return ended(client, job.id)


def children() -> list[int]:
    """Processes of this one's that run llama.cpp."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "asyncgen.serve.llama.child" in line]


def test_model_is_named_after_its_file_and_answers(llama: openai.OpenAI) -> None:
    assert [model.id for model in llama.models.list()] == [MODEL]
    answer = ask(llama)
    assert (answer.model, answer.system_fingerprint) == (MODEL, "llama.cpp")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


def test_temperature_0_gives_the_same_answer_streamed_or_not(llama: openai.OpenAI) -> None:
    opened: list[Any] = [*HELLO, {"role": "assistant", "content": "Well, "}]
    whole = ask(llama, messages=opened).choices[0].message.content
    *parts, answer_tokens = list(ask(llama, messages=opened, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
    assert parts[0].choices[0].delta.content == "Well, "
    assert whole.startswith("Well, ")
    assert answer_tokens.usage.completion_tokens == 8
    assert answer_tokens.usage.prompt_tokens > 8


def test_choices_of_one_seed_differ_and_come_again(llama: openai.OpenAI) -> None:
    first, second = (
        [choice.message.content for choice in ask(llama, n=3, seed=7, temperature=1).choices] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_bare_completion_is_answered(llama: openai.OpenAI) -> None:
    answer = llama.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=4, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_grammar_binds_the_answer(llama: openai.OpenAI) -> None:
    answer = ask(llama, max_tokens=20, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert answer.choices[0].message.content in {"yes", "no"}
    assert answer.choices[0].finish_reason == "stop"


def test_log_probabilities_are_given(llama: openai.OpenAI) -> None:
    answer = ask(llama, logprobs=True, top_logprobs=2, extra_body={"grammar": 'root ::= "yes"'})
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens).startswith("yes")
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400, "context_length_exceeded"),
        ({"extra_body": {"temprature": 1}}, 400, "unknown_parameter"),
        ({"extra_body": {"grammar": "nonsense ::="}}, 400, "invalid_value"),
    ],
)
def test_refusal_has_the_apis_code(llama: openai.OpenAI, more: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(llama, **more)
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_tuned_model_answers_otherwise_than_its_base(
    llama: openai.OpenAI, ended: Any, chat_samples: Callable[[int], bytes]
) -> None:
    before = ask(llama).choices[0].message.content
    job = tune(llama, ended, chat_samples(30), suffix="shop")
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model.startswith(f"ft:{MODEL}:local:shop:")
    assert job.trained_tokens > 0
    tuned = ask(llama, job.fine_tuned_model).choices[0].message.content
    assert tuned != before
    assert ask(llama).choices[0].message.content == before
    [checkpoint] = llama.fine_tuning.jobs.checkpoints.list(job.id).data
    llama.models.delete(job.fine_tuned_model)
    assert ask(llama, checkpoint.fine_tuned_model_checkpoint).choices[0].message.content == tuned
    steps = [event for event in llama.fine_tuning.jobs.list_events(job.id, limit=50).data if event.type == "metrics"]
    assert len(steps) == 3


def test_cached_prompts_of_one_model_are_not_continued_by_the_other(
    llama: openai.OpenAI, ended: Any, chat_samples: Callable[[int], bytes]
) -> None:
    name = tune(llama, ended, chat_samples(30)).fine_tuned_model
    prompts = [[{"role": "user", "content": f"{word} " * 20}] for word in ("one", "two", "three", "four", "five")]

    def answers(model: str) -> list[str]:
        return [ask(llama, model, messages=prompt).choices[0].message.content for prompt in prompts]

    base, tuned = answers(MODEL), answers(name)
    assert base != tuned
    for _ in range(2):
        assert answers(MODEL) == base
        assert answers(name) == tuned


def test_tuned_model_outlives_the_server(
    settings: ServeSettings, running: Any, sdk: Any, ended: Any, chat_samples: Callable[[int], bytes]
) -> None:
    with running(settings) as server:
        client = sdk(server)
        name = tune(client, ended, chat_samples(10)).fine_tuned_model
        tuned = ask(client, name).choices[0].message.content
    with running(settings) as server:
        client = sdk(server)
        assert ask(client, name).choices[0].message.content == tuned
        client.models.delete(name)
        with pytest.raises(openai.NotFoundError):
            ask(client, name)


def test_tuned_model_in_a_folder_named_from_where_one_stands_answers(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Any,
    ended: Any,
    chat_samples: Callable[[int], bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    client = sdk(start_server(ServeSettings(data_dir=Path("data"), model_path=tiny_model, slots=1, threads=1)))
    job = tune(client, ended, chat_samples(10))
    assert job.status == "succeeded", job.error
    assert ask(client, job.fine_tuned_model).choices[0].message.content is not None


def test_model_tuned_from_another_base_is_named_as_such(
    settings: ServeSettings, running: Any, sdk: Any, ended: Any, chat_samples: Callable[[int], bytes], tmp_path: Path
) -> None:
    with running(settings) as server:
        name = tune(sdk(server), ended, chat_samples(10)).fine_tuned_model
    assert settings.model_path is not None
    other = tmp_path / "other.gguf"
    other.symlink_to(settings.model_path)
    with running(ServeSettings(data_dir=settings.data_dir, model_path=other, slots=1, threads=1)) as server:
        client = sdk(server)
        assert [model.id for model in client.models.list()] == [server.model]
        with pytest.raises(openai.NotFoundError, match="--model-path"):
            ask(client, name)


def test_no_request_is_lost_while_an_adapter_is_loaded(
    llama: openai.OpenAI, ended: Any, chat_samples: Callable[[int], bytes]
) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        done = False

        def keep_asking() -> int:
            answers = 0
            while not done:
                assert ask(llama, max_tokens=4).choices[0].message.content is not None
                answers += 1
            return answers

        asking = [threads.submit(keep_asking) for _ in range(4)]
        job = tune(llama, ended, chat_samples(10))
        assert ask(llama, job.fine_tuned_model).choices[0].message.content is not None
        done = True
        assert job.status == "succeeded", job.error
        assert all(answer.result() > 0 for answer in asking)


def test_adapter_that_cannot_be_loaded_leaves_the_rest_alone(
    settings: ServeSettings, running: Any, sdk: Any, ended: Any, chat_samples: Callable[[int], bytes]
) -> None:
    with running(settings) as server:
        name = tune(sdk(server), ended, chat_samples(10)).fine_tuned_model
    assert settings.data_dir is not None
    for adapter in settings.data_dir.glob("jobs/*/adapters/*.gguf"):
        adapter.write_bytes(b"not an adapter")
    with running(settings) as server:
        client = sdk(server)
        with pytest.raises(openai.InternalServerError, match="cannot be loaded"):
            ask(client, name)
        assert ask(client).choices[0].message.content is not None


def test_cancelled_training_ends_its_process_within_two_seconds(
    llama: openai.OpenAI, chat_samples: Callable[[int], bytes], until: Any
) -> None:
    file = llama.files.create(file=("train.jsonl", chat_samples(200)), purpose="fine-tune")
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 1}}}
    job = llama.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method=method)
    until(lambda: llama.fine_tuning.jobs.retrieve(job.id).estimated_finish)
    ask(llama)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    given_way = {min(own + 10, 19)}
    until(lambda: {os.getpriority(os.PRIO_PROCESS, pid) for pid in children()} == given_way)
    began = time.monotonic()
    assert llama.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert time.monotonic() - began < 2
    trainers = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert f"{job.id}/config.json" not in trainers
    assert ask(llama).choices[0].message.content is not None
    until(lambda: {os.getpriority(os.PRIO_PROCESS, pid) for pid in children()} == {own})


def test_small_requests_start_no_process_beside_a_training_and_answers_do(tiny_model: Path) -> None:
    async def scenario() -> None:
        settings = LlamaSettings(model=tiny_model, slots=1, threads=2, training_threads=1, context=512)
        first = await LlamaProcess.start(settings, ())
        switch = ProcessSwitch(settings, first)
        try:
            switch.lower_priority()
            async with switch.any_process() as process:
                assert process is first
            async with switch.process_for(None) as process:
                assert process.settings.niceness > 0
            async with switch.any_process() as again:
                assert again is process
            await process.close()  # as if it had died
            async with switch.any_process() as again:
                assert again is not process
                assert again.is_alive
        finally:
            await switch.close()

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("own", [None, "infinite"])
def test_threads_of_llama_cpp_sleep_after_a_short_wait_unless_the_environment_says_otherwise(
    settings: ServeSettings, running: Any, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    before = set(children())
    with running(settings):
        [pid] = set(children()) - before
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"GOMP_SPINCOUNT={own or '3000'}".encode() in variables


def test_llama_cpp_that_dies_is_started_again(llama: openai.OpenAI, until: Any) -> None:
    before = ask(llama).choices[0].message.content
    for pid in children():
        os.kill(pid, signal.SIGKILL)

    def answer() -> str | None:
        try:
            return str(ask(llama).choices[0].message.content)
        except openai.InternalServerError:  # 503, for what it had in hand when it died
            return None

    assert until(answer) == before


def test_server_leaves_no_process_behind(settings: ServeSettings, running: Any) -> None:
    before = set(children())
    with running(settings):
        assert set(children()) - before
    assert set(children()) <= before


def test_file_that_is_no_model_is_an_error_with_the_way_out(
    settings: ServeSettings, running: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with (
        pytest.raises(AsyncgenError, match=r"cannot load .*x\.gguf") as caught,
        running(ServeSettings(data_dir=tmp_path / "data", model_path=path)),
    ):
        pass
    assert "--model-path" in (caught.value.help_text or "")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"method": {"type": "dpo"}}, "invalid_value"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "invalid_value"),
    ],
)
def test_what_cannot_be_trained_here_is_refused(
    llama: openai.OpenAI, ended: Any, chat_samples: Callable[[int], bytes], more: dict[str, Any], code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tune(llama, ended, chat_samples(10), **more)
    assert caught.value.code == code


def test_tuned_model_is_not_tuned_again(llama: openai.OpenAI, ended: Any, chat_samples: Callable[[int], bytes]) -> None:
    name = tune(llama, ended, chat_samples(10)).fine_tuned_model
    with pytest.raises(openai.BadRequestError) as caught:
        tune(llama, ended, chat_samples(10), model=name)
    assert caught.value.code == "model_not_available"


def test_batch_is_answered_by_the_model(llama: openai.OpenAI, until: Any) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 4}
    assert batch_of(llama, until, [body] * 8).request_counts.completed == 8


def test_rows_with_huge_numbers_or_deep_lists_leave_the_server_alone(llama: openai.OpenAI, until: Any) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 4}
    deep: Any = "yes"
    for _ in range(300):
        deep = [deep]
    counts = batch_of(llama, until, [body, {**body, "top_k": 10**30}, {**body, "logit_bias": deep}]).request_counts
    assert counts.completed + counts.failed == 3
    assert counts.completed >= 1
    assert ask(llama).choices[0].message.content is not None


def batch_of(client: openai.OpenAI, until: Any, bodies: list[dict[str, Any]]) -> Any:
    rows = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    file = client.files.create(file=("batch.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return until(lambda: (found := client.batches.retrieve(batch.id)).status == "completed" and found)


def test_bare_completions_have_their_own_form_of_probabilities_and_echo(llama: openai.OpenAI) -> None:
    answer = llama.completions.create(model=MODEL, prompt="Hello", max_tokens=4, logprobs=2, temperature=0).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.tokens is not None
    assert answer.logprobs.text_offset is not None
    assert len(answer.logprobs.tokens) == len(answer.logprobs.token_logprobs or ()) == 4
    echoed = llama.completions.create(model=MODEL, prompt="Hello", max_tokens=4, echo=True, temperature=0).choices[0]
    assert echoed.text == "Hello" + answer.text
    stream = llama.completions.create(model=MODEL, prompt="Hello", max_tokens=4, echo=True, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == echoed.text
    for limit in (0, 1):
        with pytest.raises(openai.BadRequestError) as caught:
            llama.completions.create(model=MODEL, prompt="Hello", max_tokens=limit, echo=True, logprobs=1)
        assert caught.value.param == "echo"


def test_no_answer_is_made_where_none_is_wanted(llama: openai.OpenAI) -> None:
    answer = llama.completions.create(model=MODEL, prompt="Hello", max_tokens=0, echo=True)
    assert answer.choices[0].text == "Hello"
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_more_messages_than_tokens_are_refused_before_the_template(llama: openai.OpenAI, *, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(llama, messages=[{"role": "user", "content": "x"}] * 4097, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "4,097 messages" in caught.value.message


def test_tools_and_their_results_go_through_the_template(llama: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    results: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "yes"},
    ]
    plain = ask(llama, tools=tools, tool_choice="none").usage.prompt_tokens
    assert ask(llama, messages=results, tools=tools, tool_choice="none").usage.prompt_tokens > plain


def test_tuned_model_is_downloaded_with_its_card_and_the_command_that_serves_it(
    settings: ServeSettings,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Any,
    ended: Any,
    chat_samples: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = start_server(settings)
    job = tune(sdk(server), ended, chat_samples(10))
    place = ["--provider", "local", "--base-url", server.base_url, "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as done:
        main(["finetune", "download", job.fine_tuned_model, *place])
    assert not done.value.code
    shown = capsys.readouterr()
    assert shown.out.strip() == str(tmp_path / "out" / "adapter.gguf")
    assert f"llama-server -m {settings.model_path} --lora {tmp_path}/out/adapter.gguf" in shown.err
    [kept] = (tmp_path / "data").glob("jobs/*/adapters/*.gguf")
    assert (tmp_path / "out" / "adapter.gguf").read_bytes() == kept.read_bytes()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert job.id in card
    assert "n_epochs | 1 |" in card
    with pytest.raises(SystemExit) as refused:
        main(["finetune", "download", MODEL, *place])
    assert refused.value.code == 1
    assert MODEL in capsys.readouterr().err
