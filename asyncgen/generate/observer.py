"""Who watches a generation, and may stop it: the screen of a command, a notebook, or nobody.

The session and its engines say what happens through this one protocol. They print nothing, ask nobody and handle no
signal themselves; the command line (`cli/screen.py`) and the Python API (`asyncgen/api.py`) each bring an observer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from asyncgen.generate.pool.progress import Progress

if TYPE_CHECKING:
    from asyncgen.generate.batch.send import Watcher  # imports the SDK, which costs a second


Result = TypeVar("Result")


@dataclass
class Interrupt:
    """What was asked of a generation under way.

    Attributes:
        stop: set it to take no more work and finish what is in flight.
        abandon: set it to drop what is in flight.
        exit_code: what the process ends with when a signal asked; None when none did.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    abandon: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None


class Observer(Protocol):
    """Is told what happens, gives consent, and interrupts."""

    @property
    def agrees_to_all(self) -> bool:
        """Whether every question was answered with yes beforehand (--yes, or `yes=True`)."""

    @property
    def resume_command(self) -> str:
        """What goes on where a stopped run stopped: the command line as it was given, or "" where there is none."""

    def say(self, text: str) -> None:
        """Take one line for a person."""

    def agree(self, question: str, *, why: str) -> None:
        """Give consent before money is spent or rows are left behind.

        Args:
            question: to be answered with yes or no.
            why: what makes it necessary, for the error where nobody can be asked.

        Raises:
            UsageError: the answer is no (code `declined`), or nobody can be asked (code `needs_yes`).
        """

    def offer(self, question: str) -> bool:
        """Ask whether something that may as well be left is wanted; False where nobody can be asked."""

    def interruptible(self, on_first: Callable[[], None]) -> AbstractAsyncContextManager[Interrupt]:
        """An interrupt that can be set while the block runs.

        Args:
            on_first: called when it is set for the first time, to say what happens now.
        """

    def watching(self, progress: Progress, spent: Callable[[], str]) -> AbstractAsyncContextManager[None]:
        """Show the counts of requests sent online while the block runs.

        Args:
            progress: raised by the pool as rows go.
            spent: tokens and money so far, in words.
        """

    def watching_batches(self, progress: Progress) -> AbstractContextManager[Watcher]:
        """Show batches while the block runs; `progress` gets the counts of what is collected."""


async def stoppable(work: Coroutine[Any, Any, Result], interrupt: Interrupt) -> Result | None:
    """Await the work; the first signal cancels it and waits for it to let go, the second does not wait.

    Returns None when it was cut short.
    """
    task = asyncio.ensure_future(work)
    for signalled in (interrupt.stop, interrupt.abandon):
        waiter = asyncio.ensure_future(signalled.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            return None if task.cancelled() else task.result()
        task.cancel()
    return None
