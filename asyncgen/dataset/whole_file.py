"""Files that appear whole or not at all.

Owns the temporary neighbour, the fsync and the rename. Does not know what is written.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from asyncgen.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def neighbour(path: Path) -> Path:
    """A name beside `path` for what is not finished yet; hidden, and told apart by process."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write to the file given; `path` is replaced only when the block ends without an exception.

    Raises:
        DiskError: the folder cannot be written, or the disk is full; what stood at `path` is untouched.
    """
    part = neighbour(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DiskError(f"{path} could not be written", cause=error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
