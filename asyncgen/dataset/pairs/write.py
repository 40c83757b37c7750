"""Write the files of a preparation of pairs, with the legacy tool's names and bytes.

Its JSON (every slash escaped, non-ASCII unchanged) and its split of a classification, whose order is that of NumPy's
legacy generator (MT19937, `RandomState(seed).permutation`), without NumPy; facts: numpy/random/mtrand, unchanged by its
stream guarantee (NEP 19). Files appear whole or not at all; an existing file is never overwritten.
"""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from asyncgen.errors import AsyncgenError
from asyncgen.run.directory import output_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncgen.dataset.pairs.table import PairRow

_SPLIT_SEED = 42
_STATE_WORDS = 624
_MASK = 0xFFFFFFFF
_LONGEST_NAME = 255 - len("..4194304.tmp")  # bytes; a file is written under a longer name first
_MOST_VALIDATION_ROWS = 1000


def output_paths(source: Path, *, split: bool) -> tuple[Path, ...]:
    """The first names beside `source` that are all free: STEM_prepared.jsonl, STEM_prepared (1).jsonl, ...

    Raises:
        AsyncgenError: they would be longer than names of files may be.
    """
    number = 0
    while True:
        paths = _numbered(source, number, split=split)
        if max(len(os.fsencode(path.name)) for path in paths) > _LONGEST_NAME:
            raise AsyncgenError(
                f"the name of {source} is too long: the result's would be {paths[0].name}",
                help_text="rename a copy, and prepare that",
                code="bad_data",
            )
        if not any(os.path.lexists(path) for path in paths):
            return paths
        number += 1


def _numbered(source: Path, number: int, *, split: bool) -> tuple[Path, ...]:
    stem = source.with_suffix("")
    count = f" ({number})" if number else ""
    return tuple(Path(f"{stem}_prepared{end}{count}.jsonl") for end in (("_train", "_valid") if split else ("",)))


def taken_names(source: Path, paths: tuple[Path, ...]) -> str:
    """What is told where the results have a number in their names; "" where they have none."""
    usual = _numbered(source, 0, split=len(paths) > 1)
    if usual == paths:
        return ""
    there, written = (" and ".join(path.name for path in names) for names in (usual, paths))
    return f"{there} is there already and stays: this result is {written}"


def encode(row: PairRow) -> bytes:
    """A row as the legacy tool's JSON line."""
    line = orjson.dumps({"prompt": row.prompt, "completion": row.completion})
    return line.replace(b"/", b"\\/") + b"\n"


def write_rows(rows: Iterable[PairRow], path: Path) -> None:
    """Write all rows to one file.

    Raises:
        DiskError: the file could not be written; then there is none.
    """
    with output_file(path) as file:
        file.writelines(map(encode, rows))


def training_rows(count: int) -> int:
    """How many of `count` rows the legacy tool trains on: four fifths, and all but 1,000 of many."""
    return max(count - _MOST_VALIDATION_ROWS, int(count * 0.8))


def write_split(rows: Iterable[PairRow], count: int, train: Path, validation: Path) -> None:
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
        with output_file(validation) as valid_file, output_file(train) as train_file:
            _copy(spool, begins, order[:size], train_file)
            _copy(spool, begins, sorted(order[size:]), valid_file)


def _spool(rows: Iterable[PairRow], spool: IO[bytes]) -> array[int]:
    """Write every line; the answer has where each begins, and where the last ends."""
    begins = array("Q", [0])
    for row in rows:
        begins.append(begins[-1] + spool.write(encode(row)))
    return begins


def _copy(spool: IO[bytes], begins: array[int], places: Iterable[int], file: IO[bytes]) -> None:
    for place in places:
        spool.seek(begins[place])
        file.write(spool.read(begins[place + 1] - begins[place]))


def permutation(count: int, seed: int) -> list[int]:
    """The numbers 0 to count - 1 in the order of `numpy.random.RandomState(seed).permutation(count)`."""
    generator = random.Random()  # noqa: S311 - a reproducible split, not a secret
    generator.setstate((3, (*_initial_state(seed), _STATE_WORDS), None))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        bits = last.bit_length()
        while (chosen := generator.getrandbits(32) & ((1 << bits) - 1)) > last:
            pass
        order[last], order[chosen] = order[chosen], order[last]
    return order


def _initial_state(seed: int) -> list[int]:
    """MT19937's state for a seed of one word (Matsumoto and Nishimura, 2002)."""
    state = [seed & _MASK]
    for place in range(1, _STATE_WORDS):
        before = state[-1]
        state.append((1812433253 * (before ^ (before >> 30)) + place) & _MASK)
    return state
