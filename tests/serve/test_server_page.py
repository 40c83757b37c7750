"""What docs/server.md says of the local server and of models to serve: the walk is walked, the figures are computed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.serve.llama.model_files import SMOLLM2
from asyncgen.serve.llama.process import LlamaSettings
from asyncgen.serve.server import ServeSettings
from asyncgen.serve.training.architecture import Architecture
from asyncgen.serve.training.train import memory_needed
from asyncgen.serve.tuning.work import _COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = (Path(__file__).parent.parent.parent / "docs" / "server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8093/v1"


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[str]:
    """`asyncgen serve`, and where it listens."""
    options = ("--port", "0", "--json", "--threads", "1", "--model-path", str(model), "--data-dir", str(folder))
    command = (sys.executable, "-m", "asyncgen", "serve", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["base_url"]
        finally:
            process.terminate()


def walk_from(base_url: str, folder: Path) -> list[str]:
    """The lines that the page's walk prints."""
    [script] = re.findall(r"```bash\n(api=.*?)```", PAGE, re.DOTALL)
    assert ADDRESS in script
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script.replace(ADDRESS, base_url).replace("sleep 2", "sleep 0.1")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_the_walk_with_curl_tunes_a_model_asks_it_and_clears_up(
    tiny_model: Path, tmp_path: Path, chat_samples: Callable[[int], bytes]
) -> None:
    file = tmp_path / "runs" / "direct-marketing" / "train.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(chat_samples(12))
    with serving(tiny_model, tmp_path / "data") as base_url:
        lines = walk_from(base_url, tmp_path)
    hello, events, checkpoints, answer, deleted, upload = (json.loads(line) for line in lines if line.startswith("{"))
    *pieces, end = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))
    assert hello["choices"][0]["message"]["content"] is not None
    assert "succeeded" in lines
    assert any(event["type"] == "metrics" for event in events["data"])
    assert checkpoints["data"][0]["object"] == "fine_tuning.job.checkpoint"
    assert ",".join(_COLUMNS) in lines
    assert answer["model"].startswith("ft:tiny-llama:local:curl:")
    assert {json.loads(piece)["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert end == "[DONE]"
    assert deleted == {"id": answer["model"], "object": "model", "deleted": True}
    assert (upload["object"], upload["deleted"]) == ("file", True)


def shaped(**lengths: Any) -> Architecture:
    unimportant: Any = {"norm_epsilon": 1e-5, "rope_base": 1e4, "rope_scale": 1.0, "context": 8192}
    return Architecture(head_length=64, **unimportant, **lengths)


@pytest.mark.parametrize(
    ("model", "architecture"),
    [
        (
            "SmolLM2-135M-Instruct",
            shaped(name="llama", blocks=30, width=576, hidden=1536, heads=9, kv_heads=3, vocabulary=49_152),
        ),
        (
            "SmolLM2-360M-Instruct",
            shaped(name="llama", blocks=32, width=960, hidden=2560, heads=15, kv_heads=5, vocabulary=49_152),
        ),
        (
            "Qwen2.5-0.5B-Instruct",
            shaped(name="qwen2", blocks=24, width=896, hidden=4864, heads=14, kv_heads=2, vocabulary=151_936),
        ),
    ],
    ids=["135M", "360M", "0.5B"],
)
def test_the_memory_that_a_training_needs_is_the_trainers_own_estimate(model: str, architecture: Architecture) -> None:
    row = re.search(rf"^\| {re.escape(model)} \|.*\| ([\d.]+) GB \|$", PAGE, re.MULTILINE)
    assert row is not None
    settings = LlamaSettings(Path(), slots=1, threads=1, training_threads=2)
    needed = memory_needed(
        architecture, layers=settings.lora_layers, rank=settings.lora_rank, threads=settings.training_threads
    )
    assert row[1] == f"{needed / 1e9:.2f}"


def test_the_file_that_is_fetched_is_in_the_table() -> None:
    assert f"`{SMOLLM2.filename}`" in PAGE


def test_the_context_that_slots_share_is_as_the_readme_says() -> None:
    context, slots = LlamaSettings(Path(), slots=1, threads=1, training_threads=1).context, ServeSettings().slots
    [row] = re.findall(r"^\| `--slots N` \|.*", PAGE, re.MULTILINE)
    assert f"{slots} by default" in row
    assert f"context of {context:,} tokens" in row
    assert f"with {slots} slots, a prompt and its answer can have {context // slots:,} tokens" in row
