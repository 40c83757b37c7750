"""The side of every sample: train, validation or neither, in one byte a sample.

A group split by prompt: all samples of a prompt are on one side. If two combinations give the same prompt and their
sides differ, all its samples go to train; but samples that are held out stay so, with their prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asyncgen.dataset.split import Split

TRAIN, VALIDATION, HELD_OUT, DROPPED = range(4)


class SampleSides:
    """Collects the samples' sides; a sample is known by its number, in the order in which they were added.

    Attributes:
        codes: a byte a sample.
        prompts: different ones that validate, as far as `settle` was told of them.
        leaked: of these, the ones that are trained on.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.codes = bytearray()
        self.prompts = 0
        self.leaked = 0

    def add(self, variables: Mapping[str, str]) -> int:
        """Add a sample of this combination; its side as far as the combination decides it."""
        validates = self._split.validates(variables)
        code = (HELD_OUT if self._split.holds_out(variables) else VALIDATION) if validates else TRAIN
        self.codes.append(code)
        return code

    def drop(self, number: int) -> None:
        """Leave a sample out."""
        self.codes[number] = DROPPED

    def settle(self, numbers: Iterable[int]) -> None:
        """Bring all samples of one prompt to one side.

        Args:
            numbers: of all samples that have this prompt.
        """
        codes = self.codes
        kept = [number for number in numbers if codes[number] != DROPPED]
        found = {codes[number] for number in kept}
        if len(found) > 1:
            side = HELD_OUT if HELD_OUT in found else TRAIN
            for number in kept:
                codes[number] = side
            found = {codes[number] for number in kept}
        if found and found != {TRAIN}:
            self.prompts += 1
            self.leaked += TRAIN in found
