"""One generation through the Batch API: send, wait, collect, or leave the batches to be collected later.

An interruption ends the waiting only; the provider goes on with the batches. Importing this module imports the SDK,
which takes a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.generate.batch.api import BatchApi
from asyncgen.generate.batch.engine import open_batch_loop
from asyncgen.generate.batch.files import BatchLedger
from asyncgen.generate.batch.send import Allowance
from asyncgen.generate.engine import EngineResult
from asyncgen.generate.http.completer import StopReason
from asyncgen.generate.pool.pool import Outcome
from asyncgen.providers.openai_client import open_client

if TYPE_CHECKING:
    from asyncgen.generate.engine import Session

_REASONS = ((AuthError, StopReason.AUTH), (QuotaError, StopReason.QUOTA), (DiskError, StopReason.IO))


class BatchEngine:
    """All rows in batches, at half the price; answers within a day."""

    async def run(self, session: Session) -> EngineResult:
        """Send and collect batches until there are none."""
        observer, endpoint, journal, progress = session.observer, session.endpoint, session.journal, session.progress
        checks = session.checks
        if checks.attempts > 1:
            again = "after `prepare`, --retry-rejected asks again where an answer failed"
            observer.say(f"in a batch every row is asked once; {again}")
        for batch in BatchLedger(session.run, endpoint).elsewhere:
            at = f"{batch.provider or 'another provider'} ({batch.base_url})"
            observer.say(f"{batch.requests:,} rows wait in a batch at {at}")
        with observer.watching_batches(progress) as watcher:
            async with observer.interruptible(lambda: None) as interrupt, open_client(endpoint) as client:
                loop = open_batch_loop(
                    session.run,
                    journal,
                    session.opened.grid,
                    endpoint,
                    BatchApi(client),
                    checks=checks,
                    allowance=Allowance(rows=session.options.limit, budget=session.budget),
                    watcher=watcher,
                )
                outcome = await _until_done_or_left(loop.run(), interrupt.stop)
        if outcome.stopped is StopReason.INTERRUPTED:
            back = f" To come back, today or another day: {observer.resume_command}" if observer.resume_command else ""
            observer.say(f"left; what was sent goes on at {endpoint.place}.{back}")
            return EngineResult(outcome, interrupt.exit_code or 0)
        if outcome == Outcome(None, None):
            # Every row is settled: those not counted are duplicates of others.
            progress.twins += max(progress.left - len(journal.batched), 0)
        return EngineResult(outcome)


async def _until_done_or_left(work: Coroutine[Any, Any, Outcome], stop: asyncio.Event) -> Outcome:
    task = asyncio.create_task(work)
    left = asyncio.create_task(stop.wait())
    await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    try:
        return task.result()
    except asyncio.CancelledError:
        return Outcome(StopReason.INTERRUPTED, None)
    except AsyncgenError as error:
        return Outcome(next((reason for kind, reason in _REASONS if isinstance(error, kind)), None), error)
