"""Near-duplicates among the answers of a run, fetched from its file when they are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncgen.dataset.line_index import indexed_lines
from asyncgen.json_text import decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncgen.dataset.near_duplicates import AnswersByPrompt, NearDuplicate


class _Answer(msgspec.Struct, gc=False):
    completion: str


_decode_answer = decoder(_Answer)


def similar_records(path: Path, answers: AnswersByPrompt) -> Iterator[NearDuplicate]:
    """The near-duplicates among `answers`, whose numbers are places in the records file `path`.

    Raises:
        DiskError: the file cannot be read.
    """
    if not answers:
        return
    with indexed_lines(path) as lines:
        yield from answers.find(lambda place: _decode_answer(lines[place]).completion)
