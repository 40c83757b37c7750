"""The `Observer` of a generation: a command's screen, a notebook, or nobody.

Session and engines report, ask and get interrupted only through this protocol. Printing, questions and signals are left
to its implementations in the command line (`cli/screen.py`) and the Python API (`api/observer.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from asyncgen.generate.batch.send import Watcher  # imports the SDK, which costs a second
    from asyncgen.generate.pool.progress import Progress


@dataclass
class Interrupt:
    """Requests to stop a running generation.

    Attributes:
        stop: set it to drain.
        abandon: set it to abandon the requests in flight.
        exit_code: exit code of the process after a signal; None if there was none.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    abandon: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None


class Observer(Protocol):
    """Gets reports, gives consent, and interrupts."""

    @property
    def agrees_to_all(self) -> bool:
        """True if every question is answered yes in advance (--yes, or `yes=True`)."""

    @property
    def resume_command(self) -> str:
        """The command that resumes a stopped run; "" if there is none."""

    def say(self, text: str) -> None:
        """Report something.

        Args:
            text: one line, for the user.
        """

    def agree(self, question: str, *, why: str, notice: str = "") -> None:
        """Ask for consent before money is spent or rows become stale.

        Args:
            question: a question to answer with yes or no.
            why: the reason, for the error if nobody can be asked.
            notice: reported with the question, or where it is answered in advance; not where the error says it.

        Raises:
            UsageError: the answer is no (code `declined`), or nobody can be asked (code `needs_yes`).
        """

    def offer(self, question: str) -> bool | None:
        """Ask whether to do something optional.

        Args:
            question: a question to answer with yes or no.

        Returns:
            The answer; None if nobody can be asked.
        """

    def interruptible(self, on_first: Callable[[], None]) -> AbstractAsyncContextManager[Interrupt]:
        """Listen for interruptions during the block.

        Args:
            on_first: called at the first one, to say what happens now.

        Returns:
            A context manager that yields the interrupt.
        """

    def watching(self, progress: Progress, spent: Callable[[], str]) -> AbstractAsyncContextManager[None]:
        """Show the counts of online requests during the block.

        Args:
            progress: updated by the pool.
            spent: returns tokens and USD so far as a text.

        Returns:
            A context manager.
        """

    def watching_batches(self, progress: Progress) -> AbstractContextManager[Watcher]:
        """Show batches during the block.

        Args:
            progress: the counts of collected answers.

        Returns:
            A context manager that yields the watcher of the batches.
        """
