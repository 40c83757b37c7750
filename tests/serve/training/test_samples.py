from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.serve.training.protocol import TrainingError
from asyncgen.serve.training.train import LONGEST, SampleFile, read_samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., SampleFile]:
    def read_lines(*lines: Any, **options: Any) -> SampleFile:
        path = tmp_path / "samples.jsonl"
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
        return read_samples(path, vocabulary=100, **({"param": "training_file"} | options))

    return read_lines


def line(tokens: list[Any], targets: list[Any]) -> dict[str, Any]:
    return {"tokens": tokens, "targets": targets}


def test_samples_are_read_in_their_order(read: Callable[..., SampleFile]) -> None:
    file = read(line([1, 2, 3], [0, 1, 1]), line([4, 5], [0, 1]))
    assert [sample.tokens.tolist() for sample in file.samples] == [[1, 2, 3], [4, 5]]
    assert [sample.target_count for sample in file.samples] == [2, 1]
    assert (file.cut, file.idle) == (0, 0)


def test_what_follows_the_last_target_is_not_computed(read: Callable[..., SampleFile]) -> None:
    file = read(line([1, 2, 3, 4, 5], [0, 1, 1, 0, 0]))
    assert file.samples[0].inputs.tolist() == [1, 2]


def test_the_first_token_cannot_be_learnt(read: Callable[..., SampleFile]) -> None:
    """Nothing stands before it."""
    assert read(line([1, 2, 3], [1, 0, 1])).samples[0].target_count == 1


def test_turns_between_targets_stay_in_the_sample(read: Callable[..., SampleFile]) -> None:
    (sample,) = read(line([1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 1])).samples
    assert sample.targets.tolist() == [False, True, False, False, True, True]


def test_a_long_sample_is_cut_at_its_end_and_counted(read: Callable[..., SampleFile]) -> None:
    file = read(line([1] * 1500, [0] + [1] * 1499), line([1] * LONGEST, [0] + [1] * (LONGEST - 1)))
    assert [len(sample.tokens) for sample in file.samples] == [1024, 1024]
    assert file.cut == 1


def test_a_model_for_short_texts_cuts_earlier(read: Callable[..., SampleFile]) -> None:
    assert len(read(line([1] * 50, [1] * 50), longest=20).samples[0].tokens) == 20


def test_samples_with_nothing_to_learn_are_counted_and_left_out(read: Callable[..., SampleFile]) -> None:
    """Of weight 0 throughout, or with all their targets behind the cut."""
    file = read(line([1, 2], [0, 0]), line([], []), line([1] * 2000, [0] * 1999 + [1]), line([1, 2], [0, 1]))
    assert (len(file.samples), file.idle, file.cut) == (1, 3, 1)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("{nonsense", "it is not JSON"),
        ("", "it is empty"),
        ([1, 2], "expected an object"),
        ({"tokens": [1]}, "'targets' is missing"),
        (line([1.5], [0]), "expected a whole number"),
        (line(["a"], [0]), "expected a whole number"),
        (line([1, 2], [0]), "2 tokens but 1 targets"),
        (line([1, 100], [0, 1]), "beyond the vocabulary of 100"),
        (line([-1, 2], [0, 1]), "beyond the vocabulary of 100"),
        (line([1 << 63, 2], [0, 1]), "beyond the vocabulary of 100"),
        (line([1, 2], [0, 2]), "targets are 0 or 1"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(read: Callable[..., SampleFile], bad: Any, cause: str) -> None:
    with pytest.raises(TrainingError, match="line 2 of the tokenised validation file is not a sample") as caught:
        read(line([1, 2], [0, 1]), bad, line([1, 2], [0, 1]), param="validation_file")
    assert cause in str(caught.value.cause)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read") as caught:
        read_samples(tmp_path / "absent", param="training_file", vocabulary=9)
    assert (caught.value.code, caught.value.cause) == ("invalid_training_file", "No such file or directory")
