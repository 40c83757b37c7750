"""`serve --trainer trl` for real: a tiny random model tuned by TRL on the CPU, through every command."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.cli.main import main
from asyncgen.dataset.export.train_with_trl import SCRIPT
from asyncgen.serve.server import ServeSettings
from tests.serve.training.test_peft import state_of
from tests.serve.training.tiny_models import CHATML, MARKS, TinyModel, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.providers.local_server import ServerInfo

pytestmark = [pytest.mark.trl, pytest.mark.slow, pytest.mark.timeout(600)]

# The model of the GGUF file as transformers has it.
MODEL = """
import json, sys
import numpy, torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
folder = sys.argv[1]
told = json.load(open(folder + ".json"))
names = told["tokens"]
made = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, [("\\u0120", "t")]))
made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
made.add_special_tokens([AddedToken(mark, special=True) for mark in told["marks"]])
fast = PreTrainedTokenizerFast(
    tokenizer_object=made, pad_token=told["marks"][0], bos_token=told["marks"][1], eos_token=told["marks"][2]
)
assert len(fast) == len(names)
fast.chat_template = told["template"]
fast.save_pretrained(folder)
model = LlamaForCausalLM(LlamaConfig(**told["config"]))
given = {name: torch.from_numpy(each.copy()) for name, each in numpy.load(folder + ".npz").items()}
assert not model.load_state_dict(given, strict=False)[1]
model.save_pretrained(folder)
"""


@pytest.fixture
def trl_python() -> str:
    python = os.environ.get("ASYNCGEN_TRL_PYTHON")
    if not python:
        pytest.skip("ASYNCGEN_TRL_PYTHON names no environment with trl and peft")
    return python


@pytest.fixture
def server(
    trl_python: str,
    start_server: Callable[[ServeSettings], ServerInfo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ServerInfo:
    """A server of the tiny model, which lies in the folder of its name as well, for transformers to load."""
    model = TinyModel()
    config = {
        "vocab_size": model.vocabulary, "hidden_size": model.width, "intermediate_size": model.hidden,
        "num_hidden_layers": model.blocks, "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_length, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    folder = tmp_path / "tiny-llama"
    told = {"tokens": tokens(), "marks": MARKS, "template": CHATML, "config": config}
    folder.with_suffix(".json").write_text(json.dumps(told))
    np.savez(folder.with_suffix(".npz"), **state_of(model))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    subprocess.run([trl_python, "-c", MODEL, str(folder)], check=True, timeout=300)
    settings = ServeSettings(
        data_dir=tmp_path / "data",
        model_path=model.write(tmp_path / "Tiny-Llama.F32.gguf"),
        slots=1,
        threads=1,
        trainer=(trl_python, str(SCRIPT)),
    )
    return start_server(settings)


@pytest.fixture
def command(server: ServerInfo, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command of the local provider; its stdout."""
    line = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yes yes yes"}]}
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(line)}\n" * 24)
    (tmp_path / "valid.jsonl").write_text(f"{json.dumps(line)}\n" * 4)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--provider", "local", "--base-url", server.base_url])
        shown = capfd.readouterr()
        assert ended.value.code == code, shown.err
        return shown.out.strip()

    return run


def test_a_job_goes_through_every_command_and_its_model_answers(command: Any, tmp_path: Path) -> None:
    chosen = ("--hyperparameter", "n_epochs=10", "--hyperparameter", "batch_size=8")
    faster = ("--hyperparameter", "learning_rate_multiplier=10")
    name = command(
        "finetune", "create", "train.jsonl", "--validation", "valid.jsonl", "--model", "tiny-llama", "-y",
        "--suffix", "yes", *chosen, *faster,
    )  # fmt: skip
    assert name.startswith("ft:tiny-llama:")
    [run] = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [event["data"]["train_loss"] for event in events if event.get("data", {}).get("train_loss") is not None]
    assert len(losses) >= 30
    assert losses[-1] < losses[0] / 2
    assert any("full validation loss" in event["message"] for event in events)
    command("finetune", "results", str(run))
    table = (run / "results.csv").read_text().splitlines()
    assert table[0].startswith("step,train_loss")
    assert [line.split(",")[0] for line in table[1:]] == [str(step) for step in range(1, 31)]
    checkpoints = json.loads(command("finetune", "checkpoints", str(run), "--json"))["checkpoints"]
    assert [each["step"] for each in checkpoints] == [*range(30, 0, -3)]
    answers = {model: command("complete", "x", "-m", model) for model in ("tiny-llama", name, checkpoints[0]["model"])}
    assert ["yes" in answer for answer in answers.values()] == [False, True, True]
    assert Path(command("finetune", "download", name, "-o", "out")).name == "adapter.gguf"


def test_a_job_is_cancelled_within_seconds(command: Any) -> None:
    job = command("finetune", "create", "train.jsonl", "--model", "tiny-llama", "-y", "--no-follow",
                  "--hyperparameter", "n_epochs=50", "--hyperparameter", "batch_size=1")  # fmt: skip
    deadline = time.monotonic() + 300
    while "Step " not in command("finetune", "events", job):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    began = time.monotonic()
    assert command("finetune", "cancel", job, "-y").endswith("cancelled")
    assert time.monotonic() - began < 30
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(SCRIPT).encode() in read(each)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
