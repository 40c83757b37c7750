"""The models of a data folder: entries and adapters come and go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncgen.serve.simulation.engine import SimulatedEngine, SimulationSettings
from asyncgen.serve.stores.models import ModelStore, ServedModel
from asyncgen.serve.wire import ApiError

if TYPE_CHECKING:
    from pathlib import Path


def store(root: Path) -> ModelStore:
    return ModelStore(root, SimulatedEngine(SimulationSettings(), created=0).traits)


def tuned(root: Path, name: str, job: str, adapter: str) -> ServedModel:
    (root / adapter).write_bytes(b"")
    return ServedModel(id=f"ft:m:{name}", created=0, base="simulated", adapter=adapter, job=job)


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    """Two models of one file, one of the same job, and one of another."""
    (tmp_path / "models").mkdir()
    models = store(tmp_path)
    for name, job, adapter in (("a", "1", "x"), ("b", "1", "y"), ("c", "1", "y"), ("d", "2", "z")):
        models.add(tuned(tmp_path, name, job, adapter))
    return models


def test_adapter_under_two_names_goes_with_the_second(models: ModelStore, tmp_path: Path) -> None:
    models.delete("ft:m:b")
    assert (tmp_path / "y").exists()
    models.delete("ft:m:c")
    assert not (tmp_path / "y").exists()


def test_forgotten_job_leaves_no_model_and_no_adapter(models: ModelStore, tmp_path: Path) -> None:
    models.forget("1")
    for found in (models, store(tmp_path)):
        assert [model.id for model in found.all()] == ["simulated", "ft:m:d"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "z"]
    with pytest.raises(ApiError):
        models.adapter("ft:m:a")
