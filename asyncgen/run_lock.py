"""One writer a run: a lock that dies with its process.

Owns the file `.lock` and what the second process is told. Does not know what the writer does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from asyncgen.errors import DiskError, RunInUseError
from asyncgen.whole_file import disk_error, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_UNABLE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}
# `is_held` holds the lock for some microseconds; a writer that meets it tries again.
_TRIES = 5
_PAUSE_S = 0.02


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder` until the block ends.

    Raises:
        RunInUseError: another process writes it.
        DiskError: the file system cannot lock, or the lock's file cannot be opened.
    """
    path = folder / LOCK_NAME
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            _lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise _refusal(folder, error, _holder(descriptor)) from error
        yield
    finally:
        with suppress(OSError):  # the lock is given back all the same
            os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Is some process writing `folder` now? Changes nothing.

    Raises:
        DiskError: the lock's file cannot be read.
    """
    try:
        descriptor = open_regular(folder / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD or not tries_left:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _holder(descriptor: int) -> str:
    """The process number that the holder wrote; "" when it cannot be read."""
    try:
        return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _refusal(folder: Path, error: OSError, holder: str) -> RunInUseError | DiskError:
    if error.errno in _HELD:
        return RunInUseError(
            f"{folder} is being written by another process" + (f" (number {holder})" if holder else ""),
            cause="a run has one writer at a time; reading it is always possible",
            help_text=f"wait until it is done (asyncgen status {folder}), or choose another place with --out",
        )
    if error.errno in _UNABLE:
        return DiskError(
            f"the file system of {folder} cannot lock files",
            cause="without a lock two processes could pay for the same rows",
            help_text="choose a place on a local disk with --out",
        )
    return disk_error(f"{folder / LOCK_NAME} could not be written", error)
