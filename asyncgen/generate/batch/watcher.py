"""What is told to the person who waits for batches.

Owns the moments that are worth a word. Does not know how they are shown.
"""

from __future__ import annotations

from typing import Protocol

from asyncgen.generate.batch.join import Joined
from asyncgen.run_state import BatchState


class Watcher(Protocol):
    """Is told what happens to batches; must not raise."""

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        """So many bytes of its input were read, of so many."""
        ...

    def changed(self, batch: BatchState) -> None:
        """Its status or its counts are new."""
        ...

    def collected(self, batch: BatchState, joined: Joined) -> None:
        """Its answers are in the journal."""
        ...
