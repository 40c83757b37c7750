"""Writes GGUF files: what a tuned adapter is kept in, or a whole model.

Owns the order of bytes in a file of version 3 and that a file appears whole or not at all. Does not know which
metadata a reader expects, nor how a tensor's bytes were made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncgen.serve.training.gguf import ALIGNMENT, ARRAY, BOOL, F32, I32, MAGIC, SCALARS, STRING, U32

Writable = bool | int | float | str | Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written.

    Attributes:
        shape: rows first, as numpy has it.
        type: its number in GGUF.
        data: its bytes, blocks and all.
    """

    shape: tuple[int, ...]
    type: int
    data: bytes


def write_gguf(path: Path, metadata: Mapping[str, Writable], tensors: Mapping[str, NewTensor]) -> None:
    """Write a file in one go: to a neighbouring file first, which then takes its name.

    All numbers are written in 32 bits; integers without a sign, in (non-empty) lists with one, as llama.cpp has them.

    Raises:
        OSError: it could not be written.
    """
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(_padded(_header(metadata, tensors)))
        for tensor in tensors.values():
            file.write(_padded(tensor.data))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _header(metadata: Mapping[str, Writable], tensors: Mapping[str, NewTensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_text(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        dimensions = len(tensor.shape)
        parts.append(_text(name) + struct.pack(f"<I{dimensions}Q", dimensions, *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += len(_padded(tensor.data))
    return b"".join(parts)


def _value(value: Writable) -> bytes:
    if isinstance(value, str | bool | int | float):
        kind = _kind(value)
        return struct.pack("<I", kind) + _bare(kind, value)
    kind = I32 if isinstance(value[0], int) else STRING
    elements = b"".join(_bare(kind, element) for element in value)
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + elements


def _kind(value: bool | float | str) -> int:
    kinds = ((bool, BOOL), (int, U32), (float, F32), (str, STRING))  # bool first: it is an int as well
    return next(kind for of, kind in kinds if isinstance(value, of))


def _bare(kind: int, value: bool | float | str) -> bytes:
    return _text(value) if isinstance(value, str) else struct.pack(SCALARS[kind], value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
