"""Run asynchronous calls from synchronous code, on an event loop in a thread of its own.

This works in a script, inside a running loop and in a notebook. Ctrl-C reaches the thread that waits here: it drains
requests in flight before KeyboardInterrupt is raised. No signal handler is installed.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from asyncgen.generate.observer import Interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")
_TICK_S = 0.1  # a lock that is waited for without an end would not let Ctrl-C through on every platform


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
            call.ended.wait(_TICK_S)  # not `join`: broken off by Ctrl-C, it takes the thread for ended
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
