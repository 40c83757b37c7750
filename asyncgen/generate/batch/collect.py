"""Answers of an ended batch into the journal.

Owns the order: downloaded whole, joined, safe on the disk, and only then noted as collected and its files removed.
Broken off anywhere, it is done again from the beginning, and nothing is doubled. Does not know when a batch ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncgen.generate.batch.api import BatchApi, RemoteBatch
from asyncgen.generate.batch.files import BatchFiles
from asyncgen.generate.batch.join import Joined, join
from asyncgen.generate.batch.ledger import change_batch
from asyncgen.generate.journal import Journal
from asyncgen.generate.spend import Budget
from asyncgen.job.checks import AnswerChecks
from asyncgen.run_directory import Run
from asyncgen.run_state import BatchState


class BatchCollector:
    """Collects batches.

    Args:
        run: locked by this process.
        journal: where rows end.
        api: of the provider.
        checks: answers are judged by.
        budget: gets back what was held; None where money is no matter.
        now: Unix seconds.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        api: BatchApi,
        *,
        checks: AnswerChecks,
        budget: Budget | None,
        now: Callable[[], float],
    ) -> None:
        self._run = run
        self._journal = journal
        self._api = api
        self._checks = checks
        self._budget = budget
        self._now = now

    async def collect(self, batch: BatchState, remote: RemoteBatch) -> Joined:
        """Download and keep whatever the batch answered; rows without an outcome are open again.

        Raises:
            GoneError: the provider keeps the answers no longer.
            AsyncgenError: they could not be downloaded.
            DiskError: they could not be kept.
        """
        files = BatchFiles(self._run.directory, batch.intent)
        for file_id, path in ((remote.output_file_id, files.output), (remote.error_file_id, files.errors)):
            if file_id and not path.exists():
                await self._api.download(remote.id, file_id, path)
        joined = await join(files, self._journal, self._checks, batch.model, now=int(self._now()))
        await asyncio.to_thread(self._journal.files.flush)
        self.let_go(batch, remote.status)
        return joined

    def let_go(self, batch: BatchState, status: str) -> None:
        """The batch is done with: its rows are held no longer."""
        if self._budget is not None:
            spend = self._journal.spend.total
            self._budget.release(batch.held_usd)
            self._budget.spent_usd = spend.cost_usd + spend.unanswered_usd
        release_batch(self._run, batch, status)
        self._journal.held.let_go(batch.intent)


def release_batch(run: Run, batch: BatchState, status: str) -> None:
    """Note that a batch is collected, and remove its files.

    Raises:
        DiskError: it could not be noted.
    """
    change_batch(run, batch.intent, status=status, collected=True, held_usd=0.0)
    BatchFiles(run.directory, batch.intent).remove()
