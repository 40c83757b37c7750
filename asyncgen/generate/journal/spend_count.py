"""The spend of a run: tokens and USD, summed while answers arrive.

Prices come as a function. When the sum is saved is left to `files`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from asyncgen.generate.journal.settled import key_number
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Usage, decode_record, sum_of
from asyncgen.run.state import Spend

if TYPE_CHECKING:
    from pathlib import Path


_SUMMED_AT_ONCE = 100

# (usages, in_batch) to USD for all of them; None for an unknown price.
CostOf = Callable[[Sequence[Usage], bool], float | None]


class SpendCount:
    """A running sum of tokens and USD; may be read from another thread.

    Usages are collected and summed 100 at a time, while they are still in the CPU cache.

    Args:
        before: the sum of earlier invocations.
        cost_of: USD for token counts.
    """

    def __init__(self, before: Spend, cost_of: CostOf) -> None:
        self._before = before
        self._sum = before
        # By (in_batch, is_record), without a tuple for each usage: `Usage` has gc=False, but the GC tracks tuples.
        kinds = product((False, True), (False, True))
        self._noted: dict[tuple[bool, bool], deque[Usage]] = {kind: deque() for kind in kinds}
        self._summing = threading.Lock()
        self._cost_of = cost_of

    def add(self, usages: Iterable[Usage], *, in_batch: bool, is_record: bool) -> None:
        """Add what requests were charged for.

        Args:
            usages: one for each request, over all its attempts.
            in_batch: charged at the batch price.
            is_record: the requests have answers, which are lines of `records.jsonl`.
        """
        noted = self._noted[in_batch, is_record]
        noted.extend(usages)
        if len(noted) >= _SUMMED_AT_ONCE:
            self._sum_up()

    @property
    def total(self) -> Spend:
        """The sum over all invocations."""
        return self._sum_up()

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
        """Add the most that attempts without an answer may have cost, in USD."""
        total = self.total
        self._sum = msgspec.structs.replace(total, unanswered_usd=total.unanswered_usd + usd)

    def catch_up(self, path: Path, records: int, is_held: Callable[[int], bool]) -> None:
        """Add records that a crash kept from being counted.

        Args:
            path: `records.jsonl`.
            records: number of its lines.
            is_held: whether a request, by the first 64 bits of its key, waits in a batch.

        Raises:
            BadLineError: an uncounted line is not a record.
            DiskError: the file cannot be read.
        """
        counted = min(self._sum.records, records)  # a power loss may have taken lines that were counted
        self._sum = msgspec.structs.replace(self._sum, records=counted)
        if counted < records:
            for _, record in islice(read_rows(path, decode_record), counted, None):
                self.add([record.usage], in_batch=is_held(key_number(record.key)), is_record=True)
        self._before = self.total

    def _sum_up(self) -> Spend:
        with self._summing:
            for (in_batch, is_record), noted in self._noted.items():
                if usages := [noted.popleft() for _ in range(len(noted))]:
                    try:
                        cost_usd, unpriced = self._cost_usd(usages, in_batch)
                    except BaseException:
                        noted.extendleft(reversed(usages))  # keep what is not priced yet
                        raise
                    self._sum = _plus(self._sum, usages, cost_usd, unpriced, is_record=is_record)
            return self._sum

    def _cost_usd(self, usages: Sequence[Usage], in_batch: bool) -> tuple[float, int]:
        """USD as the provider told it, else by price; and the number of usages that have neither."""
        untold = [usage for usage in usages if usage.cost_usd is UNSET]
        told_usd = sum(usage.cost_usd for usage in usages if usage.cost_usd is not UNSET)
        cost_usd = self._cost_of(untold, in_batch) if untold else 0.0
        return (told_usd, len(untold)) if cost_usd is None else (told_usd + cost_usd, 0)


def _plus(before: Spend, usages: Sequence[Usage], cost_usd: float, unpriced: int, *, is_record: bool) -> Spend:
    return Spend(
        usage=before.usage + sum_of(usages),
        cost_usd=before.cost_usd + cost_usd,
        unpriced=before.unpriced + unpriced,
        unanswered_usd=before.unanswered_usd,
        records=before.records + (len(usages) if is_record else 0),
    )
