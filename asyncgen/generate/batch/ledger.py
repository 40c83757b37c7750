"""The batches of a run, as `run.json` keeps them.

Owns every change of that list. Each is on the disk before the next call is made, so that a crash anywhere leaves a
state that can be gone on from. Does not know the provider's API.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from asyncgen.endpoint import Endpoint
from asyncgen.providers import LOCAL
from asyncgen.run_directory import Run
from asyncgen.run_state import FOUND_AGAIN, BatchState, RunState


def belongs_to(batch: BatchState, provider: str, base_url: str) -> bool:
    """Was the batch made at this endpoint? This machine's own server has another address each time.

    A batch that only its files tell of (`run.json` was lost, and made anew) may have been made at any.
    """
    if batch.status == FOUND_AGAIN:
        return True
    return batch.provider == provider and (batch.base_url == base_url or provider == LOCAL)


class BatchLedger:
    """The batches of a run that one endpoint knows.

    Args:
        run: locked by this process.
        endpoint: of the provider.
    """

    def __init__(self, run: Run, endpoint: Endpoint) -> None:
        self._run = run
        self._provider = endpoint.profile.name
        self._base_url = endpoint.base_url
        self._model = endpoint.model

    @property
    def open(self) -> list[BatchState]:
        """Batches at this endpoint that are not collected, the oldest first."""
        return [batch for batch in self._all_open() if belongs_to(batch, self._provider, self._base_url)]

    @property
    def elsewhere(self) -> list[BatchState]:
        """Batches that are not collected and wait at another endpoint."""
        return [batch for batch in self._all_open() if not belongs_to(batch, self._provider, self._base_url)]

    @property
    def is_under_way(self) -> bool:
        """Is one of them at the provider?"""
        return any(batch.batch_id for batch in self.open)

    def _all_open(self) -> Iterator[BatchState]:
        return (batch for batch in self._run.state.batches if not batch.collected)

    def add(self, intent: str, *, requests: int, held_usd: float, created: int) -> BatchState:
        """Note a batch whose files are written; nothing of it was sent yet.

        Raises:
            DiskError: it could not be noted.
        """
        batch = BatchState(
            intent=intent,
            provider=self._provider,
            base_url=self._base_url,
            model=self._model,
            requests=requests,
            created=created,
            held_usd=held_usd,
        )
        self._run.update(lambda state: msgspec.structs.replace(state, batches=[*state.batches, batch]))
        return batch

    def sent(self, batch: BatchState, batch_id: str, status: str) -> BatchState:
        """Note that a batch is at this endpoint, under this id; raises as `add`."""
        place = {"provider": self._provider, "base_url": self._base_url, "model": batch.model or self._model}
        return self.change(batch, batch_id=batch_id, status=status, **place)

    def change(self, batch: BatchState, **fields: Any) -> BatchState:
        """Note what became of a batch; raises as `add`."""
        return change_batch(self._run, batch.intent, **fields)


def change_batch(run: Run, intent: str, **fields: Any) -> BatchState:
    """Change the fields of one batch in `run.json`.

    Raises:
        DiskError: it could not be written.
    """

    def change(state: RunState) -> RunState:
        batches = [msgspec.structs.replace(each, **fields) if each.intent == intent else each for each in state.batches]
        return msgspec.structs.replace(state, batches=batches)

    changed = run.update(change)
    return next(each for each in changed.batches if each.intent == intent)
