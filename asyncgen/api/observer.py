"""How a Python program waits for a call and observes it: consent is an argument, progress is a callback.

Nothing is printed, and no signal handler is installed. The asynchronous work runs on an event loop in a thread of its
own, which works in a script, inside a running loop and in a notebook. Ctrl-C reaches the thread that waits here: it
drains requests in flight before KeyboardInterrupt is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.generate.observer import Interrupt

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from asyncgen.finetune.api import Event, TuningJob
    from asyncgen.generate.batch.join import JoinResult
    from asyncgen.generate.batch.send import Watcher
    from asyncgen.generate.pool.progress import Progress
    from asyncgen.run.state import BatchState


OnProgress = Callable[["ProgressSnapshot"], None]
_EVERY_S = 0.5
_TICK_S = 0.1  # on some platforms an endless wait for a lock cannot be interrupted by Ctrl-C


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The progress of a run at one moment, passed to `on_progress`.

    Attributes:
        requests: rows of the job.
        done: rows that have an answer, those of earlier invocations included.
        failed: rows given up on.
        left: rows still to be asked for.
        in_flight: requests sent and not answered yet.
        retries: attempts after the first one of a row.
        per_second: rows finished per second, over the last ten seconds.
        eta_s: seconds until the end at this rate; None if the rate is 0.
        elapsed_s: seconds since the first request of this invocation.
        waits_for: why sending is paused now; "" if it is not.

    Example:
        >>> seen = []
        >>> run = generate("campaign.toml", completer=answer, on_progress=seen.append)
        >>> seen[-1].done, seen[-1].left
        (12, 0)
    """

    requests: int
    done: int
    failed: int
    left: int
    in_flight: int
    retries: int
    per_second: float
    eta_s: float | None
    elapsed_s: float
    waits_for: str = ""


class LibraryObserver:
    """An observer for programs: consent is an argument, messages are collected in `remarks`, nothing is printed.

    Implements `Observer` and `TuningObserver`.

    Args:
        yes: consent to everything that the command line would ask about.
        on_progress: called twice a second while requests are sent, and once at the end.
        interrupt: events that stop the work from outside; None if nothing stops it.
    """

    def __init__(
        self, *, yes: bool = False, on_progress: OnProgress | None = None, interrupt: Interrupt | None = None
    ) -> None:
        self._yes = yes
        self._on_progress = on_progress
        self._interrupt = interrupt or Interrupt()
        self.remarks: list[str] = []

    @property
    def agrees_to_all(self) -> bool:
        return self._yes

    @property
    def resume_command(self) -> str:
        return ""

    def say(self, text: str) -> None:
        self.remarks.append(text)

    def agree(self, question: str, *, why: str, notice: str = "") -> None:
        if self._yes and notice:
            self.remarks.append(notice)
        if not self._yes:
            raise UsageError(why, cause=question, help_text="pass yes=True to continue", code="needs_yes")

    def offer(self, question: str) -> bool | None:  # noqa: ARG002 - the protocol's name
        return self._yes or None

    @asynccontextmanager
    async def interruptible(self, on_first: Callable[[], None]) -> AsyncIterator[Interrupt]:  # noqa: ARG002 - as above
        yield self._interrupt

    @asynccontextmanager
    async def watching(self, progress: Progress, spent: Callable[[], str]) -> AsyncIterator[None]:  # noqa: ARG002
        if self._on_progress is None:
            yield
            return
        began_s = time.monotonic()
        task = asyncio.create_task(self._tell(progress, began_s, self._on_progress))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._on_progress(_snapshot(progress, began_s))

    async def _tell(self, progress: Progress, began_s: float, on_progress: OnProgress) -> None:
        while True:
            on_progress(_snapshot(progress, began_s))
            await asyncio.sleep(_EVERY_S)

    @contextmanager
    def watching_batches(self, progress: Progress) -> Iterator[Watcher]:
        yield _Batches(progress, self._on_progress, time.monotonic())

    @contextmanager
    def uploading(self) -> Iterator[Callable[[int, int], None]]:
        yield lambda _sent, _size: None

    @asynccontextmanager
    async def watching_training(self, history: Iterable[Event]) -> AsyncIterator[_Training]:  # noqa: ARG002
        yield _Training()


def _snapshot(progress: Progress, began_s: float) -> ProgressSnapshot:
    now_s = time.monotonic()
    per_second = progress.per_second(now_s)
    return ProgressSnapshot(
        requests=progress.requests,
        done=progress.done,
        failed=progress.failed + progress.failed_before,
        left=progress.left,
        in_flight=progress.in_flight,
        retries=progress.retries,
        per_second=per_second,
        eta_s=progress.eta_s(per_second),
        elapsed_s=now_s - began_s,
        waits_for=progress.pause_cause if progress.paused_until > now_s else "",
    )


class _Batches:
    """Counts the collected rows of batches. Implements `Watcher`."""

    def __init__(self, progress: Progress, on_progress: OnProgress | None, began_s: float) -> None:
        self._progress = progress
        self._on_progress = on_progress
        self._began_s = began_s

    def uploading(self, batch: BatchState, sent: int, size: int) -> None:
        pass

    def changed(self, batch: BatchState) -> None:  # noqa: ARG002 - the protocol's name
        if self._on_progress is not None:
            self._on_progress(_snapshot(self._progress, self._began_s))

    def collected(self, batch: BatchState, joined: JoinResult) -> None:
        self._progress.settled += joined.answered
        self._progress.failed += joined.failed
        self.changed(batch)


class _Training:
    """Watches a training silently. Implements `TrainingWatcher`."""

    def on_event(self, event: Event) -> None:
        pass

    def on_job(self, job: TuningJob) -> None:
        pass

    def on_outage(self, error: AsyncgenError) -> None:
        pass


Result = TypeVar("Result")


def run_in_thread(work: Callable[[Interrupt], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end on an event loop in another thread.

    Args:
        work: makes the coroutine. Ctrl-C in the calling thread sets its interrupt: the first to drain, the second to
            abandon the requests in flight.

    Returns:
        The result of the coroutine.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the coroutine has ended.
        BaseException: whatever the coroutine raised.
    """
    call = _Call(work)
    call.start()
    interrupted = False
    while not call.ended.is_set():
        try:
            call.ended.wait(_TICK_S)  # not `join`: when Ctrl-C interrupts it, it marks the thread as ended
        except KeyboardInterrupt:
            call.interrupt(again=interrupted)
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return call.result()


class _Call(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[Interrupt], Coroutine[Any, Any, Result]]) -> None:
        super().__init__(name="asyncgen", daemon=True)
        self.ended = threading.Event()
        self._work = work
        self._interrupt: Interrupt | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._result: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                self._result.append(runner.run(self._run()))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._error = error
        finally:
            self.ended.set()

    async def _run(self) -> Result:
        self._loop = asyncio.get_running_loop()
        self._interrupt = Interrupt()
        return await self._work(self._interrupt)

    def interrupt(self, *, again: bool) -> None:
        if self._loop is not None and self._interrupt is not None and not self.ended.is_set():
            event = self._interrupt.abandon if again else self._interrupt.stop
            with suppress(RuntimeError):  # the loop has closed meanwhile
                self._loop.call_soon_threadsafe(event.set)

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._result[0]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the constructor of uvloop's event loop; None where uvloop is not installed."""
    try:
        import uvloop  # noqa: PLC0415 - there are no wheels for every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
