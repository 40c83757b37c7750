"""Ctrl-C and SIGTERM: the first signal drains, the second one cancels.

Installs signal handlers while a run works, and returns the exit code for a signal. What drains is left to the engines.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asyncgen.generate.observer import Interrupt

# USR1 is what schedulers are told to send some minutes before the time of a job is up.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@asynccontextmanager
async def interruptible(on_first: Callable[[], None]) -> AsyncIterator[Interrupt]:
    """Handle the signals within the block; the handlers there before come back after it.

    A Ctrl-C that came before has cancelled the task, which takes effect at its next wait: that is here, and not in the
    midst of the work, where requests on their way would be broken off.

    Args:
        on_first: called at the first signal, to say what happens now.
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
    for number in _SIGNALS:
        loop.add_signal_handler(number, receive, number)
    try:
        await asyncio.sleep(0)
        yield interrupt
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which sets Python's default handler
            if handler is not None:  # it was set by Python
                signal.signal(number, handler)
