"""The generating stage through the Batch API: sent, waited for, collected, or left to be collected later.

Owns what is said meanwhile, and what Ctrl-C does: it leaves, and the batches go on. Imports the SDK, which takes a
second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from asyncgen.cli.batch_display import watching
from asyncgen.cli.output import say
from asyncgen.cli.signals import interruptible
from asyncgen.endpoint import Endpoint
from asyncgen.errors import AsyncgenError, AuthError, DiskError, QuotaError
from asyncgen.generate.batch.api import BatchApi
from asyncgen.generate.batch.engine import open_engine
from asyncgen.generate.batch.ledger import BatchLedger
from asyncgen.generate.batch.send import Allowance
from asyncgen.generate.completer import StopReason
from asyncgen.generate.journal import Journal
from asyncgen.generate.progress import Progress
from asyncgen.generate.run import Outcome
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.of_run import OpenedJob
from asyncgen.openai_client import open_client
from asyncgen.run_directory import Run

_REASONS = ((AuthError, StopReason.AUTH), (QuotaError, StopReason.QUOTA), (DiskError, StopReason.IO))


async def generate_in_batches(
    endpoint: Endpoint,
    run: Run,
    opened: OpenedJob,
    journal: Journal,
    progress: Progress,
    *,
    allowance: Allowance,
    resume: str,
) -> tuple[Outcome, int]:
    """Send and collect batches until there are none; returns how it ended, and a signal's exit code or 0."""
    checks = AnswerChecks(opened.job.checks)
    if checks.attempts > 1:
        say("in a batch every row is asked once; after `prepare`, --retry-rejected asks again where an answer failed")
    for batch in BatchLedger(run, endpoint).elsewhere:
        say(f"{batch.requests:,} rows wait in a batch at {batch.provider or 'another provider'} ({batch.base_url})")
    with watching(progress) as watcher:
        async with interruptible(lambda: None) as interrupt, open_client(endpoint) as client:
            engine = open_engine(
                run,
                journal,
                opened.grid,
                endpoint,
                BatchApi(client),
                checks=checks,
                allowance=allowance,
                watcher=watcher,
            )
            outcome = await _until_done_or_left(engine.run(), interrupt.stop)
    if outcome.stopped is StopReason.INTERRUPTED:
        say(f"left; what was sent goes on at {endpoint.profile.title}. To come back, today or another day: {resume}")
        return outcome, interrupt.exit_code or 0
    if outcome == Outcome(None, None):
        # Every row has come to an outcome: those that are not counted have that of a row with the same request.
        progress.twins += max(progress.left - len(journal.held), 0)
    return outcome, 0


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
