"""Trainers of the user's own behind the fine-tuning API."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.errors import UsageError
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.simulation.engine import SimulationSettings
from asyncgen.serve.tuning.trainers import trainer_command
from tests.serve.training.test_peft import matrices, write_peft
from tests.serve.training.tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

DOCS = Path(__file__).parents[3] / "docs" / "trainer-protocol.md"
SAY = "import json, sys, time, os\ndef say(**m): print(json.dumps(m), flush=True)\n"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def served(
    start_server: Callable[[ServeSettings], ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI], tmp_path: Path
) -> Callable[..., openai.OpenAI]:
    """A client of a server whose trainer is this program."""

    def serve(program: str, **more: Any) -> openai.OpenAI:
        script = tmp_path / "train.py"
        script.write_text(program, encoding="utf-8")
        settings: dict[str, Any] = {"simulation": SimulationSettings(), "data_dir": tmp_path / "data"} | more
        return sdk(start_server(ServeSettings(trainer=(sys.executable, str(script)), **settings)))

    return serve


@pytest.fixture
def trained(ended: Callable[..., Any], chat_samples: Callable[[int], bytes]) -> Callable[..., Any]:
    """Create a job and wait for its end."""

    def train(client: openai.OpenAI, *, wait: bool = True, **more: Any) -> Any:
        file = client.files.create(file=("train.jsonl", chat_samples(12)), purpose="fine-tune").id
        asked: dict[str, Any] = {"model": "org/any-model", "training_file": file, "seed": 7, **more}
        job = client.fine_tuning.jobs.create(**asked)
        return ended(client, job.id) if wait else job

    return train


def test_example_of_the_documentation_trains(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], chat_samples: Callable[[int], bytes]
) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    client = served(program)
    job = trained(client, suffix="mine")
    assert (job.status, job.trained_tokens) == ("succeeded", 1000)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert "12 samples for org/any-model" in [event.message for event in events]
    steps = [event.data for event in events if event.type == "metrics"]
    assert [step["train_loss"] for step in reversed(steps)] == [3 / step for step in range(1, 11)]  # type: ignore[index]
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoint.step_number == 10
    table = client.files.content(job.result_files[0]).text.splitlines()
    assert len(table) == 11
    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO)
    assert caught.value.code == "model_not_served"
    assert "trainer/model" in caught.value.message


def test_command_gets_the_samples_and_the_job(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], chat_samples: Callable[[int], bytes]
) -> None:
    program = (
        SAY
        + """
folder = sys.argv[1]
found = {name: open(os.path.join(folder, name)).read() for name in sorted(os.listdir(folder))}
say(type="progress", message=json.dumps(found))
say(type="end")
"""
    )
    client = served(program)
    extra = client.files.create(file=("v.jsonl", chat_samples(3)), purpose="fine-tune").id
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    job = trained(client, validation_file=extra, suffix="mine", method=method)
    assert job.status == "succeeded"
    [found] = [
        json.loads(event.message)
        for event in client.fine_tuning.jobs.list_events(job.id, limit=100)
        if event.message.startswith("{")
    ]
    assert found["train.jsonl"] == chat_samples(12).decode()
    assert found["validation.jsonl"] == chat_samples(3).decode()
    assert json.loads(found["job.json"]) == {
        "model": "org/any-model",
        "suffix": "mine",
        "hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"},
        "seed": 7,
        "samples": 12,
    }


def test_model_of_another_server_answers_through_this_one(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], simulated_server: Callable[..., ServerInfo]
) -> None:
    other = simulated_server(seed=1)
    client = served(SAY + f'say(type="end", base_url={other.base_url!r}, model="their-name")')
    name = trained(client).fine_tuned_model
    answer = client.chat.completions.create(model=name, messages=HELLO)
    assert answer.model == "their-name"
    stream = client.chat.completions.create(model=name, messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("Simulated")
    assert client.completions.create(model=name, prompt="x").choices[0].text
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=name, messages=HELLO, temperature=9)
    assert caught.value.param == "temperature"


def test_model_whose_server_is_gone_says_so(served: Callable[..., openai.OpenAI], trained: Callable[..., Any]) -> None:
    client = served(SAY + 'say(type="end", base_url="http://127.0.0.1:9/v1", model="m")')
    name = trained(client).fine_tuned_model
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=name, messages=HELLO)
    assert caught.value.status_code == 503
    assert "127.0.0.1:9" in caught.value.message


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ('say(type="error", message="no GPU here")', "no GPU here"),
        ('print("Traceback: no module torch"); sys.exit(3)', "exit 3): Traceback: no module torch"),
        ('say(type="end", path="missing.gguf")', "missing.gguf"),
        ('print("x" * 3_000_000); say(type="nonsense"); sys.exit(0)', "ended unexpectedly (exit 0)"),
    ],
)
def test_failure_is_the_jobs_and_says_why(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], program: str, words: str
) -> None:
    client = served(SAY + program)
    job = trained(client)
    assert job.status == "failed"
    assert words in job.error.message


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


DEAF = (
    SAY
    + """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
say(type="step", step=1, total_steps=100, train_loss=1.0)
say(type="progress", message=f"pids {os.getpid()} {child.pid}")
time.sleep(600)
"""
)


def pids(client: openai.OpenAI, job: str) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job, limit=100)
    told = [event.message for event in events if event.message.startswith("pids ")]
    return [int(word) for word in told[0].split()[1:]] if told else []


def test_cancelling_ends_the_command_and_all_that_it_started_within_seconds(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], until: Callable[..., Any]
) -> None:
    client = served(DEAF)
    job = trained(client, wait=False)
    found = until(lambda: pids(client, job.id))
    began = time.monotonic()
    assert client.with_options(timeout=60).fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert time.monotonic() - began < 20
    assert not [pid for pid in found if alive(pid)]


def test_adapter_of_the_base_model_answers_afterwards(
    served: Callable[..., openai.OpenAI],
    trained: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    ended: Callable[..., Any],
    chat_samples: Callable[[int], bytes],
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
) -> None:
    own = sdk(start_server(ServeSettings(data_dir=tmp_path / "own", model_path=tiny_model, slots=1, threads=1)))
    file = own.files.create(file=("train.jsonl", chat_samples(12)), purpose="fine-tune").id
    assert ended(own, own.fine_tuning.jobs.create(model="tiny-llama", training_file=file).id).status == "succeeded"
    adapter = next((tmp_path / "own").glob("jobs/*/adapters/*.gguf"))
    client = served(SAY + f'say(type="end", path={str(adapter)!r})', simulation=None, model_path=tiny_model, slots=1)
    job = trained(client, model="tiny-llama")
    assert job.status == "succeeded", job.error
    assert client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO, max_tokens=4).choices
    client.models.delete(job.fine_tuned_model)
    assert adapter.exists(), "what the trainer made elsewhere is not ours to delete"


def test_trainer_is_a_name_or_a_command_that_is_there() -> None:
    assert trainer_command("numpy") is None
    assert trainer_command(f"{shlex.quote(sys.executable)} 'my train.py'") == (sys.executable, "my train.py")
    for text in ("no-such-command --x", "'", "", "  "):
        with pytest.raises(UsageError):
            trainer_command(text)


def test_command_and_all_that_it_started_end_with_the_server(until: Callable[..., Any]) -> None:
    """A server that was killed lets go of the pipe."""
    command = [sys.executable, "-m", "asyncgen.serve.tuning.child", sys.executable, "-c", DEAF]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        found = [int(word) for word in json.loads(process.stdout.readline())["message"].split()[1:]]
        assert all(map(alive, found))
        process.stdin.close()
        until(lambda: not any(map(alive, found)))


@pytest.mark.parametrize("fits", [True, False])
def test_peft_adapter_of_the_base_model_answers_afterwards_where_it_can_be_converted(
    served: Callable[..., openai.OpenAI], trained: Callable[..., Any], tiny_model: Path, tmp_path: Path, fits: bool
) -> None:
    numbers = {name: 0.5 * each for name, each in matrices(TinyModel()).items()}
    write_peft(tmp_path / "peft", numbers, config={"use_dora": not fits})
    program = SAY + f"say(type='checkpoint', step=3, path={str(tmp_path / 'peft')!r})\n"
    program += f"say(type='end', path={str(tmp_path / 'peft')!r})"
    client = served(program, simulation=None, model_path=tiny_model, slots=1, threads=1)
    job = trained(client, model="tiny-llama")
    assert job.status == "succeeded", job.error
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job.id).data
    if fits:
        assert f"Converted for llama.cpp: {tmp_path / 'peft'}" in told
        base, *tuned = (
            client.chat.completions.create(model=name, messages=HELLO, max_tokens=12, temperature=0)
            for name in ("tiny-llama", job.fine_tuned_model, checkpoint.fine_tuned_model_checkpoint)
        )
        texts = [answer.choices[0].message.content for answer in tuned]
        assert texts[0] == texts[1] != base.choices[0].message.content
    else:
        assert any("not served here" in message and "DoRA" in message for message in told)
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO)
        assert str(tmp_path / "peft") in caught.value.message
