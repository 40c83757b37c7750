"""A run in numbers for the first page: counts, spend, time, the map of its grid, and its fine-tuning jobs.

Computed from the index, `run.json` and `events.jsonl`, through a `RunView`. Read-only; events are added to the file
while a job is followed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.finetune.api import Event
from asyncgen.finetune.follow import Point, points_of_events
from asyncgen.generate.distributed.plan import shard_statuses, slowest_first
from asyncgen.json_text import decoder
from asyncgen.run.jsonl import read_rows
from asyncgen.view.index import LATENCY_EDGES_S, RowIndex, places_in

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.directory import RunDirectory
    from asyncgen.run.state import FinetuningState, RunState
    from asyncgen.view.runs import RunView

_MOST_VALUES = 70
_BUCKETS = 90
_IN_A_BUCKET = 4  # with fewer, the curve would alternate between zero and one
_BREAK_S = 600
_MOST_SHARDS = 100
OTHERS = "(others)"


def counters(view: RunView) -> dict[str, Any]:
    """Figures that change during a run, small enough to be sent each second."""
    state, live, index = view.state, view.live, view.index
    counts = {status: rows.bit_count() for status, rows in view.searcher.statuses().items()}
    settled = counts["done"] + counts["rejected"] + counts["failed"] + state.job.twins
    return {
        "version": index.version,
        "offset": index.bytes_read,
        "rows": sum(counts.values()),
        "reading": index.is_behind,
        "counts": counts,
        "requests": state.job.requests,
        "simulated": index.simulated,
        "left": max(state.job.requests - settled, 0),
        "twins": state.job.twins,
        "spend": _spend(view, counts["done"] + counts["rejected"] + counts["stale"]),
        "live": msgspec.to_builtins(live) if live else None,
        "reviews": [len(view.searcher.reviews.undoable), len(view.searcher.reviews.seen)],
        "training": [_size(view.directory.events), [job.status for job in state.finetuning]],
        "bad_lines": [list(line) for line in index.bad_lines[:20]],
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _spend(view: RunView, records: int) -> dict[str, Any]:
    spend, requests = view.state.spend, view.state.job.requests
    is_known = not spend.unpriced
    each = spend.cost_usd / records if records and is_known else None
    return {
        "cost_usd": None if spend.unpriced and not spend.cost_usd else spend.cost_usd,
        "unpriced": spend.unpriced,
        "projected_usd": None if each is None else max(each * requests, spend.cost_usd),
        "max_usd": _max_cost(view),
        "prompt_tokens": spend.usage.prompt_tokens,
        "cached_tokens": spend.usage.cached_tokens,
        "completion_tokens": spend.usage.completion_tokens,
        "reasoning_tokens": spend.usage.reasoning_tokens,
    }


def _max_cost(view: RunView) -> float | None:
    job = view.job
    return None if isinstance(job, AsyncgenError) else job.job.limits.max_cost


def overview(view: RunView) -> dict[str, Any]:
    """Figures of the first page, besides the counters and the map."""
    state, index, job = view.state, view.index, view.job
    return {
        "run": str(view.directory.path),
        "name": view.name,
        "job": state.job.name,
        "model": state.job.model,
        "provider": state.job.generation_provider,
        "axes": axes(view),
        "latency": {"edges_s": list(LATENCY_EDGES_S), "counts": index.latency},
        "timeline": timeline(index),
        "dataset": None if state.dataset is None else msgspec.to_builtins(state.dataset),
        "shards": _shards(view),
        "job_problem": _problem(job) if isinstance(job, AsyncgenError) else None,
    }


def _shards(view: RunView) -> dict[str, Any] | None:
    """The shards of the run that are not merged yet, the slow ones if there are many; None if there are none."""
    found = shard_statuses(view.directory, view.index.ended_in)
    if not found:
        return None
    return {
        "count": len(found),
        "running": sum(each.is_running for each in found),
        "done": sum(not each.left for each in found),
        "shown": [each.as_json() for each in slowest_first(found, _MOST_SHARDS)],
    }


def _problem(error: AsyncgenError) -> dict[str, Any]:
    return {"what": error.what, "cause": error.cause, "help": error.help_text}


def axes(view: RunView) -> list[dict[str, Any]]:
    """The variables with their values: those of the job first, then what only records have."""
    totals = view.totals
    known = dict(totals.values) if totals else {}
    found = {name.removeprefix("axis."): facet for name, facet in view.index.facets.items() if name.startswith("axis.")}
    values = {
        name: list(dict.fromkeys([*known.get(name, []), *(found[name].values if name in found else [])]))
        for name in dict.fromkeys([*known, *found])
    }
    return [{"name": name, "size": len(each), "values": each[: 2 * _MOST_VALUES]} for name, each in values.items()]


def timeline(index: RowIndex) -> dict[str, Any]:
    """Answers over time since the last break of ten minutes, in at most ninety equal steps of some answers each."""
    since = len(index.created)
    while since > 0 and (since == len(index.created) or index.created[since] - index.created[since - 1] < _BREAK_S):
        since -= 1
    times = index.created[since:]
    if not times:
        return {"began": 0, "step_s": 1, "counts": []}
    began, ended = min(times), max(times)
    span_s = ended - began + 1
    step_s = max(-(-span_s // _BUCKETS), _IN_A_BUCKET * span_s // len(times), 1)
    counted = Counter((time - began) // step_s for time in times)
    return {"began": began, "step_s": step_s, "counts": [counted[n] for n in range((ended - began) // step_s + 1)]}


def heat_map(view: RunView, x: str, y: str | None) -> dict[str, Any]:
    """Count the rows of each status for every cell of two axes.

    Args:
        view: of the run.
        x: the horizontal axis.
        y: the vertical axis; None for a single line.

    Returns:
        `x` and `y` with their values in order, and `cells`: (x, y, done, failed, rejected, stale, left) for all that
        have any, x and y as indexes into these lists. `left` is -1 if the job has too many requests to count.
    """
    statuses = view.searcher.statuses()
    columns = [_column(view, x), _column(view, y)]
    totals = view.totals
    known = totals.values if totals else {}
    values = [
        _limited(list(dict.fromkeys([*known.get(name, []), *column])) if name else [""])
        for name, column in zip((x, y), columns, strict=True)
    ]
    places = [{value: place for place, value in enumerate(each)} for each in values]
    counts: dict[tuple[int, int], list[int]] = {}

    def cell(left: str, right: str) -> list[int]:
        at = (places[0].get(left, len(values[0]) - 1), places[1].get(right, len(values[1]) - 1))
        return counts.setdefault(at, [0, 0, 0, 0, -1 if totals is None else 0])

    across, down = view.index.facets.get(f"axis.{x}"), view.index.facets.get(f"axis.{y}") if y else None
    for number, bits in enumerate(statuses.values()):
        rows = places_in(bits)
        pairs = Counter((across.code(row) if across else -1, down.code(row) if down else -1) for row in rows)
        for (left, right), count in pairs.items():
            cell(_value(across, left), _value(down, right) if y else "")[number] += count
    if totals is not None and x in totals.codes and (y is None or y in totals.codes):
        for (value, other), count in totals.cells(x, y).items():
            cell(value, other)[4] += count
        for each in counts.values():
            each[4] = max(each[4] - each[0] - each[1] - each[2], 0)
    return {
        "x": {"name": x, "values": values[0]},
        "y": {"name": y, "values": values[1]},
        "cells": [[*at, *each] for at, each in sorted(counts.items())],
    }


def _value(facet: Any, code: int) -> str:
    return facet.values[code] if facet is not None and 0 <= code < len(facet.values) else ""


def _column(view: RunView, name: str | None) -> list[str]:
    facet = view.index.facets.get(f"axis.{name}") if name else None
    return facet.values if facet else []


def _limited(values: list[str]) -> list[str]:
    """The values, or the first of them and one entry for all others."""
    return values if len(values) <= _MOST_VALUES else [*values[:_MOST_VALUES], OTHERS]


_EVENTS_SHOWN = 200
_POINTS_SHOWN = 2000
_ENDED = frozenset({"succeeded", "completed", "failed", "error", "user_error", "cancelled"})
_decode_event = decoder(Event)


def training_of(directory: RunDirectory, state: RunState) -> dict[str, Any]:
    """The jobs of a run, the newest first.

    Raises:
        BadLineError: a line of `events.jsonl` is not an event.
        DiskError: it cannot be read.
    """
    events: dict[str, list[Event]] = {}
    for _, event in read_rows(directory.events, _decode_event):
        events.setdefault(event.job, []).append(event)
    noted = {job.job_id: job for job in state.finetuning if job.job_id}
    unknown = [job_id for job_id in events if job_id not in noted]
    jobs = [_job(job, events.get(job.job_id or "", [])) for job in reversed(state.finetuning)]
    return {"jobs": jobs + [_unknown_job(job_id, events[job_id]) for job_id in unknown]}


def _job(job: FinetuningState, events: list[Event]) -> dict[str, Any]:
    return {
        "id": job.job_id or "",
        "provider": job.provider,
        "model": job.model,
        "status": job.status or ("created" if job.job_id else "not created yet"),
        "ended": job.status in _ENDED,
        "tuned_model": job.tuned_model,
        "suffix": job.suffix,
        "created": job.created,
        **_events_json(events),
    }


def _unknown_job(job_id: str, events: list[Event]) -> dict[str, Any]:
    """A job that `run.json` does not name, as after a repair."""
    known = {"id": job_id, "provider": "", "model": "", "status": "", "ended": False, "tuned_model": None}
    return {**known, "suffix": None, "created": events[0].created_at, **_events_json(events)}


def _events_json(events: list[Event]) -> dict[str, Any]:
    messages = [event for event in events if event.type != "metrics"]
    return {
        "points": [[point.step, point.train_loss, point.valid_loss] for point in _thinned(points_of_events(events))],
        "events": [
            {"at": event.created_at, "level": event.level, "message": event.message}
            for event in messages[-_EVENTS_SHOWN:]
        ],
        "told": len(events),
    }


def _thinned(points: list[Point]) -> list[Point]:
    """Reduce the number of points for the chart; all points with a validation loss are kept, because they are few."""
    ordered = sorted(points, key=lambda point: point.step)
    step = -(-len(ordered) // _POINTS_SHOWN) or 1
    return [point for number, point in enumerate(ordered) if not number % step or point.valid_loss is not None]
