"""What is looked at before the first request is sent: every stage of a run, and answers of different combinations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Here = Callable[..., Any]

JOB = """name = "mine"
[grid]
city = ["Paris", "Berlin"]
size = ["small", "large"]
[prompt]
user = "Write to {city}, {size}."
sample = "{size} {city}"
[generate]
model = "m"
repeats = 3
"""


def write(text: str = JOB) -> None:
    Path("job.toml").write_text(text, encoding="utf-8")


def nothing_was_sent() -> bool:
    return not Path("runs").exists()


def test_a_tuner_without_a_model_is_told_before_anything_is_paid(here: Here) -> None:
    write()
    done = here("run", "job.toml", "--provider", "custom", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
    assert done.code == 2
    assert "--finetune-model" in done.err
    assert nothing_was_sent()


def test_a_missing_key_of_the_tuner_is_told_before_anything_is_paid(here: Here) -> None:
    write()
    address = ("--provider", "custom", "--base-url", "http://127.0.0.1:9/v1")
    done = here("run", "job.toml", *address, "--finetune-provider", "nebius", "--yes")
    assert done.code == 4
    assert "NEBIUS_API_KEY" in done.err
    assert nothing_was_sent()


def test_everything_that_is_wrong_is_told_at_once(here: Here) -> None:
    write(JOB.replace("repeats = 3", "repeats = 1") + "[finetune.hyperparameters]\nn_epoch = 3\n")
    done = here("run", "job.toml", "--provider", "openai", "--finetune-provider", "nebius")
    assert done.code == 4
    for words in ("OPENAI_API_KEY", "at most 4 samples", "NEBIUS_API_KEY", "--yes"):
        assert words in done.err
    assert nothing_was_sent()


def test_a_misspelt_hyperparameter_is_told_before_anything_is_paid(here: Here) -> None:
    write(JOB + "[finetune.hyperparameters]\nn_epoch = 3\n")
    done = here("run", "job.toml", "--provider", "local", "--base-url", "http://127.0.0.1:9/v1")
    assert done.code == 2
    assert "n_epochs" in done.err
    assert nothing_was_sent()


def test_a_run_that_ends_before_tuning_needs_no_tuner(here: Here, simulated_server: Callable[..., Any]) -> None:
    write()
    address = ("--provider", "custom", "--base-url", simulated_server().base_url, "--model", "m")
    done = here("run", "job.toml", *address, "--until", "generate")
    assert done.code == 0, done.err
    assert "next: asyncgen prepare runs/mine" in done.err


def test_the_plan_shows_what_later_stages_miss(here: Here) -> None:
    write()
    done = here("plan", "job.toml", "--provider", "custom", "--base-url", "http://127.0.0.1:9/v1",
                "--finetune-provider", "nebius")  # fmt: skip
    assert done.code == 0, done.err
    assert "tune at nebius" in done.out or "at nebius (" in done.out
    assert "NEBIUS_API_KEY" in done.out


def test_a_preview_asks_for_different_combinations_and_shows_them_again_for_nothing(
    here: Here, simulated_server: Callable[..., Any]
) -> None:
    write()
    address = ("--base-url", simulated_server().base_url)
    first = here("preview", "job.toml", "-n", "3", *address)
    assert first.code == 0, first.err
    prompts = [line for line in first.out.splitlines() if line and not line.startswith(" ")]
    assert len(set(prompts)) == 3
    assert f"next: asyncgen generate job.toml --base-url {address[1]}" in first.err
    again = here("preview", "job.toml", "-n", "3", *address)
    assert again.out == first.out
    assert "0 new answers" in again.err
    figures = json.loads(here("preview", "job.toml", "-n", "3", *address, "--json").out.splitlines()[-1])
    assert len(figures["records"]) == 3
    assert figures["done"] == 3


@pytest.mark.parametrize(
    ("left", "step"), [(0, "next: asyncgen prepare runs/mine"), (5, "next: asyncgen generate job.toml")]
)
def test_generate_ends_with_the_next_step(
    here: Here, simulated_server: Callable[..., Any], left: int, step: str
) -> None:
    write()
    limit = ("--limit", str(12 - left)) if left else ()
    done = here("generate", "job.toml", "--base-url", simulated_server().base_url, *limit)
    assert done.code == 0, done.err
    assert step in done.err
