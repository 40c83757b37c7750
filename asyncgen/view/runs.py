"""The runs that a page may view, each read on as it grows; and one row in full, for the pane beside the list.

Lists the runs (a page names a run, never a path), and keeps one reader for each, with index, job and decisions. Every
method may be called from any thread; one query of a run runs at a time. The run's lock is never touched. A row in full
is its line, its request, and its near-duplicates.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from asyncgen.dataset.near_duplicates import shingles, similarity
from asyncgen.dataset.samples import may_be_stale, unusable
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.generate.live_file import LIVE_NAME, LiveState, read_live, sum_of_live
from asyncgen.job.opened import OpenedJob, job_of_run
from asyncgen.run.directory import STATE_NAME, RunDirectory
from asyncgen.run.records import Failure, Record
from asyncgen.run.reviews import REVIEWED_NAME, Action, Review, add_review, read_reviews
from asyncgen.view.index import RowIndex, bits_of
from asyncgen.view.query import Query, QueryResult, Searcher, preview

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from asyncgen.run.state import JobState, RunState


_MOST_ENUMERATED = 300_000
_CHUNK_BYTES = 4 << 20
_LOOKED_THROUGH = 20_000
_LEAST = 0.5
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class GridTotals:
    """How many requests of a job each combination has: the values of each axis in their order, and a row for each."""

    values: dict[str, list[str]]
    codes: dict[str, array[int]]

    def cells(self, x: str, y: str | None) -> Counter[tuple[str, str]]:
        """Requests by the values of one axis or two."""
        if y is None:
            counted = Counter((code, 0) for code in self.codes[x])
            return Counter({(self.values[x][code], ""): count for (code, _), count in counted.items()})
        pairs = Counter(zip(self.codes[x], self.codes[y], strict=True))
        return Counter({(self.values[x][left], self.values[y][right]): n for (left, right), n in pairs.items()})


class RunView:
    """A run that is read on as it grows.

    Args:
        directory: of the run.
        name: by which pages ask for it.
        clock: Unix seconds.
    """

    def __init__(self, directory: RunDirectory, name: str, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.name = name
        self._clock = clock
        self._turn = threading.RLock()
        self.index = RowIndex(directory)
        self.searcher = Searcher(self.index)
        self._state: tuple[tuple[int, ...], RunState] | None = None
        self._job: tuple[JobState, OpenedJob | AsyncgenError] | None = None
        self._reviewed = (0, 0)
        self._stale: tuple[object, int, list[int]] | None = None
        self._totals: tuple[OpenedJob, GridTotals | None] | None = None

    @contextmanager
    def in_turn(self) -> Iterator[RunView]:
        """Read what was appended, with exclusive access until the block ends.

        Raises:
            AsyncgenError: a file of the run cannot be read.
        """
        with self._turn:
            self.index.read_on(_CHUNK_BYTES)
            self._read_reviews()
            self._look_for_stale()
            yield self

    def read_all(self) -> None:
        """Read to the present end of the files."""
        with self.in_turn():
            while self.index.is_behind:
                self.index.read_on()
            self._look_for_stale()

    @property
    def state(self) -> RunState:
        """The content of `run.json`; raises as `RunDirectory.read_state`."""
        files = [self.directory.state, *(shard.state for shard in self.directory.shards())]
        changed = tuple(file.stat().st_mtime_ns for file in files if file.exists())
        if self._state is None or self._state[0] != changed:
            self._state = (changed, self.directory.read_total())
        return self._state[1]

    @property
    def job(self) -> OpenedJob | AsyncgenError:
        """The job as it was run last, or why it cannot be read."""
        of_state = self.state.job
        if self._job is None or self._job[0] != of_state:
            self._job = (of_state, _job_or_error(self.directory))
        return self._job[1]

    @property
    def live(self) -> LiveState | None:
        """The state of the processes that work on the run; None if there are none."""
        folder = self.directory.path
        if (found := read_live(folder, self._clock)) is not None or not (shards := self.directory.shards()):
            return found
        lives = [live for shard in shards if (live := read_live(folder, self._clock, shard.live.name)) is not None]
        if not lives:
            return None
        requests, job = self.state.job.requests, self.state.job
        done = max(self.state.spend.records - job.stale, 0) + job.twins
        live = sum_of_live(lives)
        return msgspec.structs.replace(live, requests=requests, done=done, left=max(requests - done - live.failed, 0))

    @property
    def totals(self) -> GridTotals | None:
        """The job's combinations, if they are few enough to count."""
        job = self.job
        if isinstance(job, AsyncgenError):
            return None
        if self._totals is None or self._totals[0] is not job:
            self._totals = (job, _counted(job) if job.grid.count <= _MOST_ENUMERATED else None)
        return self._totals[1]

    def find(self, query: Query) -> QueryResult:
        """The rows of a query; raises as `Searcher.find` does."""
        return self.searcher.find(query)

    def body_of(self, row: Record) -> dict[str, object] | None:
        """The body of a row's request; None if the job no longer has it."""
        job = self.job
        if isinstance(job, AsyncgenError):
            return None
        request = job.grid.request_of(row.variables, row.repeat)
        if request is None or request.key.hex() != row.key:
            return None
        body: dict[str, object] = orjson.loads(request.body)
        return body

    def review(self, action: Action, places: list[int], *, identifier: str) -> int:
        """Note a decision on the records at these places; returns on how many.

        Raises:
            DiskError: it could not be written.
        """
        answers = {self.index.key(place): self.index.digest(place) for place in places if self.index.digests[place]}
        if answers:
            now = int(self._clock())
            add_review(self.directory.path, Review(id=identifier, created=now, action=action, answers=answers))
            self._read_reviews()
        return len(answers)

    def undo(self, identifier: str) -> str:
        """Undo the latest decision, and return its id.

        Raises:
            UsageError: there is none.
            DiskError: it could not be written.
        """
        undoable = self.searcher.reviews.undoable
        if not undoable:
            raise UsageError("there is nothing to undo")
        review = Review(id=identifier, created=int(self._clock()), action="undo", of=undoable[-1])
        add_review(self.directory.path, review)
        self._read_reviews()
        return undoable[-1]

    def _read_reviews(self) -> None:
        path = self.directory.path / REVIEWED_NAME
        with suppress(FileNotFoundError):
            found = path.stat()
            if (found.st_mtime_ns, found.st_size) != self._reviewed:
                self._reviewed = (found.st_mtime_ns, found.st_size)
                self.searcher.reviews = read_reviews(self.directory.path)

    def _look_for_stale(self) -> None:
        """Find the rows that the job does not ask for any more, among those not looked at yet."""
        job = self.job
        if isinstance(job, AsyncgenError) or not may_be_stale(self.state.job, job.grid):
            self.searcher.stale = 0
            return
        basis = (job, self.index.generation)
        if self._stale is None or self._stale[0] != basis:
            self._stale = (basis, 0, [])
        _, looked, stale = self._stale
        fresh = list(range(looked, len(self.index)))
        for place, line in zip(fresh, self.index.lines(fresh), strict=True):
            row = self.index.decoded(place, line)
            key = job.grid.key_of(row.variables, row.repeat)
            if key is None or key.hex() != row.key:
                stale.append(place)
        if fresh:
            self._stale = (basis, len(self.index), stale)
            self.searcher.stale = bits_of(stale)


def _job_or_error(directory: RunDirectory) -> OpenedJob | AsyncgenError:
    try:
        return job_of_run(directory)
    except AsyncgenError as error:
        return error


def _counted(job: OpenedJob) -> GridTotals:
    names = job.grid.names
    positions: list[dict[str, int]] = [{} for _ in names]
    codes = [array("I") for _ in names]
    for request in job.grid.requests():
        for position, column, value in zip(positions, codes, request.values, strict=True):
            column.append(position.setdefault(value, len(position)))
    return GridTotals(
        {name: list(position) for name, position in zip(names, positions, strict=True)},
        dict(zip(names, codes, strict=True)),
    )


class Runs:
    """The runs of a folder, by name.

    Args:
        root: the folder, such as `runs`.
        named: a run that was named, wherever it stands.
        clock: Unix seconds.
    """

    def __init__(self, root: Path, named: RunDirectory | None, clock: Callable[[], float] = time.time) -> None:
        self._root = root if named is None else named.path.resolve().parent
        self._named = named
        self._clock = clock
        self._views: dict[str, RunView] = {}
        self._turn = threading.Lock()

    @property
    def first(self) -> str | None:
        """Name of the run that the page opens with; None if there is none yet."""
        if self._named is not None:
            return self._named.path.resolve().name
        listed = self.listed()
        return listed[0][0] if listed else None

    def listed(self) -> list[tuple[str, RunDirectory, float]]:
        """Name, directory and time of the last change, the newest first."""
        found = []
        for path in self._root.glob(f"*/{STATE_NAME}"):
            with suppress(OSError):
                changed = max(
                    each.stat().st_mtime
                    for each in (path, path.with_name("records.jsonl"), path.with_name(LIVE_NAME))
                    if each.exists()
                )
                found.append((path.parent.name, RunDirectory(path.parent), changed))
        return sorted(found, key=lambda run: (-run[2], run[0]))

    def view(self, name: str) -> RunView:
        """Open a run for reading. It stays open for later calls.

        Args:
            name: of its directory.

        Returns:
            The reader.

        Raises:
            UsageError: there is no run of that name.
        """
        with self._turn:
            if name not in self._views:
                self._views[name] = RunView(self._directory(name), name, self._clock)
            return self._views[name]

    def _directory(self, name: str) -> RunDirectory:
        if self._named is not None and name == self._named.path.resolve().name:
            return self._named
        for listed, directory, _ in self.listed():
            if listed == name:
                return directory
        raise UsageError(f"there is no run {name!r} here", help_text="the list of runs shows all runs")


def previews(view: RunView, places: list[int]) -> list[dict[str, Any]]:
    """Rows as lines of a list, in the order given.

    Raises:
        DiskError: a file of the run cannot be read.
    """
    sets = _Sets.of(view)
    return [_preview(view, place, line, sets) for place, line in zip(places, view.index.lines(places), strict=True)]


@dataclass(frozen=True, slots=True)
class _Sets:
    """The sets that a row can be in."""

    statuses: dict[str, int]
    rejected: int
    seen: int

    @classmethod
    def of(cls, view: RunView) -> _Sets:
        searcher = view.searcher
        return cls(searcher.statuses(), searcher.rejected_by_person(), searcher.seen())


def _preview(view: RunView, place: int, line: bytes, sets: _Sets) -> dict[str, Any]:
    row = view.index.decoded(place, line)
    return {
        "key": row.key,
        "index": row.index,
        "repeat": row.repeat,
        "variables": row.variables,
        "status": next((status for status, rows in sets.statuses.items() if rows >> place & 1), "stale"),
        "text": preview(row),
        "created": row.created,
        "seen": bool(sets.seen >> place & 1),
        "rejected": bool(sets.rejected >> place & 1),
        **_figures(row),
    }


def _figures(row: Record | Failure) -> dict[str, Any]:
    if not isinstance(row, Record):
        return {"latency_s": None, "tokens": None, "finish_reason": None, "marks": [row.error.type]}
    reason = unusable(row)
    return {
        "latency_s": row.latency_s,
        "tokens": row.usage.completion_tokens,
        "finish_reason": row.finish_reason,
        "marks": [*row.check_failures, *([reason] if reason else [])],
    }


def detail(view: RunView, place: int) -> dict[str, Any]:
    """One row in full.

    Raises:
        DiskError: a file of the run cannot be read.
    """
    line = next(view.index.lines([place]))
    row = view.index.decoded(place, line)
    job = view.job
    body = view.body_of(row) if isinstance(row, Record) else None
    return {
        **_preview(view, place, line, _Sets.of(view)),
        "line": orjson.loads(line),
        "raw": line.decode("utf-8", "replace").rstrip("\n"),
        "fields": _fields(row.completion) if isinstance(row, Record) else None,
        "request": body,
        "request_problem": None if body is not None else _why_no_request(job),
    }


def _why_no_request(job: object) -> str:
    if isinstance(job, AsyncgenError):
        return f"The job of this run cannot be opened: {job.what}."
    return "This row no longer belongs to the job, so its request is not known."


def _fields(completion: str) -> dict[str, Any] | None:
    """The fields of an answer that is a JSON object; None for any other answer."""
    text = completion.strip().removeprefix("```json").removesuffix("```").strip()
    if not text.startswith("{"):
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def similar(view: RunView, place: int) -> list[dict[str, Any]]:
    """The answers that are most like that of a record, by the measure by which `prepare` finds near-duplicates.

    Answers to the same prompt are all looked at, of the others those that are nearest in length, 20,000 at most.

    Raises:
        DiskError: a file of the run cannot be read.
    """
    row = view.index.row(place)
    if not isinstance(row, Record):
        return []
    mine = shingles(row.completion)
    found = sorted(
        ((similarity(mine, shingles(text)), other) for other, text in _candidates(view, place)), reverse=True
    )
    best = [(score, other) for score, other in found[:_SHOWN] if score >= _LEAST]
    lines = previews(view, [other for _, other in best])
    same = view.index.prompts[place]
    return [
        {**line, "similarity": score, "same_prompt": view.index.prompts[other] == same}
        for (score, other), line in zip(best, lines, strict=True)
    ]


def _candidates(view: RunView, place: int) -> Iterator[tuple[int, str]]:
    index = view.index
    prompt, length = index.prompts[place], index.lengths[place]
    records = [other for other in range(len(index)) if index.digests[other] and other != place]
    near = sorted(records, key=lambda other: (index.prompts[other] != prompt, abs(index.lengths[other] - length)))
    chosen = near[:_LOOKED_THROUGH]
    for other, line in zip(chosen, index.lines(chosen), strict=True):
        row = index.decoded(other, line)
        if isinstance(row, Record):
            yield other, row.completion
