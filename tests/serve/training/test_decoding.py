from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.decoding import decode
from asyncgen.serve.training.gguf import TENSOR_TYPES

from .tiny_models import BLOCK_SCALES, TYPE_NUMBERS, random_blocks


@pytest.mark.parametrize("kind", BLOCK_SCALES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4))
def test_blocks_become_the_numbers_that_the_gguf_package_makes_of_them(kind: str, seed: int, rows: int) -> None:
    data = random_blocks(kind, rows * 512, 1.0, np.random.default_rng(seed))
    expected = dequantize(np.frombuffer(data, np.uint8).reshape(rows, -1), GGMLQuantizationType[kind])
    assert np.array_equal(decode(data, TYPE_NUMBERS[kind], (rows, 512)), expected)


def test_many_blocks_are_decoded_as_few_are() -> None:
    """More than are expanded at a time."""
    data = random_blocks("Q4_1", 3 * (1 << 14) * 32, 1.0, np.random.default_rng(0))
    whole = decode(data, TYPE_NUMBERS["Q4_1"], (3, (1 << 14) * 32))
    third = len(data) // 3
    parts = [
        decode(data[start : start + third], TYPE_NUMBERS["Q4_1"], ((1 << 14) * 32,)) for start in (0, third, 2 * third)
    ]
    assert np.array_equal(whole, np.stack(parts))


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1))
def test_half_precision_is_exact(values: list[float]) -> None:
    data = np.array(values, "<f2").tobytes()
    assert decode(data, TYPE_NUMBERS["F16"], (len(values),)).tolist() == values


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_single_precision_is_exact_and_bfloat_is_its_upper_half(values: list[float]) -> None:
    single = np.array(values, "<f4")
    assert decode(single.tobytes(), TYPE_NUMBERS["F32"], single.shape).tolist() == values
    upper = (single.view("<u4") >> 16).astype("<u2")
    truncated = (single.view("<u4") & 0xFFFF0000).view("<f4")
    assert np.array_equal(decode(upper.tobytes(), TYPE_NUMBERS["BF16"], single.shape), truncated)


def test_every_type_that_is_listed_is_decoded() -> None:
    for number, kind in TENSOR_TYPES.items():
        assert decode(bytes(kind.size), number, (kind.elements,)).shape == (kind.elements,)
