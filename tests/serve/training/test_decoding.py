from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.training.gguf import TENSOR_TYPES
from asyncgen.serve.training.layers import decode

from .tiny_models import TYPE_NUMBERS


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
