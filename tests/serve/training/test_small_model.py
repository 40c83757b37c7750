"""The real small model: three steps, and the adapter in llama.cpp."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training import describe
from asyncgen.serve.training.architecture import OUTPUT_NORM, read_architecture
from asyncgen.serve.training.gguf import Gguf, read_gguf
from asyncgen.serve.training.layers import Weights, rms_norm
from asyncgen.serve.training.lora import Adapter, new_adapter
from asyncgen.serve.training.model import Block, Rotations
from asyncgen.serve.training.packing import pack
from asyncgen.serve.training.protocol import Config, TrainedCheckpoint, TrainingStep
from asyncgen.serve.training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.serve.training.architecture import Architecture
    from asyncgen.serve.training.packing import TokenSample
    from asyncgen.serve.training.protocol import TrainerMessage

PROMPT = "<|im_start|>user\n{shop}<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "{shop} can take payments online from today.<|im_end|>"
SHOPS = ("Bakeries in Rome", "Hotels in Oslo", "Florists in Bern", "Cafes in Lyon", "Butchers in Cork", "Bars in Graz")


@pytest.mark.model
def test_the_small_model_can_be_tuned(small_model: Path) -> None:
    description = describe(small_model)
    assert (description.architecture, description.context, description.untunable) == ("llama", 8192, None)
    assert 134e6 < description.parameters < 135e6


@pytest.mark.model
def test_three_steps_lower_the_loss_and_llama_cpp_answers_as_we_do(
    small_model: Path, tmp_path: Path, llama_cpp: Callable[..., Any], sample: Callable[..., TokenSample]
) -> None:
    server = llama_cpp(small_model)
    texts = [(server.tokens(PROMPT.format(shop=shop)), server.tokens(ANSWER.format(shop=shop))) for shop in SHOPS]
    lines = [
        {"tokens": [*prompt, *answer], "targets": [0] * len(prompt) + [1] * len(answer)} for prompt, answer in texts
    ]
    data = tmp_path / "samples.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    messages: list[TrainerMessage] = []
    config = Config(
        model=str(small_model),
        train=str(data),
        validation=str(data),
        output_dir=str(tmp_path),
        n_epochs=3,
        batch_size=6,
        layers=4,
    )
    train(config, messages.append, time.monotonic)
    first = next(message for message in messages if isinstance(message, TrainingStep))
    last = [message for message in messages if isinstance(message, TrainedCheckpoint)][-1]
    assert first.train_loss < 6
    assert last.full_valid_loss is not None
    assert last.full_valid_loss < 0.8 * first.train_loss
    weights = Weights(read_gguf(small_model), read_architecture(read_gguf(small_model)))
    tuned = llama_cpp(small_model, tmp_path / "epoch-3.gguf")
    prompt, answer = texts[0]
    ours = log_probabilities(
        weights, adapter_in(tmp_path / "epoch-3.gguf", weights.architecture), prompt + answer, sample
    )
    for place in range(len(prompt), len(prompt) + len(answer), 2):
        theirs = tuned.log_probabilities((prompt + answer)[:place], weights.architecture.vocabulary)
        best = int(theirs.argmax())
        # llama.cpp quantises what it multiplies with a quantised matrix: near ties may fall the other way.
        assert ours[place - 1].max() - ours[place - 1][best] < 0.3
        assert abs(ours[place - 1][best] - theirs[best]) < 0.3


def adapter_in(path: Path, architecture: Architecture) -> Adapter:
    gguf: Gguf = read_gguf(path)
    adapter = new_adapter(architecture, blocks=range(26, 30), rank=16, alpha=32, rng=np.random.default_rng(0))
    for name, view in adapter.tensors.items():
        view[:] = np.frombuffer(gguf.data(gguf.tensors[name]), "<f4").reshape(view.shape)
    return adapter


def log_probabilities(
    weights: Weights, adapter: Adapter, tokens: list[int], sample: Callable[..., TokenSample]
) -> np.ndarray:
    row = pack([sample([*tokens, 0], [len(tokens)])], prefix=0)
    geometry = Rotations(weights).geometry(row)
    states = weights.tensor("token_embd.weight")[row.tokens]
    for index in range(weights.architecture.blocks):
        block = Block(index, weights.block(index), weights.architecture, adapter if index >= 26 else None)
        states, _ = block.forward(states, geometry)
    normed, _ = rms_norm(states, weights.tensor(OUTPUT_NORM), weights.architecture.norm_epsilon)
    logits = normed @ weights.output().T
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
