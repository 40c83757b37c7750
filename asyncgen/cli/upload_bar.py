"""The bar of an upload: live on a terminal, a line at its end everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asyncgen.cli.output import error_console, is_live, say


@contextmanager
def upload_bar() -> Iterator[Callable[[int, int], None]]:
    """Something to tell of the bytes sent and the size; it may be told the same twice."""
    last = (0, 0)

    def plain(sent: int, size: int) -> None:
        nonlocal last
        if sent == size and last != (sent, size):
            say(f"uploaded {size / 1000:,.1f} kB")
        last = (sent, size)

    if not is_live():
        yield plain
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415 - costs time

    columns = ("upload", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task("upload", total=None, visible=False)

        def drawn(sent: int, size: int) -> None:
            progress.update(task, completed=sent, total=size, visible=True)
            plain(sent, size)

        yield drawn
