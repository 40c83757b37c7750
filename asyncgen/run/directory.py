"""A run directory: the names of its files, the search for the run that a command means, and opening it for writing.

Refuses folders that are not runs or belong to another job, and makes every change of `run.json`. The lock is left to
`lock`, the format of the files to `state` and `records`.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, DiskError, RunInUseError, UsageError, command_line, nearest
from asyncgen.run.lock import LOCK_NAME, FolderLock, locked
from asyncgen.run.state import VERSION, JobState, RunState, read_state, with_shards, write_state
from asyncgen.run.whole_file import as_disk_error, disk_error, remove_leftovers, replacing
from asyncgen.toml_text import read_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


STATE_NAME = "run.json"
RECORDS_NAME = "records.jsonl"
BATCHES_NAME = "batches"
_LINE_FILES = (RECORDS_NAME, "failures.jsonl", "rejected.jsonl", "replaced.jsonl", "events.jsonl")
PLAN_NAME = "shards.json"
FILE_NAMES = frozenset(
    {STATE_NAME, PLAN_NAME, "job.toml", LOCK_NAME, "train.jsonl", "validation.jsonl", "samples.jsonl", *_LINE_FILES}
)
_PART_FILE = re.compile(r"(?:records|failures|replaced|run)(?P<part>-(?P<index>\d+)-of-(?P<count>\d+))\.jsonl?")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run's files. They can be read at any time, also while another process writes them.

    Attributes:
        path: the run directory.
        part: suffix of a shard's file names, such as "-0-of-4"; "" for the run itself.
    """

    path: Path
    part: str = ""

    @property
    def job(self) -> Path:
        """The job file of the run."""
        return self.path / "job.toml"

    @property
    def records(self) -> Path:
        """The settled answers."""
        return self.path / f"records{self.part}.jsonl"

    @property
    def failures(self) -> Path:
        """The requests given up on."""
        return self.path / f"failures{self.part}.jsonl"

    @property
    def state(self) -> Path:
        """The file that `read_state` reads."""
        return self.path / f"run{self.part}.json"

    @property
    def live(self) -> Path:
        """The progress of a running generation, for readers."""
        return self.path / f"live{self.part}.json"

    @property
    def lock_name(self) -> str:
        """Name of the lock file."""
        return f"{LOCK_NAME}{self.part}"

    @property
    def plan(self) -> Path:
        """The list of shards."""
        return self.path / PLAN_NAME

    @property
    def train(self) -> Path:
        """The training split of the dataset."""
        return self.path / "train.jsonl"

    @property
    def validation(self) -> Path:
        """The validation split of the dataset."""
        return self.path / "validation.jsonl"

    @property
    def rejected(self) -> Path:
        """The records that `prepare` rejected, with reasons."""
        return self.path / "rejected.jsonl"

    @property
    def replaced(self) -> Path:
        """Records whose rows are asked for again."""
        return self.path / f"replaced{self.part}.jsonl"

    @property
    def events(self) -> Path:
        """The events of the fine-tuning jobs."""
        return self.path / "events.jsonl"

    @property
    def batches(self) -> Path:
        """The folder with the files of batches."""
        return self.path / BATCHES_NAME

    def read_state(self) -> RunState:
        """Read `run.json`; raises as `state.read_state`."""
        return read_state(self.state)

    def read_total(self) -> RunState:
        """Read `run.json`, and add spend and attempts of shards that are not merged yet; raises as `read_state`."""
        state = self.read_state()
        parts = [shard.read_state() for shard in self._readable_shards() if shard.state.exists()]
        return with_shards(state, parts) if parts else state

    def shards(self) -> list[RunDirectory]:
        """The shards whose files are not merged yet, in order; empty for a shard."""
        if self.part:
            return []
        with as_disk_error(f"{self.path} could not be read"):
            found = {entry: _PART_FILE.fullmatch(entry) for entry in _names_in(self.path)}
        parts = {(int(name["count"]), int(name["index"])): name["part"] for name in found.values() if name}
        return [RunDirectory(self.path, part) for _, part in sorted(parts.items())]

    def record_files(self) -> list[Path]:
        """Every file with answers of the run: `records.jsonl`, and those of shards that are not merged yet.

        Raises:
            RunInUseError: a merge is under way or was cut short, so answers may be in two files.
            DiskError: the folder or `run.json` cannot be read.
        """
        return [self.records, *(shard.records for shard in self._readable_shards())]

    def failure_files(self) -> list[Path]:
        """Every file with failures of the run; raises as `record_files`."""
        return [self.failures, *(shard.failures for shard in self._readable_shards())]

    def _readable_shards(self) -> list[RunDirectory]:
        shards = self.shards()
        if shards and (fold := self.read_state().fold) is not None:
            if fold.done:
                return []  # the run's own files have all of their lines
            raise RunInUseError(
                f"the shards of {self.path} are being merged",
                help_text=f"run the command again in a moment; `{command_line('merge', self.path)}` completes an "
                "interrupted merge",
            )
        return shards


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []


class RunWriter:
    """A run directory that this process alone may write. Made by `open_run`.

    Args:
        directory: the run's paths.
        state: the content of `run.json`.
        lock: the folder's lock, held by this process.

    Attributes:
        directory: the run's paths.
        lock: the folder's lock.
    """

    def __init__(self, directory: RunDirectory, state: RunState, lock: FolderLock) -> None:
        self.directory = directory
        self._state = state
        self.lock = lock
        self._turn = threading.Lock()

    @property
    def state(self) -> RunState:
        """The content of `run.json`."""
        return self._state

    def update(self, change: Callable[[RunState], RunState]) -> RunState:
        """Change `run.json`. Thread-safe.

        Args:
            change: maps the present state to the new one.

        Returns:
            The new state.

        Raises:
            DiskError: it could not be written; file and state are unchanged.
        """
        with self._turn:
            changed = msgspec.structs.replace(change(self._state), version=VERSION, asyncgen=__version__)
            if changed != self._state:
                write_state(self.directory.state, changed)
                self._state = changed
            return changed

    def rewrite(self) -> None:
        """Write `run.json` unchanged, to find out before anything is sent that the disk is full.

        Raises:
            DiskError: it could not be written.
        """
        with self._turn:
            write_state(self.directory.state, self._state)

    def check_lock(self) -> None:
        """Check that this process still holds the run's lock.

        Raises:
            RunInUseError: another process has taken it.
        """
        self.lock.check()


def find_run(path: Path | None, *, root: Path) -> RunDirectory:
    """Find the run that a command reads.

    Args:
        path: a run directory, or the job file that made one; None for the newest run.
        root: the folder of the runs, such as `runs`.

    Returns:
        The run's paths.

    Raises:
        UsageError: there is no run, or `path` is not one.
        DiskError: the folder cannot be read.
    """
    if path is None:
        return newest_run(root)
    if is_job_file(path):
        return _run_of_job(path, root)
    with as_disk_error(f"{path} could not be read"):
        if not (path / STATE_NAME).exists():
            near = nearest(str(path), [str(state.parent) for state in root.glob(f"*/{STATE_NAME}")])
            raise _not_a_run(path, near)
    return RunDirectory(path)


def is_job_file(path: Path) -> bool:
    """Check, by its name alone, whether an argument is a job file and not a run directory.

    Args:
        path: the argument.

    Returns:
        Whether it ends in `.toml` and is not a folder.
    """
    return path.suffix.lower() == ".toml" and not path.is_dir()


def _run_of_job(path: Path, root: Path) -> RunDirectory:
    """The run that a job file made: the one of its name, else the newest one whose rows are of that job."""
    name = _job_name(path)
    named = root / name
    if (named / STATE_NAME).exists():
        return RunDirectory(named)
    states = (*Path().glob(f"*/{STATE_NAME}"), *root.glob(f"*/{STATE_NAME}"))
    found = [state.parent for state in states if _is_of_job(state.parent, name)]
    if not found:
        raise UsageError(
            f"the job {name!r} of {path} has no run yet",
            help_text=f"{command_line('generate', path)}   (creates one), or name a run directory",
            code="not_a_run",
        )
    return RunDirectory(max(found, key=lambda folder: (folder / STATE_NAME).stat().st_mtime_ns))


def _job_name(path: Path) -> str:
    if not os.path.lexists(path):
        raise UsageError(f"there is no file {path}", help_text="asyncgen runs   (lists the runs here)")
    _, raw = read_toml(path)
    name = raw.get("name")
    if not isinstance(name, str) or not name or "/" in name or name in {".", ".."}:
        help_text = f"{command_line('plan', path)}   (shows what is wrong)"
        raise UsageError(f"{path} has no job name", help_text=help_text)
    return name


def _is_of_job(folder: Path, name: str) -> bool:
    try:
        return read_state(folder / STATE_NAME).job.name == name
    except AsyncgenError:
        return False  # a damaged run is not a match


def newest_run(root: Path) -> RunDirectory:
    """Find the run that was written last.

    Args:
        root: the folder of the runs.

    Returns:
        The run's paths.

    Raises:
        UsageError: there is no run.
        DiskError: the folder cannot be read.
    """
    with as_disk_error(f"{root} could not be read"):
        states = [(state.stat().st_mtime_ns, state.parent) for state in root.glob(f"*/{STATE_NAME}")]
    if not states:
        raise UsageError(
            f"there is no run under {root}",
            help_text="asyncgen run   (creates one), or name a run directory",
        )
    return RunDirectory(max(states)[1])


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that the user named for writing, as `whole_file.replacing` does, unless it belongs to a run.

    Args:
        path: the file.

    Yields:
        The open file. It replaces `path` when the block ends without an error.

    Raises:
        UsageError: the file belongs to a run, perhaps through a link.
        DiskError: as `replacing`.
    """
    refuse_run_file(path)
    with replacing(path) as file:
        yield file


def refuse_run_file(path: Path) -> None:
    """Check that writing to a path would not overwrite a file of a run.

    Args:
        path: the output that the user named.

    Raises:
        UsageError: it would.
    """
    target = Path(os.path.realpath(path))
    in_run = (target.parent / STATE_NAME).exists() or target.parent.name == BATCHES_NAME
    is_ours = target.name in FILE_NAMES or _PART_FILE.fullmatch(target.name) is not None
    is_kept = is_ours or target.suffix in {".torn", ".bad"} or target.parent.name == BATCHES_NAME
    run = target.parent.parent if target.parent.name == BATCHES_NAME else target.parent
    if in_run and is_kept and (run / STATE_NAME).exists():
        raise UsageError(
            f"{path} is a file of the run {run} and must not be overwritten",
            help_text="name another file",
            code="run_file",
        )


@contextmanager
def open_run(path: Path, *, job_name: str | None = None) -> Iterator[RunWriter]:
    """Open a run for writing, locked until the block ends.

    Args:
        path: the run directory; created if a job is named.
        job_name: the job to run there; None to open an existing run of any job.

    Yields:
        The writer.

    Raises:
        UsageError: it is not a run directory, or belongs to another job.
        RunInUseError: another process writes it.
        AsyncgenError: it was written by a newer release.
        DiskError: it cannot be created, read or written.
    """
    directory = RunDirectory(path)
    missing = _missing_folders(path)
    _claim(directory, create=job_name is not None)
    with locked(path) as lock:
        try:
            remove_leftovers(path, FILE_NAMES.__contains__)
            yield RunWriter(directory, _state_of(directory, job_name), lock)
        except BaseException:
            if missing and _is_untouched(directory):
                _remove_folders(missing)
            raise


def _missing_folders(path: Path) -> list[Path]:
    """The folders that must be created for a run, innermost first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def _is_untouched(directory: RunDirectory) -> bool:
    """Whether the run has no answer, no failure and nothing sent."""
    try:
        state = directory.read_state()
        names = {entry.name: entry.stat().st_size for entry in os.scandir(directory.path)}
    except (OSError, AsyncgenError):
        return False
    kept = {name for name, size in names.items() if size and name not in {STATE_NAME, LOCK_NAME, directory.job.name}}
    return not (kept or state.tried or state.uploads or state.finetuning or state.batches)


def _remove_folders(folders: list[Path]) -> None:
    """Remove the folders that a refused command created; those that are not empty stay."""
    with suppress(OSError):
        for entry in folders[0].iterdir():
            entry.unlink()
        for folder in folders:
            folder.rmdir()


def _claim(directory: RunDirectory, *, create: bool) -> None:
    """Check that the folder is a run or may become one, without touching what is in it."""
    path = directory.path
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True, mode=0o700)  # prompts and answers may be personal data
        names = {entry.name for entry in os.scandir(path)}
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path} is not a folder", help_text="choose another folder with --out") from error
    except FileNotFoundError as error:
        if create:
            raise disk_error(f"the folder {path} could not be created", error) from error
        raise _not_a_run(path) from error
    except OSError as error:
        raise disk_error(f"{path} could not be opened", error) from error
    if STATE_NAME in names:
        return
    other_files = {name for name in names if not name.startswith(LOCK_NAME) and not name.endswith(".tmp")}
    if other_files and create and RECORDS_NAME not in names:
        raise UsageError(
            f"{path} is not a run directory: it contains other files",
            help_text="choose an empty or a new folder with --out",
            code="not_a_run",
        )
    if other_files or not create:
        raise _not_a_run(path)


def _not_a_run(path: Path, near: str | None = None) -> UsageError:
    if (path / "records.jsonl").exists():
        return UsageError(
            f"{path} has records but no {STATE_NAME}",
            help_text=f"{command_line('repair', path)}   (rebuilds it from the records)",
            code="not_a_run",
        )
    what = f"there is no run at {path}"
    if path.exists():
        what = f"{path} is not a run directory: it has no {STATE_NAME}"
    meant = f" (did you mean {near}?)" if near else ""
    return UsageError(what + meant, help_text="asyncgen runs   (lists the runs here)", code="not_a_run")


def _state_of(directory: RunDirectory, job_name: str | None) -> RunState:
    try:
        state = directory.read_state()
    except FileNotFoundError as error:
        if job_name is None:
            raise _not_a_run(directory.path) from error
        state = RunState(job=JobState(name=job_name))
        write_state(directory.state, state)
        return state
    if job_name is not None and state.job.name not in {"", job_name}:
        raise UsageError(
            f"{directory.path} belongs to the job {state.job.name!r}, not to {job_name!r}",
            help_text=f"choose another folder with --out, or set name = {state.job.name!r} in the job file",
            code="other_job",
        )
    if not os.access(directory.path, os.W_OK | os.X_OK):
        raise DiskError(f"{directory.path} is not writable", help_text="choose another folder with --out")
    return state
