from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncgen.serve.training.protocol import TrainingError
from asyncgen.serve.training.train import check_memory, installed_memory, memory_needed

from .tiny_models import TinyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncgen.serve.training.layers import Weights


def test_more_tuned_layers_need_more_until_all_are_tuned(open_model: Callable[..., Weights]) -> None:
    architecture = open_model(TinyModel()).architecture
    needed = [memory_needed(architecture, layers=layers, rank=4, threads=1) for layers in (1, 2, 3, 4)]
    assert needed[0] < needed[1] < needed[2] == needed[3]
    assert memory_needed(architecture, layers=3, rank=5, threads=1) > needed[2]
    assert memory_needed(architecture, layers=3, rank=4, threads=2) > needed[2]
    assert memory_needed(architecture, layers=3, rank=4, threads=1, sample_tokens=10) == needed[2] + 50


def test_a_model_that_does_not_fit_is_refused_with_both_figures() -> None:
    with pytest.raises(TrainingError, match=r"may need 30\.0 GiB of memory; the machine has 8\.0") as caught:
        check_memory(30 << 30, 8 << 30)
    assert (caught.value.code, caught.value.param) == ("out_of_memory", "model")
    assert "--lora-layers" in caught.value.sentence
    check_memory(8 << 30, 8 << 30)


def test_this_machine_has_some_memory() -> None:
    assert installed_memory() > 1 << 28
