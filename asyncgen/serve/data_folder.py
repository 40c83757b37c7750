"""The server's data folder: its layout, its lock (one server a folder), and `server.json`, by which clients find it.

The subfolders are left to `stores`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError, DiskError, RunInUseError, UsageError
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.providers.local_server import ServerInfo, server_info
from asyncgen.run.whole_file import remove_leftovers, replacing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncgen.serve.engine import EngineName

Value = TypeVar("Value")


_VERSION = 1


class _Owner(msgspec.Struct, frozen=True):
    """`folder.json`: which engine's objects are in the folder."""

    engine: str
    version: int = _VERSION


@dataclass(frozen=True, slots=True)
class DataFolder:
    """An open, locked data folder."""

    root: Path
    lock_descriptor: int

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    def announce(self, info: ServerInfo) -> None:
        write_whole(self.root / "server.json", info)

    def close(self) -> None:
        """Remove `server.json` and release the lock."""
        (self.root / "server.json").unlink(missing_ok=True)
        os.close(self.lock_descriptor)


def open_data_folder(root: Path, engine: EngineName, say: Callable[[str], None]) -> DataFolder:
    """Lock the data folder for this server, and create it if it is missing.

    Args:
        root: the folder.
        engine: the engine whose objects it contains.
        say: called with a warning if others on this machine can read it.

    Raises:
        RunInUseError: another server uses it.
        UsageError: it belongs to the other engine, or to a newer release.
        DiskError: it cannot be written.
    """
    root = (
        root.absolute()
    )  # paths in it are stored relative to it, and passed to processes with other working directories
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        folder = DataFolder(root, descriptor)
        _lock(folder)
        _claim(root, engine, say)
        for part in (folder.files, folder.jobs, folder.models, folder.batches):
            part.mkdir(exist_ok=True, mode=0o700)
            remove_leftovers(part, lambda _name: True)  # all files in it belong to the server
        if stat.S_IMODE(root.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            say(
                f"warning: other users of this machine can read {root} with its uploads and models; run `chmod 700 "
                f"{root}`"
            )
    except OSError as error:
        raise DiskError(f"the data folder {root} cannot be used", cause=str(error)) from error
    return folder


def _lock(folder: DataFolder) -> None:
    try:
        fcntl.flock(folder.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder.lock_descriptor)
        info = server_info(folder.root)
        first = f"pid {info.pid} at {info.base_url}" if info else "it is just starting or stopping"
        raise RunInUseError(
            f"another asyncgen server uses {folder.root}",
            cause=first,
            help_text="use that server, stop it, or start this one with another --data-dir",
        ) from None


def _claim(root: Path, engine: EngineName, say: Callable[[str], None]) -> None:
    path = root / "folder.json"
    try:
        owner = read_whole(path, _Owner) if path.exists() else _Owner(engine)
    except AsyncgenError as error:  # the objects are unharmed, and each names its base model
        say(f"warning: {error.what} ({error.cause}); it is written again")
        owner = _Owner(engine)
    if owner.version > _VERSION:
        raise UsageError(
            f"{root} was written by a newer asyncgen",
            cause=f"its version is {owner.version}; this asyncgen supports {_VERSION}",
            help_text="update asyncgen, or use another folder: --data-dir DIR",
        )
    if owner.engine != engine:
        raise UsageError(
            f"{root} contains data of the engine {owner.engine!r}",
            cause=f"simulated and real data are kept apart, and this server's engine is {engine!r}",
            help_text="use another folder: --data-dir DIR",
        )
    write_whole(path, msgspec.structs.replace(owner, version=_VERSION))


def write_whole(path: Path, value: object) -> None:
    """Replace a JSON file by the value's JSON: after a crash the old or the new one is there, whole."""
    with replacing(path) as file:
        file.write(msgspec.json.encode(value))


def read_whole(path: Path, kind: type[Value]) -> Value:
    """Read a JSON file.

    Raises:
        AsyncgenError: it is not JSON of the expected form.
    """
    try:
        return decode_json(path.read_bytes(), kind)
    except NotJsonError as error:
        raise AsyncgenError(
            f"{path} is damaged", cause=str(error), help_text="move it away, or use another --data-dir"
        ) from error
