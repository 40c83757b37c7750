"""The server as clients of the command line start it: in the background, over a model, until nobody needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import openai

from asyncgen.serve.training.gguf import read_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "tiny-llama"


@contextmanager
def background_server(model: Path, folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    options = ("--port", "0", "--until-idle", "--json", "--threads", "1", "--slots", "2", *more)
    command = (
        sys.executable,
        "-m",
        "asyncgen",
        "serve",
        *options,
        "--model-path",
        str(model),
        "--data-dir",
        str(folder),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def client_of(info: dict[str, Any]) -> Iterator[openai.OpenAI]:
    """A client that is attached while the block runs."""
    url = info["base_url"].removesuffix("/v1") + "/asyncgen/attach"
    with (
        urllib.request.urlopen(url, timeout=20) as attached,
        openai.OpenAI(base_url=info["base_url"], api_key="none", max_retries=0) as client,
    ):
        assert attached.readline() == b"attached\n"
        yield client


def create_job(client: openai.OpenAI, samples: bytes, n_epochs: int) -> str:
    file = client.files.create(file=("train.jsonl", samples), purpose="fine-tune")
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs, "batch_size": 4}}}
    return client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method=method).id


def job_on_disk(folder: Path, identifier: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "jobs" / identifier / "job.json").read_bytes())
    return kept


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def children_of(pid: int) -> list[int]:
    found = subprocess.run(("ps", "-o", "pid=", "--ppid", str(pid)), capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_training_goes_on_without_its_client_and_then_the_server_ends(
    tiny_model: Path, tmp_path: Path, chat_samples: Any
) -> None:
    with background_server(tiny_model, tmp_path) as (process, info):
        with client_of(info) as client:
            identifier = create_job(client, chat_samples(60), n_epochs=20)
        assert process.wait(timeout=90) == 0
        assert job_on_disk(tmp_path, identifier)["job"]["status"] == "succeeded"
        assert not (tmp_path / "server.json").exists()


def test_killed_server_leaves_no_process_and_its_job_is_trained_by_the_next(
    tiny_model: Path, tmp_path: Path, chat_samples: Any, ended: Any, until: Any
) -> None:
    with background_server(tiny_model, tmp_path) as (process, info):
        with client_of(info) as client:
            identifier = create_job(client, chat_samples(200), n_epochs=50)
            until(lambda: client.fine_tuning.jobs.retrieve(identifier).estimated_finish)
            children = children_of(process.pid)
            assert len(children) == 2, "llama.cpp and the trainer"
            process.send_signal(signal.SIGKILL)
            process.wait()
        until(lambda: all(gone(pid) for pid in children))
    kept = job_on_disk(tmp_path, identifier)
    assert (kept["job"]["status"], kept["starts"]) == ("running", 1)
    with background_server(tiny_model, tmp_path) as (_, info), client_of(info) as client:
        assert client.fine_tuning.jobs.retrieve(identifier).status in {"queued", "running"}
        client.fine_tuning.jobs.cancel(identifier)
        told = [event.message for event in client.fine_tuning.jobs.list_events(identifier)]
        assert "The server was stopped; the training starts again" in told


def test_rank_and_layers_of_the_adapters_are_the_servers_settings(
    tiny_model: Path, tmp_path: Path, chat_samples: Any, ended: Any
) -> None:
    options = ("--lora-rank", "5", "--lora-layers", "2")
    with background_server(tiny_model, tmp_path, *options) as (_, info), client_of(info) as client:
        assert ended(client, create_job(client, chat_samples(10), n_epochs=1)).status == "succeeded"
    [path] = tmp_path.glob("jobs/*/adapters/*.gguf")
    adapter = read_gguf(path)
    assert {name.split(".")[1] for name in adapter.tensors} == {"1", "2"}, "of three blocks"
    assert adapter.tensors["blk.2.attn_q.weight.lora_a"].shape == (5, 64)
    assert adapter.metadata["adapter.lora.alpha"] == 10
