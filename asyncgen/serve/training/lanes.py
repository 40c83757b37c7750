"""Several rows at the same time, each in a thread of its own.

Owns the threads, and why there are any: numpy lets go of the interpreter in every large operation, so that as many
rows are computed side by side as there are cores, the many small steps between the matrix products included. The BLAS
below numpy could share out single products instead; that was measured to be a third slower on two idle cores, and
several times slower where the cores have other work too, for its threads wait for each other in busy loops. So BLAS
gets one thread (see `__main__`) and the rows are shared out here. Does not know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """Threads that work next to each other.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results for all items, in their order. The first error is raised."""
        return list(self._pool.map(work, items))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
