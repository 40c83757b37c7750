"""Batches on disk: the API's object, and a folder each for the answers so far.

Running them is left to `batching`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from asyncgen.run.whole_file import explained
from asyncgen.serve.stores.shelf import Shelf, file_stem
from asyncgen.serve.wire import no_such

if TYPE_CHECKING:
    from pathlib import Path

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
BATCH_ENDED: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong in an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    data: list[BatchError]
    object: str = "list"


class ServedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the API shows it."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    object: str = "batch"
    status: BatchStatus = "validating"
    model: str | None = None
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: ServedCounts = ServedCounts()
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


class BatchStore:
    """The batches of a data folder.

    Args:
        folder: holds a folder a batch.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches = Shelf(
            folder,
            "*/batch.json",
            Batch,
            identify=lambda batch: batch.id,
            made_at=lambda batch: batch.created_at,
        )

    def folder(self, identifier: str) -> Path:
        return self._folder / file_stem(identifier)

    def all(self) -> list[Batch]:
        """Newest first."""
        return self._batches.newest_first()

    def get(self, identifier: str) -> Batch:
        """Raises ApiError: 404."""
        batch = self._batches.get(identifier)
        if batch is None:
            raise no_such("batch", identifier, param="batch_id")
        return batch

    def add(self, batch: Batch) -> None:
        folder = self.folder(batch.id)
        with explained(f"{folder} could not be made"):
            folder.mkdir()
        self._batches.put(batch)

    def change(self, identifier: str, **changes: Any) -> Batch:
        """Replace fields, on disk too."""
        batch = msgspec.structs.replace(self.get(identifier), **changes)
        self._batches.put(batch)
        return batch

    def count(self, identifier: str, counts: ServedCounts) -> None:
        """Note how far a batch is; not on disk, where the answers themselves tell it."""
        self._batches.replace_in_memory(msgspec.structs.replace(self.get(identifier), request_counts=counts))
