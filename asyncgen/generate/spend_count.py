"""What a run has used, kept while answers come.

Owns the sum over records. Does not know prices: it is given a function of them; nor when the sum is written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.settled import key_number
from asyncgen.jsonl import read_rows
from asyncgen.records import Usage, decode_record, sum_of
from asyncgen.run_state import Spend

if TYPE_CHECKING:
    from pathlib import Path

_SUMMED_AT_ONCE = 1000

# (model as answers name it, tokens, bought in a batch) to USD; None where the price is not known.
CostOf = Callable[[str, Usage, bool], float | None]


class SpendCount:
    """A sum that only grows; what it has come to may be asked for by another thread.

    Answers are only noted as they come, and summed up when somebody asks: that takes a third of the time.

    Args:
        before: what earlier invocations used.
        cost_of: the price of an answer.
        is_held: is a request, by the first 64 bits of its key, in a batch that is not collected?
    """

    def __init__(self, before: Spend, cost_of: CostOf, is_held: Callable[[int], bool]) -> None:
        self._before = before
        self._sum = before
        self._noted: deque[tuple[Usage, float | None, int]] = deque()
        self._summing = threading.Lock()
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
        self._noted.append((usage, self._cost_of(model, usage, self._is_held(number)), records))

    @property
    def total(self) -> Spend:
        """The sum over all invocations."""
        with self._summing:
            if noted := [self._noted.popleft() for _ in range(len(self._noted))]:
                self._sum = _plus(self._sum, noted)
            return self._sum

    @property
    def lately(self) -> Spend:
        """The sum of this invocation."""
        total, before = self.total, self._before
        return Spend(
            usage=total.usage - before.usage,
            cost_usd=total.cost_usd - before.cost_usd,
            unpriced=total.unpriced - before.unpriced,
            unanswered_usd=total.unanswered_usd - before.unanswered_usd,
            records=total.records - before.records,
        )

    def add_unanswered(self, usd: float) -> None:
        """Count what attempts that brought no answer may have been charged at most."""
        total = self.total
        self._sum = msgspec.structs.replace(total, unanswered_usd=total.unanswered_usd + usd)

    def catch_up(self, path: Path, records: int) -> None:
        """Make the sum agree with the file: a crash may come between the writing of the two.

        Args:
            path: `records.jsonl`.
            records: how many stand there.

        Raises:
            BadLineError: a line that is not counted yet is no record.
            DiskError: the file cannot be read.
        """
        counted = min(self._sum.records, records)  # a power loss may have taken lines that were counted
        self._sum = msgspec.structs.replace(self._sum, records=counted)
        if counted < records:
            for _, record in islice(read_rows(path, decode_record), counted, None):
                self.add(record.model, record.usage, key_number(record.key))
                if len(self._noted) >= _SUMMED_AT_ONCE:
                    self._sum = self.total
        self._before = self.total


def _plus(before: Spend, noted: Sequence[tuple[Usage, float | None, int]]) -> Spend:
    usages, costs_usd, records = zip(*noted, strict=True)
    known_usd = [cost_usd for cost_usd in costs_usd if cost_usd is not None]
    return Spend(
        usage=sum_of([before.usage, *usages]),
        cost_usd=sum(known_usd, start=before.cost_usd),
        unpriced=before.unpriced + len(costs_usd) - len(known_usd),
        unanswered_usd=before.unanswered_usd,
        records=before.records + sum(records),
    )
