"""Decode tensor bytes to numbers: plain floats, and the block formats of quantised models.

The layouts are those of ggml's `block_q4_0`, `block_q4_K` and so on: a block holds one or two 16-bit scales and a few
bits for each of its 32 or 256 numbers. In each layout the low half of a byte belongs to an earlier number than its high
half; the shapes in the functions below give the order of the numbers. Files are left to `gguf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from asyncgen.serve.training.gguf import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Records = npt.NDArray[np.void]

_BLOCKS_AT_A_TIME = 1 << 14  # bounds the intermediate arrays to some tens of MB


def decode(data: bytes, type_number: int, shape: tuple[int, ...]) -> Floats:
    """The numbers of a tensor.

    Args:
        data: all its bytes.
        type_number: one of `gguf.TENSOR_TYPES`.
        shape: rows first.
    """
    kind = TENSOR_TYPES[type_number]
    decoder = _PLAIN.get(kind.name)
    if decoder is not None:
        return decoder(data).reshape(shape)
    record, expand = _QUANTISED[kind.name]
    blocks = np.frombuffer(data, record)
    numbers = np.empty((len(blocks), kind.elements), np.float32)
    for start in range(0, len(blocks), _BLOCKS_AT_A_TIME):
        part = slice(start, start + _BLOCKS_AT_A_TIME)
        numbers[part] = expand(blocks[part]).reshape(-1, kind.elements)
    return numbers.reshape(shape)


def _float32(data: bytes) -> Floats:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _float16(data: bytes) -> Floats:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _bfloat16(data: bytes) -> Floats:
    """The upper half of a float32."""
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


def _scale(blocks: Records, field: str) -> Floats:
    return blocks[field].astype(np.float32)[:, None]


def _halves(packed: Bytes) -> Bytes:
    """Low halves of all bytes, then their high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: Records) -> Bytes:
    """Bit i of a 32-bit word is the fifth bit of number i."""
    return np.unpackbits(blocks["fifth"], axis=-1, bitorder="little") * np.uint8(16)


def _q4_0(blocks: Records) -> Floats:
    return _scale(blocks, "scale") * (_halves(blocks["bits"]).astype(np.float32) - 8)


def _q4_1(blocks: Records) -> Floats:
    return _scale(blocks, "scale") * _halves(blocks["bits"]) + _scale(blocks, "least")


def _q5_0(blocks: Records) -> Floats:
    bits = _halves(blocks["bits"]) | _fifth_bits(blocks)
    return _scale(blocks, "scale") * (bits.astype(np.float32) - 16)


def _q5_1(blocks: Records) -> Floats:
    bits = _halves(blocks["bits"]) | _fifth_bits(blocks)
    return _scale(blocks, "scale") * bits + _scale(blocks, "least")


def _q8_0(blocks: Records) -> Floats:
    numbers: Floats = _scale(blocks, "scale") * blocks["bits"]
    return numbers


def _scales_and_minima(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes.

    The first four of each stand in the low six bits of bytes 0-3 and 4-7. The last four have their low four bits
    in bytes 8-11 (scales low, minima high) and their upper two in the two bits left over in bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _eight_parts(blocks: Records, bits: Bytes) -> Floats:
    """Eight parts of 32 numbers, each with its own scale and minimum, both in units of the block's."""
    scales, minima = _scales_and_minima(blocks["scales"])
    scales *= _scale(blocks, "scale")
    minima *= _scale(blocks, "least")
    return scales[:, :, None] * bits - minima[:, :, None]


def _q4_k(blocks: Records) -> Floats:
    bits = _halves(blocks["bits"].reshape(-1, 4, 32))  # 32 bytes hold two parts
    return _eight_parts(blocks, bits.reshape(-1, 8, 32))


def _q5_k(blocks: Records) -> Floats:
    """As Q4_K; bit p of byte i of `fifth` is the fifth bit of number i of part p."""
    bits = _halves(blocks["bits"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    parts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = blocks["fifth"][:, None, :] >> parts & np.uint8(1)
    return _eight_parts(blocks, bits | fifth * np.uint8(16))


def _q6_k(blocks: Records) -> Floats:
    """Two halves of 128 numbers: four parts of 32, each with two scales.

    64 bytes hold the low four bits of a half (bytes 0-31: parts 0 and 2; bytes 32-63: parts 1 and 3); 32 bytes hold
    the upper two bits of all four parts.
    """
    low = _halves(blocks["bits"].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks["upper"].reshape(-1, 2, 1, 32) >> shifts & 3
    numbers = (low | high << 4).astype(np.float32) - 32
    scales = blocks["scales"] * _scale(blocks, "scale")
    return scales.reshape(-1, 16, 1) * numbers.reshape(-1, 16, 16)


_PLAIN: Mapping[str, Callable[[bytes], Floats]] = {"F32": _float32, "F16": _float16, "BF16": _bfloat16}

_SCALE, _LEAST = ("scale", "<f2"), ("least", "<f2")

_QUANTISED: Mapping[str, tuple[np.dtype[np.void], Callable[[Records], Floats]]] = {
    "Q4_0": (np.dtype([_SCALE, ("bits", "u1", 16)]), _q4_0),
    "Q4_1": (np.dtype([_SCALE, _LEAST, ("bits", "u1", 16)]), _q4_1),
    "Q5_0": (np.dtype([_SCALE, ("fifth", "u1", 4), ("bits", "u1", 16)]), _q5_0),
    "Q5_1": (np.dtype([_SCALE, _LEAST, ("fifth", "u1", 4), ("bits", "u1", 16)]), _q5_1),
    "Q8_0": (np.dtype([_SCALE, ("bits", "i1", 32)]), _q8_0),
    "Q4_K": (np.dtype([_SCALE, _LEAST, ("scales", "u1", 12), ("bits", "u1", 128)]), _q4_k),
    "Q5_K": (
        np.dtype([_SCALE, _LEAST, ("scales", "u1", 12), ("fifth", "u1", 32), ("bits", "u1", 128)]),
        _q5_k,
    ),
    "Q6_K": (
        np.dtype([("bits", "u1", 128), ("upper", "u1", 64), ("scales", "i1", 16), _SCALE]),
        _q6_k,
    ),
}
