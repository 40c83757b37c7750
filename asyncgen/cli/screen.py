"""The observer of a command: lines on stderr, questions on the terminal, live display, Ctrl-C.

Connects output, progress, signals and displays for a generation or a tuning, which are left to their sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

from asyncgen.cli.output import confirm, offered, say, this_command
from asyncgen.cli.progress import shown
from asyncgen.cli.signals import interruptible

if TYPE_CHECKING:
    from asyncgen.finetune.api import Event
    from asyncgen.finetune.follow import TrainingWatcher
    from asyncgen.generate.batch.send import Watcher
    from asyncgen.generate.observer import Interrupt
    from asyncgen.generate.pool.progress import Progress


class Screen:
    """Implements `Observer` and `TuningObserver` for the command line.

    Args:
        yes: --yes was given: every question is answered with yes.
        resume_command: goes on where the run stops; None for this command itself.
    """

    def __init__(self, *, yes: bool, resume_command: str | None = None) -> None:
        self._yes = yes
        self._resume_command = resume_command

    @property
    def agrees_to_all(self) -> bool:
        return self._yes

    @property
    def resume_command(self) -> str:
        return self._resume_command or this_command()

    def say(self, text: str) -> None:
        say(text)

    def agree(self, question: str, *, why: str) -> None:
        confirm(question, yes=self._yes, why=why)

    def offer(self, question: str) -> bool:
        return offered(question, yes=self._yes)

    def interruptible(self, on_first: Callable[[], None]) -> AbstractAsyncContextManager[Interrupt]:
        return interruptible(on_first)

    def watching(self, progress: Progress, spent: Callable[[], str]) -> AbstractAsyncContextManager[None]:
        return shown(progress, spent)

    def watching_batches(self, progress: Progress) -> AbstractContextManager[Watcher]:
        from asyncgen.cli.batch_display import watching  # noqa: PLC0415 - imports the SDK

        return watching(progress)

    def uploading(self) -> AbstractContextManager[Callable[[int, int], None]]:
        from asyncgen.cli.finetune_display import upload_bar  # noqa: PLC0415 - imports prices

        return upload_bar()

    def watching_training(self, history: Iterable[Event]) -> AbstractAsyncContextManager[TrainingWatcher]:
        from asyncgen.cli.finetune_display import training_shown  # noqa: PLC0415 - imports prices

        return training_shown(history)
