"""Facts about which records belong to a job: by their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.export.files import ordered_records
from asyncgen.dataset.report.collect import make_report
from asyncgen.dataset.samples import Selection
from asyncgen.generate.journal.journal import open_journal
from asyncgen.generate.journal.stale import accept_stale, find_stale
from asyncgen.generate.plan.request_tokens import measure_run
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Generate, Job, Prompt
from asyncgen.job.requests import RequestGrid
from asyncgen.run.directory import RunWriter, open_run
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Record, Usage, decode_record

if TYPE_CHECKING:
    from pathlib import Path

CITIES = ["Rome", "Oslo"]
SIZES = ["small", "large"]


def job_of(user: str, sample: str, **axes: list[str]) -> tuple[Job, RequestGrid]:
    job = Job(
        name="ads",
        grid={name: [*values] for name, values in axes.items()},
        prompt=Prompt(user=user, sample=sample),
        generate=Generate(repeats=2),
    )
    return job, RequestGrid(job, Combinations(axes), "m")


BEFORE = job_of("Sell in {city}, {size}.", "{city}, {size}", city=CITIES, size=SIZES)
CHANGED = {
    "an axis is renamed": job_of("Sell in {town}, {size}.", "{town}, {size}", town=CITIES, size=SIZES),
    "axes change places": job_of("Sell in {city}, {size}.", "{city}, {size}", size=SIZES, city=CITIES),
    "axes are merged": job_of(
        "Sell in {both}.", "{both}", both=[f"{city}, {size}" for city in CITIES for size in SIZES]
    ),
    "an axis nobody names": job_of("Sell in {city}, {size}.", "{city}, {size}", city=CITIES, size=SIZES, x=["1"]),
    "an axis of twins": job_of("Sell in {city}, {size}.", "{city}, {size}", city=CITIES, size=SIZES, x=["1", "2"]),
}


def record_of(grid: RequestGrid, number: int) -> Record:
    request = list(grid.requests())[number]
    return Record(
        key=request.key.hex(), index=request.index, repeat=request.repeat, variables=grid.variables(request),
        prompt=grid.prompt(request), completion=f"Advert {number}.", model="m", finish_reason="stop", usage=Usage(),
        attempts=1, check_failures=[], latency_s=0.1, created=1,
    )  # fmt: skip


def settle(run: RunWriter, grid: RequestGrid, numbers: range) -> None:
    with open_journal(run, cost_of=lambda _usages, _in_batch: 0.0) as journal:
        journal.settle([record_of(grid, number) for number in numbers])


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED.keys())
def test_a_change_that_leaves_the_requests_as_they_are_loses_nothing(
    tmp_path: Path, changed: tuple[Job, RequestGrid]
) -> None:
    job, grid = changed
    with open_run(tmp_path / "run", job_name="ads") as run:
        accept_stale(run, BEFORE[1], find_stale(run, BEFORE[1]))
        settle(run, BEFORE[1], range(8))
        stale = find_stale(run, grid)
        assert (stale.records, stale.more) == (0, 0)
        accept_stale(run, grid, stale)
        records = [record for _, record in read_rows(run.directory.records, decode_record)]
        selection = Selection(job, grid, stale=True)
        own = [selection.own(record) for record in records]
        judged = [selection.judge(record) for record in own if record is not None]
        assert [(samples[0].prompt, samples[0].answer, reason) for samples, reason in judged] == [
            (record.prompt, record.completion, None) for record in records
        ]
        exported = list(ordered_records(run.directory.record_files(), grid))
        assert sorted(record.completion for record in exported) == sorted(record.completion for record in records)
        assert all(record.variables.keys() == set(grid.names) for record in exported)
        there = measure_run(run.directory, grid)
        assert (there.settled, there.stale, grid.count - there.twins - there.settled) == (8, 0, 0)
        coverage = make_report(run.directory, job, grid).coverage
        assert (coverage.filled, coverage.left, coverage.stale) == (grid.count, 0, 0)


@given(
    settled=st.integers(0, 8), values=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True)
)
def test_no_row_left_means_as_many_records_that_are_not_stale(
    tmp_path_factory: pytest.TempPathFactory, settled: int, values: list[str]
) -> None:
    _, grid = job_of("Sell in {city}, {size}.", "{city}", city=CITIES, size=SIZES, unused=values)
    with open_run(tmp_path_factory.mktemp("runs") / "run", job_name="ads") as run:
        accept_stale(run, BEFORE[1], find_stale(run, BEFORE[1]))
        settle(run, BEFORE[1], range(settled))
        stale = find_stale(run, grid)
        twins = sum(map(len, grid.twins().values()))
        left = sum(1 for request in grid.requests() if request.key not in keys_of(run))
        assert (left == 0) == (settled - stale.records == grid.count - twins)


def keys_of(run: RunWriter) -> set[bytes]:
    return {bytes.fromhex(record.key) for _, record in read_rows(run.directory.records, decode_record)}


def test_a_row_is_known_by_its_key_although_its_variables_say_otherwise() -> None:
    _, grid = job_of("Sell in {town}, {size}.", "{town}, {size}", town=CITIES, size=SIZES)
    record = record_of(BEFORE[1], 3)
    assert grid.match(record) is None  # before anybody looked
    grid.index_keys({bytes.fromhex(record.key)})
    own = grid.match(record)
    assert own is not None
    assert own.variables == {"town": "Rome", "size": "large"}
    assert (own.key, own.completion) == (record.key, record.completion)
