"""The event loop of a command: uvloop's where it is installed, asyncio's elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine to its end.

    Raises:
        KeyboardInterrupt: Ctrl-C where the coroutine does not handle it: before its start, say, or after its end.
    """
    with closing(coroutine):
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(coroutine)
        except asyncio.CancelledError as error:  # by Ctrl-C alone; one that is seen twice is not taken for it
            raise KeyboardInterrupt from error
        except RuntimeError as error:  # uvloop cannot be closed when Ctrl-C comes in the midst of that
            if _is_of_ctrl_c(error):
                raise KeyboardInterrupt from error
            raise


def _is_of_ctrl_c(error: BaseException) -> bool:
    behind = error.__context__  # a step or two down: each step of the closing fails in turn
    return behind is not None and (isinstance(behind, KeyboardInterrupt) or _is_of_ctrl_c(behind))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - an optional extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
