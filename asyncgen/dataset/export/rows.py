"""The records that are exported, in the order of the grid, however they came into the file.

Owns order and choice. Memory: sixteen bytes a record.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec

from asyncgen.dataset.line_index import indexed_lines
from asyncgen.dataset.select import is_stale
from asyncgen.json_text import decoder
from asyncgen.jsonl import read_rows
from asyncgen.records import decode_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.job.requests import RequestGrid
    from asyncgen.records import Record


class _Place(msgspec.Struct, gc=False):
    index: int


_decode_place = decoder(_Place)


def ordered_records(path: Path, grid: RequestGrid | None) -> Iterator[Record]:
    """Every record by its place in the grid; of the same place, the earlier one first.

    Args:
        path: of the records; lines that are appended meanwhile are left out.
        grid: records that it does not hold are left out; None takes all.

    Raises:
        BadLineError: a line is no record.
        DiskError: the file cannot be read.
    """
    places = array("q", (row.index for _, row in read_rows(path, _decode_place)))
    if not places:
        return
    with indexed_lines(path) as lines:
        for line in sorted(range(len(places)), key=places.__getitem__):
            record = decode_record(lines[line])
            if grid is None or not is_stale(record, grid):
                yield record
