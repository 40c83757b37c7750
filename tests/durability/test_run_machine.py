"""A run directory under everything that may happen to it, in any order, against a model of what must be there.

Crashes of the process keep the page cache: files stay as they are, `run.json` stays as written last. A power loss
takes what no fsync covered, and may leave zeros or garbage there. Run: pytest tests/durability/test_run_machine.py;
with `-m slow` fifty times as many, longer ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asyncgen.errors import RunInUseError, UsageError
from asyncgen.generate.journal import files as journal_files
from asyncgen.generate.journal.journal import Journal, open_journal
from asyncgen.generate.journal.run_status import run_status
from asyncgen.generate.journal.stale import accept_stale, find_stale
from asyncgen.job.combinations import Combinations
from asyncgen.job.model import Generate, Job, Prompt
from asyncgen.job.requests import Request, RequestGrid
from asyncgen.run.directory import RunDirectory, RunWriter, open_run
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import Failure, FailureError, Record, Usage, decode_record, encode_line

if TYPE_CHECKING:
    from collections.abc import Callable

CITIES = ("Paris", "Rome", "Oslo", "Bern")
PRICE = 0.5
USAGE = Usage(prompt_tokens=10, completion_tokens=3)


class FlushedByHand:
    """Stands in for the thread that flushes in groups: here the machine says when, and a crash never does."""

    def __init__(self, flush: Callable[[], None], *, check: Callable[[], None]) -> None:
        self.flush = flush
        self.check = check  # never called: nobody removes the lock here
        self.crashed = False

    def mark(self, rows: int) -> None:
        pass

    def close(self) -> None:
        if not self.crashed:
            self.flush()


class RunMachine(RuleBasedStateMachine):
    """The model: settled keys with their lines in order, failed keys with their attempts, what was made safe."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="asyncgen-machine-"))
        self.folder = self.root / "run"
        self.directory = RunDirectory(self.folder)
        self.patch = patch.object(journal_files, "GroupSync", FlushedByHand)
        self.patch.start()
        self.lines: dict[str, bytes] = {}
        self.failed: dict[str, tuple[int, int]] = {}
        self.safe_lines = 0
        self.spent = 0
        self.open = ExitStack()
        self.run: RunWriter | None = None
        self.journal: Journal | None = None
        self.retry_failed = False
        self.given_up_now: set[str] = set()

    def teardown(self) -> None:
        self.open.close()
        self.patch.stop()
        shutil.rmtree(self.root)

    # What is asked for

    @initialize(cities=st.sets(st.sampled_from(CITIES), min_size=1), repeats=st.integers(1, 3))
    def begin(self, cities: set[str], repeats: int) -> None:
        self.set_grid(cities, repeats, "Sell in {city}.")
        self.reopen(retry_failed=False)

    def set_grid(self, cities: set[str], repeats: int, user: str) -> None:
        chosen = [city for city in CITIES if city in cities]
        job = Job(
            name="campaign", grid={"city": list(chosen)}, prompt=Prompt(user=user), generate=Generate(repeats=repeats)
        )
        self.grid = RequestGrid(job, Combinations({"city": chosen}), "model")

    def left(self) -> list[Request]:
        assert self.journal is not None
        is_settled = self.journal.is_settled
        return list(self.grid.wanted(lambda key: not is_settled(key)))

    # What the writer does

    @precondition(lambda self: self.journal is not None)
    @rule(pick=st.integers(0, 30), text=st.text(max_size=30))
    def settle(self, pick: int, text: str) -> None:
        left = self.left()
        if not left:
            return
        request = left[pick % len(left)]
        record = self.record(request, text.encode("utf-8", "ignore").decode())
        assert self.journal is not None
        assert self.journal.claim(request.key)
        self.journal.settle([record])
        self.lines[record.key] = encode_line(record)
        self.spent += 1

    @precondition(lambda self: self.journal is not None)
    @rule(pick=st.integers(0, 30), attempts=st.integers(1, 5))
    def fail(self, pick: int, attempts: int) -> None:
        left = self.left()
        if not left:
            return
        request = left[pick % len(left)]
        key = request.key.hex()
        assert self.journal is not None
        tried = self.journal.tried_before(request.key)
        assert (tried.attempts, tried.maybe_paid) == self.failed.get(key, (0, 0))
        failure = Failure(
            key=key,
            index=request.index,
            repeat=request.repeat,
            variables=self.grid.variables(request),
            error=FailureError(type="server_error", status=500),
            attempts=tried.attempts + attempts,
            maybe_paid=tried.maybe_paid + 1,
            created=1,
        )
        self.journal.fail(failure)
        self.failed[key] = (failure.attempts, failure.maybe_paid)
        self.given_up_now.add(key)

    @precondition(lambda self: self.journal is not None)
    @rule()
    def flush(self) -> None:
        assert self.journal is not None
        self.journal.files._sync.flush()  # type: ignore[attr-defined]
        self.safe_lines = len(self.lines)

    def record(self, request: Request, text: str) -> Record:
        return Record(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=self.grid.variables(request),
            prompt=self.grid.prompt(request),
            completion=text,
            model="model",
            finish_reason="stop",
            usage=USAGE,
            attempts=1,
            check_failures=[],
            latency_s=0.1,
            created=1,
        )

    # What happens to it

    @precondition(lambda self: self.journal is not None)
    @rule()
    def finish(self) -> None:
        self.open.close()
        self.journal = self.run = None
        self.safe_lines = len(self.lines)

    @precondition(lambda self: self.journal is not None)
    @rule(torn=st.binary(max_size=40).filter(lambda tail: b"\n" not in tail and not tail.rstrip().endswith(b"}")))
    def crash(self, torn: bytes) -> None:
        """The process dies, perhaps in the middle of a line."""
        self.die()
        with self.directory.records.open("ab") as file:
            file.write(torn)

    @precondition(lambda self: self.journal is not None)
    @rule(cut=st.integers(0, 3000), filled=st.sampled_from([b"", b"\0" * 50, b'{"key":"ab', b"\xff" * 7]))
    def lose_power(self, cut: int, filled: bytes) -> None:
        """What no fsync covered may be gone, and something else may stand there."""
        self.die()
        lines = list(self.lines.values())
        safe_bytes = sum(map(len, lines[: self.safe_lines]))
        size = max(self.directory.records.stat().st_size - cut, safe_bytes)
        os.truncate(self.directory.records, size)
        kept = [key for key, end in self.ends() if end <= size or (end - 1 == size and not filled)]
        self.lines = {key: self.lines[key] for key in kept}
        with self.directory.records.open("ab") as file:
            file.write(filled)

    def ends(self) -> list[tuple[str, int]]:
        """Keys with the offset at which their lines end."""
        ends, offset = [], 0
        for key, line in self.lines.items():
            offset += len(line)
            ends.append((key, offset))
        return ends

    def die(self) -> None:
        assert self.journal is not None
        self.journal.files._sync.crashed = True  # type: ignore[attr-defined]
        self.open.close()
        self.journal = self.run = None

    @precondition(lambda self: self.journal is None)
    @rule(retry_failed=st.booleans())
    def reopen(self, retry_failed: bool) -> None:
        run = self.open.enter_context(open_run(self.folder, job_name="campaign"))
        accept_stale(run, self.grid, find_stale(run, self.grid))
        run.update(
            lambda state: msgspec.structs.replace(
                state, job=msgspec.structs.replace(state.job, requests=self.grid.count)
            )
        )
        self.journal = self.open.enter_context(
            open_journal(run, cost_of=lambda usages, _in_batch: PRICE * len(usages), retry_failed=retry_failed)
        )
        self.run, self.retry_failed, self.given_up_now = run, retry_failed, set()
        self.safe_lines = len(self.lines)

    @precondition(lambda self: self.journal is None)
    @rule(
        cities=st.sets(st.sampled_from(CITIES), min_size=1),
        repeats=st.integers(1, 3),
        user=st.sampled_from(["Sell in {city}.", "Buy in {city}."]),
    )
    def change_the_job(self, cities: set[str], repeats: int, user: str) -> None:
        self.set_grid(cities, repeats, user)

    @rule()
    def a_second_writer_comes(self) -> None:
        if self.journal is None:
            return
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        with patch("time.sleep"), pytest.raises(RunInUseError), open_run(self.folder, job_name="campaign"):
            pass
        assert {path: path.read_bytes() for path in self.folder.iterdir()} == before

    @precondition(lambda self: self.journal is None)
    @rule()
    def another_job_comes(self) -> None:
        with pytest.raises(UsageError), open_run(self.folder, job_name="other"):
            pass

    # What must hold

    @invariant()
    def no_answer_is_lost_none_is_doubled_and_all_are_read_back(self) -> None:
        if self.directory.records.exists():
            rows = [record for _, record in read_rows(self.directory.records, decode_record)]
            assert [(row.key, encode_line(row)) for row in rows] == list(self.lines.items())

    @invariant()
    def exactly_the_rest_is_left(self) -> None:
        if self.journal is None:
            return
        given_up = self.given_up_now if self.retry_failed else self.failed.keys()
        expected = [
            request.key
            for request in self.grid.requests()
            if request.key.hex() not in self.lines and request.key.hex() not in given_up
        ]
        assert [request.key for request in self.left()] == expected

    @invariant()
    def status_agrees_with_the_job(self) -> None:
        if self.journal is None:
            return
        keys = {request.key.hex() for request in self.grid.requests()}
        status = run_status(self.directory)
        assert status.done == len(keys & self.lines.keys())
        assert status.failed == len((keys & self.failed.keys()) - self.lines.keys())
        assert status.left == self.grid.count - status.done - status.failed

    @invariant()
    def everything_paid_for_is_in_the_spend(self) -> None:
        if self.journal is not None:
            assert self.journal.spend.total.cost_usd >= PRICE * len(self.lines)
            assert self.journal.spend.total.cost_usd <= PRICE * self.spent
            assert self.journal.spend.total.records == len(self.lines)


SETTINGS = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_no_history_loses_doubles_or_forgets_a_row() -> None:
    run_state_machine_as_test(RunMachine, settings=SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_history_loses_doubles_or_forgets_a_row_in_thousands() -> None:
    run_state_machine_as_test(RunMachine, settings=settings(SETTINGS, max_examples=2000, stateful_step_count=50))
