"""Pair answers for preference training: by axis values, or accepted against rejected answers of a combination.

Keeps 25 bytes a record. Writing the pairs is left to `samples`.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from itertools import zip_longest
from typing import TYPE_CHECKING

import orjson

from asyncgen.dataset.near_duplicates import AnswersByPrompt
from asyncgen.dataset.select import BY_HAND, CHECK, SCORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.job.model import DatasetSettings
    from asyncgen.run.records import Record

NO_PAIR = "no_pair"


class Role(IntEnum):
    """What an answer is in its pair."""

    CHOSEN = 0
    REJECTED = 1


class Pairing:
    """Collects answers with their roles, and then tells the pairs.

    Args:
        settings: the job's; where it names no values of axes, answers that pass all checks are chosen against such of
            the same combination as do not, or that a person rejected.
    """

    def __init__(self, settings: DatasetSettings) -> None:
        self._chosen = {name: str(value) for name, value in settings.chosen.items()}
        self._rejected = {name: str(value) for name, value in settings.rejected.items()}
        self._entries = AnswersByPrompt()
        self._places = array("Q")
        self._roles = bytearray()

    @property
    def by_values(self) -> bool:
        """Whether values of axes tell the roles."""
        return bool(self._chosen)

    def add(self, record: Record, reason: str | None, place: int) -> bool:
        """Note an answer; False where it can be in no pair.

        Args:
            record: as the job has it.
            reason: why it gives no sample; None where it gives one.
            place: by which it will be told.
        """
        role = self._role(record, reason)
        if role is None:
            return False
        self._entries.add(self._key(record), len(self._places))
        self._places.append(place)
        self._roles.append(role)
        return True

    def pairs(self) -> Iterator[tuple[int | None, int | None]]:
        """The places of the better and the worse answer of each pair; None where there is no partner."""
        for group in self._entries.groups():
            by_role: tuple[list[int], list[int]] = ([], [])
            for entry in group:
                by_role[self._roles[entry]].append(self._places[entry])
            yield from zip_longest(*by_role)

    def _role(self, record: Record, reason: str | None) -> Role | None:
        if not self.by_values:
            if reason is None:
                return Role.CHOSEN
            return Role.REJECTED if reason.startswith(CHECK) or reason in {SCORE, BY_HAND} else None
        if reason is not None:
            return None
        for role, wanted in ((Role.CHOSEN, self._chosen), (Role.REJECTED, self._rejected)):
            if all(record.variables.get(name) == value for name, value in wanted.items()):
                return role
        return None

    def _key(self, record: Record) -> str:
        if not self.by_values:
            return orjson.dumps(record.variables).decode()
        rest = {name: value for name, value in record.variables.items() if name not in self._chosen}
        return orjson.dumps([rest, record.repeat]).decode()
