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
    """Count the simulated records of a file, without decoding it.

    Args:
        path: a `records.jsonl`; a missing one has none.

    Returns:
        The number of simulated records.

    Raises:
        BadLineError: a line is longer than 64 MiB.
        DiskError: the file cannot be read.
    """
    return sum(block.count(SIMULATED_MARK) for _, block in read_blocks(path))


@dataclass(slots=True)
class SimulationCheck:
    """Counts simulated records that pass through, and stops at the first unless they are allowed.

    Attributes:
        allowed: whether simulated answers may be passed on, as in a rehearsal.
        found: simulated records so far.
    """

    allowed: bool
    found: int = 0

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """Pass records through.

        Args:
            records: any records.

        Yields:
            The same records.

        Raises:
            UsageError: a record is simulated, and that is not allowed (code `simulated`).
        """
        rest = iter(records)
        for record in rest:
            if record.simulated:
                self.found += 1
                if not self.allowed:
                    refuse_simulated(self.found + sum(each.simulated for each in rest), allowed=False)
            yield record


def refuse_simulated(made_up: int, *, allowed: bool) -> None:
    """Refuse to pass simulated answers on, unless that is allowed.

    Args:
        made_up: number of simulated answers.
        allowed: whether they may be passed on.

    Raises:
        UsageError: there are some, and it is not allowed (code `simulated`).
    """
    if made_up and not allowed:
        raise UsageError(
            f"{made_up:,} of these answers are simulated; a model cannot learn anything from them",
            help_text="generate them with a real server (the same command with another --base-url or --provider), or "
            "add --simulated to only test the stages",
            code="simulated",
        )
