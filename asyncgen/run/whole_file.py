"""Replace files atomically: a reader sees the old content or the new, never half.

Temporary file, fsync, rename, fsync of the folder. Refuses links, pipes and folders in place of a file, and explains
operating system errors. The content is left to the callers.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from asyncgen.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_LONGEST_NAME = 230  # bytes, of the 255 that file systems allow
_TEMPORARY = re.compile(r"\.(?P<of>.+)\.[0-9]+\.tmp")

_NEXT_STEP = {
    errno.ENOSPC: "free some space on that disk, then run the same command again to continue",
    errno.EDQUOT: "your quota on that disk is used up: free some space, then run the same command again",
    errno.EFBIG: "the file size limit is reached (ulimit -f): raise it, then run the same command again",
    errno.EACCES: "change the permissions there, or choose another folder with --out",
    errno.EPERM: "change the permissions there, or choose another folder with --out",
    errno.EROFS: "that file system is read-only: choose another folder with --out",
    errno.EIO: "check that disk (see the system log), copy the run to another disk, then continue there",
}


def disk_error(doing: str, error: OSError) -> DiskError:
    """Turn an error of the operating system into a DiskError.

    Args:
        doing: what failed, such as "runs/x/records.jsonl could not be written".
        error: the system's error.

    Returns:
        The error with the system's reason, and a next step for the common ones.
    """
    help_text = _NEXT_STEP.get(error.errno or 0)
    return DiskError(doing, cause=error.strerror or str(error), help_text=help_text)


@contextmanager
def as_disk_error(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a DiskError.

    Args:
        doing: what then failed, as for `disk_error`.


    Raises:
        DiskError: the system reported an error.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(doing, error) from error


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, and nothing else.

    Args:
        path: the file.
        flags: as for `os.open`; a created file gets the permissions of the user's mask.

    Returns:
        Its descriptor.

    Raises:
        FileNotFoundError: it is missing, and `flags` do not create it.
        DiskError: it is a link, a pipe, a folder or a device, or cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end forever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR}:
            raise _irregular(path) from error
        raise disk_error(f"{path} could not be opened", error) from error
    try:
        with as_disk_error(f"{path} could not be read"):
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not is_regular:
            raise _irregular(path)
    except DiskError:
        os.close(descriptor)
        raise
    return descriptor


def _irregular(path: Path) -> DiskError:
    return DiskError(
        f"{path} is not a regular file",
        cause="expected a file, found a link, pipe, folder or device",
        help_text=f"move it away, or choose another folder (ls -ld {path})",
    )


def read_whole(path: Path, max_bytes: int) -> bytes:
    """Read a small regular file.

    Args:
        path: the file.
        max_bytes: maximum size.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: it is missing.
        DiskError: it is not a regular file, is larger than `max_bytes`, or cannot be read.
    """
    descriptor = open_regular(path, os.O_RDONLY)
    with as_disk_error(f"{path} could not be read"), os.fdopen(descriptor, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DiskError(f"{path} is larger than {max_bytes} bytes")
    return content


def make_safe(path: Path) -> None:
    """Sync a file to disk, so that it survives a power loss.

    Args:
        path: the file; a missing one is ignored.

    Raises:
        DiskError: it cannot be opened or synced.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with as_disk_error(f"{path} could not be synced to disk"):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that names created or renamed in it survive a power loss.

    Args:
        folder: the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` atomically when the block ends without an error.

    Until then, and if the process dies, `path` keeps its content. If it is a link, the file that it leads to is
    replaced.

    Args:
        path: the file to replace or create.

    Yields:
        The open file, for the new content.

    Raises:
        DiskError: `path` is a pipe, a folder or a device, or could not be written; its content is unchanged.
    """
    path = _replaceable(path)
    temporary = temporary_for(path)
    try:
        with as_disk_error(f"{path} could not be written"):
            temporary.unlink(missing_ok=True)
            with os.fdopen(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _replaceable(path: Path) -> Path:
    """The regular file that `path` is or leads to, or that is to be created.

    Raises:
        DiskError: it is not a regular file.
    """
    with as_disk_error(f"{path} could not be written"):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise _irregular(path)
        except FileNotFoundError:
            pass  # the target of a dangling link may be created
        return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing_together(paths: Sequence[Path], before: Callable[[], object]) -> Iterator[list[BinaryIO]]:
    """Write several files of one folder; all of them are complete before the first is replaced.

    Args:
        paths: the files to replace or create.
        before: called when all are complete and none is replaced yet, to note that they are about to change.

    Yields:
        The open files, in the order of `paths`.

    Raises:
        DiskError: as `replacing`; files that were not replaced yet keep their content.
    """
    paths = [_replaceable(path) for path in paths]
    temporaries = [temporary_for(path) for path in paths]
    try:
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for path, temporary in zip(paths, temporaries, strict=True):
                stack.enter_context(as_disk_error(f"{path} could not be written"))
                temporary.unlink(missing_ok=True)
                descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                files.append(stack.enter_context(os.fdopen(descriptor, "wb")))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        before()
        for path, temporary in zip(paths, temporaries, strict=True):
            with as_disk_error(f"{path} could not be written"):
                temporary.rename(path)
                sync_folder(path.parent)
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink()


def temporary_for(path: Path) -> Path:
    """Name the temporary file for the new content of a file. No two processes share one.

    Args:
        path: the file that will be replaced.

    Returns:
        A path in the same folder.
    """
    name = path.name
    if len(name.encode()) > _LONGEST_NAME:  # with prefix and suffix it would be too long
        name = blake2b(name.encode(), digest_size=16).hexdigest()
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove temporary files of processes that were killed. Only for the holder of the folder's lock.

    Args:
        folder: the folder; if it is a link nothing is removed.
        is_ours: whether a name is that of a file that asyncgen writes there; other files are left alone.

    Raises:
        DiskError: the folder cannot be read, or a file cannot be removed.
    """
    if folder.is_symlink():
        return
    with as_disk_error(f"{folder} could not be read"):
        for leftover in folder.glob(".*.tmp"):
            name = _TEMPORARY.fullmatch(leftover.name)
            if name and is_ours(name["of"]) and stat.S_ISREG(leftover.lstat().st_mode):
                leftover.unlink(missing_ok=True)
