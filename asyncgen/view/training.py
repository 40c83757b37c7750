"""The fine-tuning jobs of a run for the page: state, events and curves.

Read-only, from `run.json` and `events.jsonl`; events are added to the file while a job is followed.
"""

from __future__ import annotations

from typing import Any

from asyncgen.finetune.api import Event
from asyncgen.finetune.loss_curve import Point, points_of_events
from asyncgen.json_text import decoder
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.state import FinetuningState, RunState

_EVENTS_SHOWN = 200
_POINTS_SHOWN = 2000
_ENDED = frozenset({"succeeded", "completed", "failed", "error", "user_error", "cancelled"})
_decode_event = decoder(Event)


def training_of(directory: RunDirectory, state: RunState) -> dict[str, Any]:
    """The jobs of a run, the newest first.

    Raises:
        BadLineError: a line of `events.jsonl` is no event.
        DiskError: it cannot be read.
    """
    events: dict[str, list[Event]] = {}
    for _, event in read_rows(directory.events, _decode_event):
        events.setdefault(event.job, []).append(event)
    noted = {job.job_id: job for job in state.finetuning if job.job_id}
    strangers = [job_id for job_id in events if job_id not in noted]
    jobs = [_job(job, events.get(job.job_id or "", [])) for job in reversed(state.finetuning)]
    return {"jobs": jobs + [_stranger(job_id, events[job_id]) for job_id in strangers]}


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
        **_told(events),
    }


def _stranger(job_id: str, events: list[Event]) -> dict[str, Any]:
    """A job that `run.json` does not name, as after a repair."""
    known = {"id": job_id, "provider": "", "model": "", "status": "", "ended": False, "tuned_model": None}
    return {**known, "suffix": None, "created": events[0].created_at, **_told(events)}


def _told(events: list[Event]) -> dict[str, Any]:
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
    """At most so many points; those with a validation loss, of which there are few, are all kept."""
    ordered = sorted(points, key=lambda point: point.step)
    step = -(-len(ordered) // _POINTS_SHOWN) or 1
    return [point for number, point in enumerate(ordered) if not number % step or point.valid_loss is not None]
