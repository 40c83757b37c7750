"""The cyclic garbage collector, kept out of long passes over rows."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def collector_off() -> Iterator[None]:
    """Have no cycles looked for while the block lasts.

    A pass makes and drops some objects a row, none of them in a cycle. Looking for cycles among them again and again
    takes a fifth of its time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
