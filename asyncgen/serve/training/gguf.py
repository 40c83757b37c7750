"""Read GGUF files: the header, and the raw bytes of each tensor.

Versions 2 and 3, as the ggml project's `docs/gguf.md` describes them. Needs no numpy. Decoding is left to `layers`,
the meaning of tensors to `architecture`.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asyncgen.serve.training.protocol import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
ALIGNMENT = 32  # default alignment of the tensor data

# Numbers of the metadata's value types.
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    BOOL: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor's numbers are stored: in blocks of `elements` numbers, `size` bytes each."""

    name: str
    elements: int
    size: int


TENSOR_TYPES: Mapping[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    30: TensorType("BF16", 1, 2),
}

# Types that exist and are not read, so that a refusal can name them.
_OTHER_TYPES = {
    10: "Q2_K",
    11: "Q3_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


@dataclass(frozen=True, slots=True)
class ListLength:
    """Placeholder for a list in the metadata (mostly vocabularies), whose values are not needed."""

    length: int


Value = int | float | bool | str | ListLength


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in the header.

    Attributes:
        shape: rows first, as numpy has it (GGUF writes it the other way round).
        type: the number of its type, perhaps an unknown one.
        offset: bytes from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def type_name(self) -> str:
        known = TENSOR_TYPES.get(self.type)
        return known.name if known else _OTHER_TYPES.get(self.type, f"number {self.type}")

    @property
    def size(self) -> int:
        """Bytes in the file.

        Raises:
            TrainingError: its type is one that is not read.
        """
        known = TENSOR_TYPES.get(self.type)
        if known is None:
            raise TrainingError(
                f"the tensor {self.name} has the type {self.type_name}, which the trainer cannot read",
                code="unsupported_tensor_type",
                param="model",
                help_text="use a file of the types " + ", ".join(known.name for known in TENSOR_TYPES.values()),
            )
        return self.elements // known.elements * known.size


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a file.

    Attributes:
        values_end: bytes up to the end of the metadata, where the tensors' entries begin.
    """

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    values_end: int

    def data(self, tensor: Tensor) -> bytes:
        """The raw bytes of a tensor.

        Raises:
            TrainingError: its type is one that is not read.
        """
        with self.path.open("rb") as file:
            file.seek(tensor.offset)
            return file.read(tensor.size)


def read_gguf(path: Path) -> Gguf:
    """Read the header of a GGUF file, and check that all tensors of known types are there.

    Raises:
        TrainingError: no such file, no GGUF file, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file.fileno())
    except FileNotFoundError as error:
        raise TrainingError(f"there is no file {path}", code="model_not_found", param="model") from error
    except (OSError, _DamagedError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise TrainingError(
            f"{path} cannot be read as a model", code="invalid_gguf", param="model", cause=cause
        ) from error


class _DamagedError(Exception):
    """A damaged file; the message says what is wrong, without the file's name."""


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.place = 0

    def number(self, form: str) -> Any:
        size = struct.calcsize(form)
        return struct.unpack(form, self.read(size))[0]

    def read(self, size: int) -> bytes:
        self.skip(size)
        return self.data[self.place - size : self.place]

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise _DamagedError("it ends within its header")

    def text(self) -> str:
        try:
            return self.read(self.number("<Q")).decode()
        except UnicodeDecodeError as error:
            raise _DamagedError("a string in its header is not UTF-8") from error

    def value(self, kind: int) -> Value:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._list()
        form = SCALARS.get(kind)
        if form is None:
            raise _DamagedError(f"its header has a value of the unknown type {kind}")
        value: int | float | bool = self.number(form)
        return value

    def _list(self) -> ListLength:
        kind, length = self.number("<I"), self.number("<Q")
        if kind in SCALARS:
            self.skip(struct.calcsize(SCALARS[kind]) * length)
        elif kind == STRING:
            for _ in range(length):
                self.skip(self.number("<Q"))
        else:
            raise _DamagedError(f"its header has a list of the invalid type {kind}")
        return ListLength(length)


def _read(path: Path, descriptor: int) -> Gguf:
    if not os.fstat(descriptor).st_size:
        raise _DamagedError("it is empty")  # an empty file cannot be mapped
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        return _parse(path, data)


def _parse(path: Path, data: mmap.mmap) -> Gguf:
    cursor = _Cursor(data)
    if cursor.read(4) != MAGIC:
        raise _DamagedError("it does not begin like a GGUF file")
    version = cursor.number("<I")
    if version not in VERSIONS:
        raise _DamagedError(f"it is of GGUF version {version}; versions 2 and 3 are read, little-endian")
    tensor_count, value_count = cursor.number("<Q"), cursor.number("<Q")
    metadata = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("<I"))
    values_end = cursor.place
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _DamagedError(f"its alignment is {alignment!r}")
    start = -(-cursor.place // alignment) * alignment
    tensors = {entry.name: replace(entry, offset=start + entry.offset) for entry in entries}
    for tensor in tensors.values():
        _check_extent(tensor, len(data))
    return Gguf(path, metadata, tensors, values_end)


def _entry(cursor: _Cursor) -> Tensor:
    name = cursor.text()
    dimensions = cursor.number("<I")
    if not name.isprintable() or dimensions > _MOST_DIMENSIONS:
        raise _DamagedError(f"it has a tensor {name[:80]!r} of {dimensions} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
    return Tensor(name, shape, cursor.number("<I"), cursor.number("<Q"))


def _check_extent(tensor: Tensor, file_size: int) -> None:
    known = TENSOR_TYPES.get(tensor.type)
    if known is None:
        return  # an error only when its values are needed
    if not tensor.shape or tensor.shape[-1] % known.elements:
        raise _DamagedError(f"the tensor {tensor.name} of type {known.name} cannot have the shape {tensor.shape}")
    if tensor.offset + tensor.size > file_size:
        raise _DamagedError(f"it ends before the tensor {tensor.name}: perhaps its download was incomplete")
