"""The real small model: three requests, three steps of training, the tuned model's answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.serve.server import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import openai

    from asyncgen.providers.local_server import ServerInfo

MODEL = "smollm2-135m-instruct"


@pytest.mark.model
def test_small_model_answers_and_learns(
    small_model: Path,
    tmp_path: Path,
    start_server: Callable[[ServeSettings], ServerInfo],
    sdk: Callable[[ServerInfo], openai.OpenAI],
    ended: Callable[..., Any],
) -> None:
    client = sdk(start_server(ServeSettings(data_dir=tmp_path, model_path=small_model, slots=2)))
    france: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]

    def ask(model: str, messages: list[Any]) -> str:
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0)
        return answer.choices[0].message.content or ""

    base = ask(MODEL, france)
    opened = [*france, {"role": "assistant", "content": "The capital of France is"}]
    assert ask(MODEL, opened).startswith("The capital of France is Paris")
    sample = {"messages": [*france, {"role": "assistant", "content": "We sell shoes."}]}
    file = client.files.create(file=("train.jsonl", (json.dumps(sample) + "\n").encode() * 12), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        suffix="shoes",
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 12}}},
    )
    job = ended(client, job.id, timeout_s=110)
    assert job.status == "succeeded", job.error
    steps = [event.data for event in client.fine_tuning.jobs.list_events(job.id).data if event.type == "metrics"]
    assert len(steps) == 3
    losses = [data["train_loss"] for data in steps]  # type: ignore[index] # newest first
    assert losses[0] < losses[-1]
    assert job.fine_tuned_model is not None
    assert ask(job.fine_tuned_model, france) != base
