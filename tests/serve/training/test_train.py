from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asyncgen.serve.training.protocol import (
    Config,
    TrainedCheckpoint,
    TrainingEnded,
    TrainingError,
    TrainingProgress,
    TrainingStarted,
    TrainingStep,
)
from asyncgen.serve.training.train import train

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from asyncgen.serve.training.protocol import TrainerMessage

# Three prompts, each with its own answer; they share their first two tokens.
FACTS = [[1, 2, *prompt, *answer] for prompt, answer in (([10], [50, 51, 52]), ([11], [60, 61]), ([12, 13], [70]))]
FACT_TARGETS = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]


class Training:
    """Trains a tiny model in a folder, and keeps what was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.messages: list[TrainerMessage] = []

    def __call__(
        self,
        samples: Sequence[tuple[list[int], list[int]]],
        validation: Sequence[tuple[list[int], list[int]]] = (),
        model: TinyModel | None = None,
        **fields: Any,
    ) -> list[TrainerMessage]:
        self.messages = []
        chosen: dict[str, Any] = {"n_epochs": 2, "batch_size": 2, "layers": 2, "rank": 4} | fields
        config = Config(
            model=str((model or TinyModel()).write(self.folder / "tiny.gguf")),
            train=self._file("train.jsonl", samples),
            validation=self._file("validation.jsonl", validation) if validation else None,
            output_dir=str(self.folder / "out"),
            **chosen,
        )
        seconds = itertools.count()
        train(config, self.messages.append, lambda: float(next(seconds)))
        return self.messages

    def _file(self, name: str, samples: Sequence[tuple[list[int], list[int]]]) -> str:
        lines = (json.dumps({"tokens": tokens, "targets": targets}) for tokens, targets in samples)
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(self.folder / name)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def of(kind: type[Any], messages: list[TrainerMessage]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def random_samples(count: int, length: int = 8, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, length).tolist(), [0] * (length - 3) + [1] * 3) for _ in range(count)]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_what_is_seen_often_enough_is_learnt_by_heart(architecture: str, training: Training) -> None:
    model = TinyModel(architecture=architecture)
    samples = list(zip(FACTS, FACT_TARGETS, strict=True))
    messages = training(samples, samples, model, n_epochs=60, batch_size=3, learning_rate_multiplier=0.5, rank=8)
    first, last = of(TrainingStep, messages)[0], of(TrainedCheckpoint, messages)[-1]
    assert first.train_loss > 4
    assert last.full_valid_loss < 0.3
    assert last.full_valid_mean_token_accuracy == 1


def test_an_adapter_that_learnt_answers_greedily_in_llama_cpp(
    training: Training, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    samples = list(zip(FACTS, FACT_TARGETS, strict=True))
    training(samples, n_epochs=60, batch_size=3, learning_rate_multiplier=0.5, rank=8)
    server = llama_cpp(tmp_path / "tiny.gguf", tmp_path / "out" / "epoch-60.gguf")
    for tokens, targets in samples:
        for place in np.flatnonzero(targets):
            assert server.log_probabilities(tokens[:place], 260).argmax() == tokens[place]


def test_only_targets_are_learnt(training: Training) -> None:
    """With the answers' weights at 0, the loss on them does not fall."""
    pairs = [(FACTS[0], [0, 0, 0, 1, 0, 0])]
    whole = [(FACTS[0], FACT_TARGETS[0])]
    messages = training(pairs, whole, n_epochs=40, learning_rate_multiplier=0.5)
    assert of(TrainingStep, messages)[-1].train_loss < 0.3
    assert of(TrainedCheckpoint, messages)[-1].full_valid_loss > 2
    assert of(TrainedCheckpoint, messages)[-1].full_valid_mean_token_accuracy == pytest.approx(1 / 3)


def test_the_same_seed_gives_the_same_adapter_to_the_last_bit(training: Training, tmp_path: Path) -> None:
    adapters = []
    for seed in (5, 5, 6):
        training(random_samples(9), seed=seed, threads=2)
        adapters.append((tmp_path / "out" / "epoch-2.gguf").read_bytes())
    assert adapters[0] == adapters[1]
    assert adapters[0] != adapters[2]


def test_the_number_of_threads_changes_nothing_but_rounding(training: Training) -> None:
    losses = []
    for threads in (1, 2, 3):
        messages = training(random_samples(9), random_samples(4, seed=1), threads=threads)
        losses.append([step.train_loss for step in of(TrainingStep, messages)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


def test_tuning_more_layers_than_there_are_tunes_them_all(training: Training) -> None:
    first, second = (of(TrainingStep, training(random_samples(6), layers=layers)) for layers in (3, 99))
    assert [step.train_loss for step in first] == [step.train_loss for step in second]


def test_the_first_loss_is_the_base_models(training: Training) -> None:
    """However many layers are tuned: a new adapter changes nothing."""
    losses = [
        of(TrainingStep, training(random_samples(4), batch_size=4, layers=layers))[0].train_loss for layers in (1, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_batches_are_nearly_equal_in_size(training: Training) -> None:
    messages = training(random_samples(10), batch_size=4, n_epochs=1)
    tokens = [step.trained_tokens for step in of(TrainingStep, messages)]
    assert tokens == [32, 56, 80]  # 4, 3 and 3 samples of 8 tokens


def test_every_epoch_has_each_sample_once_in_an_order_of_its_own(training: Training) -> None:
    samples = [([1, 2, 3, number], [0, 0, 0, 1]) for number in range(6)]
    messages = training(samples, batch_size=1, n_epochs=2, learning_rate_multiplier=1e-9)
    losses = [round(step.train_loss, 4) for step in of(TrainingStep, messages)]
    assert sorted(losses[:6]) == sorted(losses[6:])
    assert losses[:6] != losses[6:]


def test_the_whole_validation_file_is_measured_after_each_epoch_and_a_part_between(training: Training) -> None:
    messages = training(random_samples(8), random_samples(20, seed=1), batch_size=1, n_epochs=2)

    def measured() -> list[int]:
        return [step.step for step in of(TrainingStep, messages) if step.valid_loss is not None]

    assert measured() == [3, 6, 9, 12, 15]
    assert all(checkpoint.full_valid_loss is not None for checkpoint in of(TrainedCheckpoint, messages))
    messages = training(random_samples(50), random_samples(20, seed=1), batch_size=1, n_epochs=1)
    assert measured() == [10, 20, 30, 40, 50]
    messages = training(random_samples(9), random_samples(20, seed=1), batch_size=1, n_epochs=1)
    assert measured() == list(range(1, 10)), "fewer than ten steps: at each"


def test_without_a_validation_file_nothing_is_measured(training: Training) -> None:
    messages = training(random_samples(4))
    assert all(step.valid_loss is None for step in of(TrainingStep, messages))
    assert all(checkpoint.full_valid_loss is None for checkpoint in of(TrainedCheckpoint, messages))


def test_a_checkpoints_training_loss_is_the_epochs_mean_over_targets(training: Training) -> None:
    samples = [([1, 2, 3, 4], [0, 0, 0, 1]), ([1, 2, 3, 5, 6, 7], [0, 0, 0, 1, 1, 1])]
    messages = training(samples, batch_size=1, n_epochs=1)
    counts = {4: 1, 6: 3}  # targets, by the sample's tokens
    steps, seen, total = of(TrainingStep, messages), 0, 0.0
    for step in steps:
        total += step.train_loss * counts[step.trained_tokens - seen]
        seen = step.trained_tokens
    assert of(TrainedCheckpoint, messages)[0].train_loss == pytest.approx(total / 4)


def test_long_samples_are_cut_and_the_idle_ones_told_of(training: Training) -> None:
    long = ([3] * 1500, [0] + [1] * 1499)
    idle = ([1, 2, 3], [0, 0, 0])
    messages = training([long, idle, *random_samples(3)], n_epochs=1, batch_size=2)
    start = of(TrainingStarted, messages)[0]
    assert (start.train_samples, start.cut_samples) == (4, 1)
    assert of(TrainingEnded, messages)[0].trained_tokens == 1024 + 3 * 8
    assert "1 sample has nothing to learn and will not be used" in [
        message.message for message in of(TrainingProgress, messages)
    ]


def test_samples_without_anything_to_learn_are_no_training(training: Training) -> None:
    with pytest.raises(TrainingError, match="no sample of the training file has a target to learn") as caught:
        training([([1, 2, 3], [0, 0, 0])])
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


def test_an_empty_validation_file_is_as_none(training: Training) -> None:
    messages = training(random_samples(3), [([1, 2], [0, 0])])
    assert of(TrainingStarted, messages)[0].validation_samples == 0
    assert of(TrainedCheckpoint, messages)[0].full_valid_loss is None


def test_progress_of_the_frozen_layers_is_told_before_the_first_step(training: Training) -> None:
    messages = training(random_samples(4), layers=1)
    kinds = [type(message) for message in messages]
    assert kinds.index(TrainingProgress) < kinds.index(TrainingStep)
    assert "frozen layers: 100 %" in of(TrainingProgress, messages)[-1].message


def test_seconds_are_counted_from_the_beginning(training: Training) -> None:
    messages = training(random_samples(4))
    seconds = [step.elapsed_s for step in of(TrainingStep, messages)] + [of(TrainingEnded, messages)[0].elapsed_s]
    assert seconds == [1, 2, 3, 4, 5]
