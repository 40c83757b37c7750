"""The files that a preparation of pairs leaves: their names and their bytes.

Owns the legacy tool's file names, its JSON (every slash escaped, non-ASCII as it is) and its split of a
classification. Files appear whole or not at all; a file that is there already is never touched.
"""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from asyncgen.dataset.pairs.shuffle import permutation
from asyncgen.run.whole_file import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncgen.dataset.pairs.table import Row

_SPLIT_SEED = 42
_MOST_VALIDATION_ROWS = 1000


def output_paths(source: Path, *, split: bool) -> tuple[Path, ...]:
    """The first names beside `source` that are all free: STEM_prepared.jsonl, STEM_prepared (1).jsonl, ..."""
    stem = source.with_suffix("")
    ends = ("_train", "_valid") if split else ("",)
    number = 0
    while True:
        count = f" ({number})" if number else ""
        paths = tuple(Path(f"{stem}_prepared{end}{count}.jsonl") for end in ends)
        if not any(path.exists() for path in paths):
            return paths
        number += 1


def encode(row: Row) -> bytes:
    """A row as the legacy tool's JSON line."""
    line = orjson.dumps({"prompt": row.prompt, "completion": row.completion})
    return line.replace(b"/", b"\\/") + b"\n"


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write all rows to one file.

    Raises:
        DiskError: the file could not be written; then there is none.
    """
    with replacing(path) as file:
        file.writelines(map(encode, rows))


def training_rows(count: int) -> int:
    """How many of `count` rows the legacy tool trains on: four fifths, and all but 1,000 of many."""
    return max(count - _MOST_VALIDATION_ROWS, int(count * 0.8))


def write_split(rows: Iterable[Row], count: int, train: Path, validation: Path) -> None:
    """Write the rows as training and validation files, chosen as the legacy tool chose them.

    Args:
        rows: `count` of them.
        count: how many rows there are.
        train: takes its rows in shuffled order.
        validation: takes the others in their own order.

    Raises:
        DiskError: a file could not be written.
    """
    order = permutation(count, _SPLIT_SEED)
    size = training_rows(count)
    with tempfile.TemporaryFile(dir=train.parent) as spool:
        begins = _spool(rows, spool)
        with replacing(validation) as valid_file, replacing(train) as train_file:
            _copy(spool, begins, order[:size], train_file)
            _copy(spool, begins, sorted(order[size:]), valid_file)


def _spool(rows: Iterable[Row], spool: IO[bytes]) -> array[int]:
    """Write every line; the answer has where each begins, and where the last ends."""
    begins = array("Q", [0])
    for row in rows:
        begins.append(begins[-1] + spool.write(encode(row)))
    return begins


def _copy(spool: IO[bytes], begins: array[int], places: Iterable[int], file: IO[bytes]) -> None:
    for place in places:
        spool.seek(begins[place])
        file.write(spool.read(begins[place + 1] - begins[place]))
