"""The lock of a run directory: one process writes a run, or a shard of it, at a time.

It is an advisory lock (flock) on a file in the folder, and ends with its process. What is written is left to
`directory` and to the callers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.errors import DiskError, RunInUseError, command_line
from asyncgen.run.whole_file import disk_error, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator


LOCK_NAME = ".lock"
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_UNABLE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}
# `is_held` holds the lock for some microseconds; a writer that meets it tries again.
_WAIT = "wait until it is done (`{}`), or choose another folder with --out"
_TRIES = 5
_PAUSE_S = 0.02


class FolderLock:
    """The lock of a folder, held by this process.

    Args:
        path: the lock file.
        descriptor: its open, locked file descriptor.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def check(self) -> None:
        """Check that the lock file is still ours; somebody may have removed it.

        Raises:
            RunInUseError: another process holds a lock of that name now.
        """
        if not _is_named(self._path, self._descriptor) and is_held(self._path.parent, self._path.name):
            raise RunInUseError(
                f"another process has taken over {self._path.parent}",
                cause=f"{self._path.name} was deleted while this process was writing",
                help_text="wait for the other process, then run the same command again; never delete the lock file",
            )


@contextmanager
def locked(folder: Path, name: str = LOCK_NAME) -> Iterator[FolderLock]:
    """Hold the lock of a folder, or of a part of it, until the block ends.

    Args:
        folder: the run directory.
        name: name of the lock file.

    Yields:
        The lock.

    Raises:
        RunInUseError: another process holds it.
        DiskError: the file system cannot lock, or the lock file cannot be opened.
    """
    path = folder / name
    descriptor = _opened(path)
    try:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise _refusal(path, error, "") from error
        yield FolderLock(path, descriptor)
    finally:
        with suppress(OSError):  # closing releases the lock even if it fails
            os.close(descriptor)


def lock_file(descriptor: int, path: Path) -> None:
    """Lock an open file until it is closed. Does nothing on a file system without locks.

    Args:
        descriptor: of the open file.
        path: its path, for the message.

    Raises:
        RunInUseError: another process has locked it.
    """
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            raise RunInUseError(
                f"{path} is being written by another process",
                cause="only one process can write to a run; reading is always possible",
                help_text=_WAIT.format(command_line("status", path.parent)),
            ) from error


def _opened(path: Path) -> int:
    """Open the lock file, and lock it; the descriptor is that of the file at `path`."""
    for _ in range(_TRIES):
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor)
            if _is_named(path, descriptor):
                return descriptor
        except OSError as error:
            refusal = _refusal(path, error, _holder(descriptor))
            os.close(descriptor)
            raise refusal from error
        os.close(descriptor)  # its name was removed between the two steps
    raise DiskError(f"another program keeps deleting {path}")


def _is_named(path: Path, descriptor: int) -> bool:
    """True if the open file is the one at `path`."""
    try:
        named, opened = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def is_held(folder: Path, name: str = LOCK_NAME) -> bool:
    """Check for a writer, without changing anything.

    Args:
        folder: the run directory.
        name: name of the lock file.

    Returns:
        Whether some process holds the lock now.

    Raises:
        DiskError: the lock file cannot be read.
    """
    try:
        descriptor = open_regular(folder / name, os.O_RDONLY)
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
    """The process id that the holder wrote; "" if it cannot be read."""
    try:
        return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _refusal(path: Path, error: OSError, holder: str) -> RunInUseError | DiskError:
    folder = path.parent
    if error.errno in _HELD:
        part = path.name.removeprefix(LOCK_NAME).strip("-").replace("-of-", "/")
        what = f"shard {part} of {folder}" if "/" in part else str(folder)
        return RunInUseError(
            f"{what} is being written by another process" + (f" (number {holder})" if holder else ""),
            cause="only one process can write to a run; reading is always possible",
            help_text=_WAIT.format(command_line("status", folder)),
        )
    if error.errno in _UNABLE:
        return DiskError(
            f"the file system of {folder} cannot lock files",
            cause="without a lock, two processes could pay for the same rows",
            help_text="choose a folder on a local disk with --out",
        )
    return disk_error(f"{path} could not be written", error)
