"""The event loop of a command, and its signals: the first Ctrl-C or SIGTERM drains, the second one cancels.

uvloop's loop where it is installed, asyncio's elsewhere. Installs signal handlers while a run works, and returns the
exit code for a signal. What drains is left to the engines.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any, TypeVar

from asyncgen.generate.observer import Interrupt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine to its end.

    Args:
        coroutine: the coroutine.

    Returns:
        Its result.

    Raises:
        KeyboardInterrupt: Ctrl-C that the coroutine does not handle, such as before its start or after its end.
    """
    with closing(coroutine):
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(coroutine)
        except asyncio.CancelledError as error:  # by Ctrl-C alone; one that is seen twice is not taken for it
            raise KeyboardInterrupt from error
        except RuntimeError as error:  # uvloop cannot be closed if Ctrl-C arrives while it closes
            if _is_of_ctrl_c(error):
                raise KeyboardInterrupt from error
            raise


def _is_of_ctrl_c(error: BaseException) -> bool:
    behind = error.__context__  # one or two levels down: each step of closing fails in turn
    return behind is not None and (isinstance(behind, KeyboardInterrupt) or _is_of_ctrl_c(behind))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - an optional extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


# Schedulers can send USR1 some minutes before a job's time limit.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@asynccontextmanager
async def interruptible(on_first: Callable[[], None]) -> AsyncIterator[Interrupt]:
    """Handle signals during the block, and restore the previous handlers afterwards. SIGHUP stays ignored if it was.

    A Ctrl-C before the block has cancelled the task, which takes effect at its next wait. That is here, and not in the
    middle of the work, where it would break off requests in flight.

    Args:
        on_first: called at the first signal, to say what happens now.

    Yields:
        The interrupt.
    """
    interrupt = Interrupt()
    loop = asyncio.get_running_loop()

    def receive(number: signal.Signals) -> None:
        if interrupt.exit_code is None:
            interrupt.exit_code = 128 + number
            interrupt.stop.set()
            on_first()
        else:
            interrupt.abandon.set()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # `nohup`: the work goes on after the terminal is closed
        del before[signal.SIGHUP]
    for number in before:
        loop.add_signal_handler(number, receive, number)
    try:
        await asyncio.sleep(0)
        yield interrupt
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which sets Python's default handler
            if handler is not None:  # it was set by Python
                signal.signal(number, handler)
