"""Answers that a simulation made up: count them, and keep them from passing for a model's.

Such a record is marked (`Record.simulated`). Everything that passes answers on, as a dataset, a file or a training,
checks here first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncgen.errors import UsageError
from asyncgen.run.jsonl import read_blocks
from asyncgen.run.records import SIMULATED_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from asyncgen.run.records import Record


def count_simulated(path: Path) -> int:
    """How many of the records in a file a simulation made up.

    Raises:
        BadLineError: a line is longer than any of ours.
        DiskError: the file cannot be read.
    """
    return sum(block.count(SIMULATED_MARK) for _, block in read_blocks(path))


@dataclass(slots=True)
class SimulationCheck:
    """Looks at records on their way to somebody else.

    Attributes:
        allowed: made-up answers are wanted: this is a rehearsal.
        found: made-up ones so far.
    """

    allowed: bool
    found: int = 0

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records, as they are; raises as `refuse_simulated` does when one was made up and is not wanted."""
        rest = iter(records)
        for record in rest:
            if record.simulated:
                self.found += 1
                if not self.allowed:
                    refuse_simulated(self.found + sum(each.simulated for each in rest), allowed=False)
            yield record


def refuse_simulated(made_up: int, *, allowed: bool) -> None:
    """See that made-up answers are handed on only where that is wanted.

    Args:
        made_up: how many of the answers are.
        allowed: they are wanted: this is a rehearsal.

    Raises:
        UsageError: with the code "simulated"; they are not wanted.
    """
    if made_up and not allowed:
        raise UsageError(
            f"a simulation made up {made_up:,} of these answers; a model that learns from them learns nothing",
            help_text="ask a real server for them (the same command as before, with another --base-url or --provider), "
            "or add --simulated, if this is a rehearsal",
            code="simulated",
        )
