"""The official SDK as a foreign client, and models to serve."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from asyncgen.serve.server import ServeSettings
from asyncgen.serve.simulation.engine import SimulationSettings

from .small_model import small_model_file
from .training.tiny_models import CHATML, TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from openai.types.fine_tuning import FineTuningJob

    from asyncgen.providers.local_server import ServerInfo

ENDED = {"succeeded", "failed", "cancelled"}


@pytest.fixture
def sdk() -> Iterator[Callable[[ServerInfo], openai.OpenAI]]:
    """A client for a server, without retries of its own."""
    clients: list[openai.OpenAI] = []

    def connect(server: ServerInfo) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(simulated_server: Callable[..., ServerInfo], sdk: Callable[[ServerInfo], openai.OpenAI]) -> openai.OpenAI:
    """A client of a simulated server in fair weather."""
    return sdk(simulated_server())


@pytest.fixture
def restarted(
    running: Callable[[ServeSettings], AbstractContextManager[ServerInfo]],
) -> Callable[[Path], AbstractContextManager[openai.OpenAI]]:
    """A client of a simulated server on a folder, for the time of a `with` block."""

    @contextmanager
    def restart(folder: Path) -> Iterator[openai.OpenAI]:
        settings = ServeSettings(data_dir=folder, simulation=SimulationSettings())
        with (
            running(settings) as server,
            openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        ):
            yield client

    return restart


@pytest.fixture
def chat_samples() -> Callable[[int], bytes]:
    """So many training lines."""

    def lines(count: int) -> bytes:
        rows = (
            {
                "messages": [
                    {"role": "user", "content": f"Shop {number}"},
                    {"role": "assistant", "content": "Open."},
                ]
            }
            for number in range(count)
        )
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    return lines


@pytest.fixture
def training_file(client: openai.OpenAI, chat_samples: Callable[[int], bytes]) -> str:
    """The id of a valid training file on `client`'s server."""
    return client.files.create(file=("train.jsonl", chat_samples(20)), purpose="fine-tune").id


@pytest.fixture
def ended() -> Callable[..., FineTuningJob]:
    """Wait until a fine-tuning job has ended."""

    def wait(client: openai.OpenAI, identifier: str, timeout_s: float = 60) -> FineTuningJob:
        deadline = time.monotonic() + timeout_s
        while (job := client.fine_tuning.jobs.retrieve(identifier)).status not in ENDED:
            assert time.monotonic() < deadline, f"still {job.status}"
            time.sleep(0.02)
        return job

    return wait


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a question is answered by something true, and return that."""

    def wait(question: Callable[[], Any], timeout_s: float = 20) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (answer := question()):
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.01)
        return answer

    return wait


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with random weights and a vocabulary of bytes: it answers nonsense, and can be tuned in a second."""
    return TinyModel().write(tmp_path_factory.mktemp("tiny") / "Tiny-Llama.F32.gguf")


@pytest.fixture
def make_tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Write another such file, of a given chat template, vocabulary or architecture."""

    def make(*, template: str = CHATML, vocabulary: Mapping[str, Any] | None = None, **fields: Any) -> Path:
        model = TinyModel(metadata={"tokenizer.chat_template": template, **(vocabulary or {})}, **fields)
        return model.write(tmp_path / "Tiny.F32.gguf")

    return make


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The small model's GGUF file."""
    return small_model_file(os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test the usual time from when its model is there: the one that comes first may have to fetch it."""
    for item in items:
        if item.get_closest_marker("model"):
            item.add_marker(pytest.mark.timeout(func_only=True))
