"""One row in full: its line, its request, and its near-duplicates, for the pane beside the list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from asyncgen.dataset.near_duplicates import shingles, similarity
from asyncgen.dataset.samples import unusable
from asyncgen.errors import AsyncgenError
from asyncgen.run.records import Failure, Record
from asyncgen.view.query import preview

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncgen.view.runs import RunView

_LOOKED_THROUGH = 20_000
_LEAST = 0.5
_SHOWN = 12


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
    """A row whole.

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
    return "The job does not ask for this row any more, so its request is not known."


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
