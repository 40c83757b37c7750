from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.serve.training.protocol import TrainingError, read_config

if TYPE_CHECKING:
    from pathlib import Path

FIELDS: dict[str, Any] = {"model": "m", "train": "t", "output_dir": "o"}


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(FIELDS | fields), encoding="utf-8")
    return path


def test_all_fields_are_read(tmp_path: Path) -> None:
    fields = {
        "validation": None,
        "n_epochs": 3,
        "batch_size": "auto",
        "learning_rate_multiplier": 0.5,
        "seed": 7,
        "rank": 4,
        "alpha": 8,
        "layers": 2,
        "threads": 1,
    }
    config = read_config(write(tmp_path, **fields))
    assert {name: getattr(config, name) for name in fields} == fields
    assert (config.model, config.train, config.output_dir) == ("m", "t", "o")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"n_epochs": 0}, "n_epochs: "),
        ({"n_epochs": "many"}, "n_epochs: "),
        ({"batch_size": 1.5}, "batch_size: "),
        ({"learning_rate_multiplier": 0}, "learning_rate_multiplier: "),
        ({"seed": -1}, "seed: "),
        ({"threads": 0}, "threads: "),
        ({"model": None}, "model: "),
        ({"ranks": 3}, "`ranks`"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields: dict[str, Any], cause: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a valid training") as caught:
        read_config(write(tmp_path, **fields))
    assert cause in str(caught.value.cause)
    assert caught.value.code == "invalid_config"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"absent\.json cannot be read"):
        read_config(tmp_path / "absent.json")
