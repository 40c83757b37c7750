"""What a run has used, kept while answers come.

Owns the sum over records. Does not know prices: it is given a function of them; nor when the sum is written.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.settled import key_number
from asyncgen.jsonl import read_rows
from asyncgen.records import Usage, decode_record
from asyncgen.run_state import Spend

if TYPE_CHECKING:
    from pathlib import Path


# (model as answers name it, tokens, bought in a batch) to USD; None where the price is not known.
CostOf = Callable[[str, Usage, bool], float | None]


class SpendCount:
    """A sum that only grows; `total` may be read by another thread.

    Args:
        before: what earlier invocations used.
        cost_of: the price of an answer.
        is_held: is a request, by the first 64 bits of its key, in a batch that is not collected?
    """

    def __init__(self, before: Spend, cost_of: CostOf, is_held: Callable[[int], bool]) -> None:
        self.total = before
        self._cost_of = cost_of
        self._is_held = is_held

    def add(self, model: str, usage: Usage, number: int, *, records: int = 1) -> None:
        """Count an answer, or with `records=0` what a request was charged for that has none.

        Args:
            model: as the answer names it.
            usage: of all attempts.
            number: the first 64 bits of the request's key.
            records: lines of `records.jsonl` that this is.
        """
        cost_usd = self._cost_of(model, usage, self._is_held(number))
        before = self.total
        self.total = Spend(
            usage=before.usage + usage,
            cost_usd=before.cost_usd + (cost_usd or 0.0),
            unpriced=before.unpriced + (cost_usd is None),
            unanswered_usd=before.unanswered_usd,
            records=before.records + records,
        )

    def add_unanswered(self, usd: float) -> None:
        """Count what attempts that brought no answer may have been charged at most."""
        self.total = msgspec.structs.replace(self.total, unanswered_usd=self.total.unanswered_usd + usd)

    def catch_up(self, path: Path, records: int) -> None:
        """Make the sum agree with the file: a crash may come between the writing of the two.

        Args:
            path: `records.jsonl`.
            records: how many stand there.

        Raises:
            BadLineError: a line that is not counted yet is no record.
            DiskError: the file cannot be read.
        """
        counted = min(self.total.records, records)  # a power loss may have taken lines that were counted
        self.total = msgspec.structs.replace(self.total, records=counted)
        if counted < records:
            for _, record in islice(read_rows(path, decode_record), counted, None):
                self.add(record.model, record.usage, key_number(record.key))
