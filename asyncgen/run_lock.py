"""One writer a run: a lock that dies with its process.

Owns the file `.lock` and what the second process is told. Does not know what the writer does.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from asyncgen.errors import DiskError, RunInUseError
from asyncgen.whole_file import disk_error, open_regular

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME = ".lock"


def lock(folder: Path) -> int:
    """Become the only writer of `folder`: a descriptor to be closed when that is over.

    Raises:
        RunInUseError: another process writes it.
        DiskError: the file system cannot lock, or the lock's file cannot be opened.
    """
    path = folder / LOCK_NAME
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise _refusal(folder, error, holder) from error
    return descriptor


def _refusal(folder: Path, error: OSError, holder: str) -> RunInUseError | DiskError:
    if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}:
        return RunInUseError(
            f"{folder} is being written by another process" + (f" (number {holder})" if holder else ""),
            cause="a run has one writer at a time; reading it is always possible",
            help_text=f"wait until it is done (asyncgen status {folder}), or choose another place with --out",
        )
    if error.errno in {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}:
        return DiskError(
            f"the file system of {folder} cannot lock files",
            cause="without a lock two processes could pay for the same rows",
            help_text="choose a place on a local disk with --out",
        )
    return disk_error(f"{folder / LOCK_NAME} could not be written", error)
