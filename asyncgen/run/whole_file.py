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

_LONGEST_NAME = 230  # bytes, of the 255 that file systems take
_TEMPORARY = re.compile(r"\.(?P<of>.+)\.[0-9]+\.tmp")

_NEXT_STEP = {
    errno.ENOSPC: "free some space on that disk, then give the same command again: it goes on from there",
    errno.EDQUOT: "your quota on that disk is used up: free some space, then give the same command again",
    errno.EFBIG: "a file may not grow further (ulimit -f): lift that limit, then give the same command again",
    errno.EACCES: "change the permissions there, or choose another place with --out",
    errno.EPERM: "change the permissions there, or choose another place with --out",
    errno.EROFS: "that file system is read-only: choose another place with --out",
    errno.EIO: "look after that disk (see the system's log), copy the run to a sound one, then go on there",
}


def disk_error(doing: str, error: OSError) -> DiskError:
    """The operating system's refusal in our form.

    Args:
        doing: what could not be done, such as "runs/x/records.jsonl could not be written".
        error: what the system answered.
    """
    help_text = _NEXT_STEP.get(error.errno or 0)
    return DiskError(doing, cause=error.strerror or str(error), help_text=help_text)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what the operating system refuses in the block into our form.

    Args:
        doing: what then could not be done, as for `disk_error`.

    Raises:
        DiskError: the system refused something.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(doing, error) from error


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file; created with the user's mask when `flags` say so.

    Raises:
        FileNotFoundError: it is not there, and `flags` do not create it.
        DiskError: it is a link, a pipe, a folder or a device, or may not be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR}:
            raise _irregular(path) from error
        raise disk_error(f"{path} could not be opened", error) from error
    try:
        with explained(f"{path} could not be read"):
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
        cause="a link, pipe, folder or device stands where a file is expected",
        help_text=f"move it away, or choose another place (ls -ld {path})",
    )


def read_whole(path: Path, max_bytes: int) -> bytes:
    """The content of a small regular file.

    Raises:
        FileNotFoundError: it is not there.
        DiskError: it is not a regular file, is larger than `max_bytes`, or cannot be read.
    """
    descriptor = open_regular(path, os.O_RDONLY)
    with explained(f"{path} could not be read"), os.fdopen(descriptor, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DiskError(f"{path} is larger than {max_bytes} bytes")
    return content


def make_safe(path: Path) -> None:
    """Make what a file holds survive a power loss; one that is not there needs nothing.

    Raises:
        DiskError: it cannot be opened, or made safe.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with explained(f"{path} could not be made safe on the disk"):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make names created or renamed in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` in one step when the block ends without an error.

    Until then, and whenever the process dies, `path` holds what it held before. A link stays one: the file that it
    leads to is replaced.

    Raises:
        DiskError: it is a pipe, a folder or a device, or could not be written; what was there is unchanged.
    """
    path = _replaceable(path)
    temporary = temporary_for(path)
    try:
        with explained(f"{path} could not be written"):
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
    """The regular file that `path` is or leads to, or that is to be made.

    Raises:
        DiskError: something else stands there.
    """
    with explained(f"{path} could not be written"):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise _irregular(path)
        except FileNotFoundError:
            pass  # a link that leads nowhere yet may lead to a new file
        return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing_together(paths: Sequence[Path], before: Callable[[], object]) -> Iterator[list[BinaryIO]]:
    """As `replacing`, of several files in one folder: all of them are whole before the first takes its place.

    Args:
        paths: what is replaced.
        before: called when all are whole; notes, where somebody keeps a note of them, that they are about to change.

    Raises:
        DiskError: as `replacing`; what could not be written any more is unchanged.
    """
    paths = [_replaceable(path) for path in paths]
    temporaries = [temporary_for(path) for path in paths]
    try:
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for path, temporary in zip(paths, temporaries, strict=True):
                stack.enter_context(explained(f"{path} could not be written"))
                temporary.unlink(missing_ok=True)
                descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                files.append(stack.enter_context(os.fdopen(descriptor, "wb")))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        before()
        for path, temporary in zip(paths, temporaries, strict=True):
            with explained(f"{path} could not be written"):
                temporary.rename(path)
                sync_folder(path.parent)
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink()


def temporary_for(path: Path) -> Path:
    """Where the new content of `path` stands until it is whole; two processes do not share one."""
    name = path.name
    if len(name.encode()) > _LONGEST_NAME:  # with what is added it would be too long for a file's name
        name = blake2b(name.encode(), digest_size=16).hexdigest()
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove temporary files of processes that were killed; only for the holder of the folder's lock.

    Args:
        folder: a real one; where a link stands nothing is removed.
        is_ours: is this the name of a file that asyncgen writes there? Those of others are left alone.

    Raises:
        DiskError: the folder cannot be read, or a file in it not be removed.
    """
    if folder.is_symlink():
        return
    with explained(f"{folder} could not be read"):
        for leftover in folder.glob(".*.tmp"):
            name = _TEMPORARY.fullmatch(leftover.name)
            if name and is_ours(name["of"]) and stat.S_ISREG(leftover.lstat().st_mode):
                leftover.unlink(missing_ok=True)
