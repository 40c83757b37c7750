"""docs/tutorial.md, line by line: each step of the 2023 tutorial as it is here, against a local server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Asyncgen = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def asyncgen(tmp_path: Path, simulated_server: Any, request: pytest.FixtureRequest) -> Asyncgen:
    """Run a command in an empty folder whose provider is a simulated server; it must succeed.

    A parameter is the seconds that a training takes.
    """
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "ASYNCGEN_PROVIDER": "custom",
        "ASYNCGEN_BASE_URL": simulated_server(training_s=getattr(request, "param", None)).base_url,
        "ASYNCGEN_MODEL": "simulated",
        "ASYNCGEN_FINETUNE_MODEL": "simulated",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "asyncgen", *words], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    return run


def last(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout.splitlines()[-1])


def test_every_step_of_the_tutorial_is_a_command_here(asyncgen: Asyncgen, tmp_path: Path) -> None:
    # Three lists, a long prompt, a short prompt, three repeats.
    asyncgen("init", "campaign.toml", "--example", "campaign")
    planned = last(asyncgen("plan", "campaign.toml", "--json"))

    # The nested loops, and the CSV of prompt and completion.
    generated = last(asyncgen("generate", "campaign.toml", "--yes", "--json"))
    assert generated["done"] == planned["requests"]
    asyncgen("export", "-o", "out_openai_completion.csv", "--simulated")
    assert (tmp_path / "out_openai_completion.csv").read_text(encoding="utf-8").startswith("prompt,completion")

    # `openai tools fine_tunes.prepare_data`
    asyncgen("prepare", "out_openai_completion.csv", "--format", "completion", "--yes")
    prepared = tmp_path / "out_openai_completion_prepared.jsonl"
    sample = json.loads(prepared.read_text(encoding="utf-8").splitlines()[0])
    assert set(sample) == {"prompt", "completion"}

    # `fine_tunes.create` with a suffix, `follow`, `list`, the tuned model's answer, `delete`
    created = last(asyncgen("finetune", "create", str(prepared), "--suffix", "direct_marketing", "--yes", "--json"))
    assert "direct_marketing" in created["model"]
    assert last(asyncgen("finetune", "follow", created["job"], "--json"))["outcome"] == "succeeded"
    assert created["job"] in asyncgen("finetune", "list").stdout
    answer = asyncgen("complete", "Hotel, New York, small", "-m", created["model"], "--max-tokens", "100")
    assert answer.stdout.strip()
    asyncgen("finetune", "delete", created["model"], "--yes")


@pytest.mark.parametrize("asyncgen", [300.0], indirect=True)
def test_a_job_can_be_left_and_cancelled(asyncgen: Asyncgen, tmp_path: Path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(12)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    created = last(asyncgen("finetune", "create", "chats.jsonl", "--no-follow", "--yes", "--json"))
    asyncgen("finetune", "cancel", created["job"], "--yes")
    assert last(asyncgen("finetune", "show", created["job"], "--json"))["status"] == "cancelled"
