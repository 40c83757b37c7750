from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import orjson
import pytest

from asyncgen.errors import UsageError
from asyncgen.generate.journal.repair import set_rejected_aside
from asyncgen.run.directory import Run, open_run
from asyncgen.run.records import Record, Usage, encode_line
from asyncgen.run.state import RunState, Spend


def record(number: int) -> Record:
    return Record(
        key=f"{number:016x}{0:016x}", index=number, repeat=0, variables={"a": str(number)}, prompt="p",
        completion="c", model="m", finish_reason="stop", usage=Usage(), attempts=1, check_failures=[],
        latency_s=1.0, created=1,
    )  # fmt: skip


@contextmanager
def run_with(path: Path, rejected: dict[int, str] | None) -> Iterator[Run]:
    with open_run(path, job_name="j") as run:
        run.directory.records.write_bytes(b"".join(encode_line(record(number)) for number in range(1, 6)))
        run.update(lambda state: msgspec.structs.replace(state, spend=Spend(records=5, cost_usd=1.0)))
        if rejected is not None:
            lines = ({"key": record(number).key, "reason": reason} for number, reason in rejected.items())
            run.directory.rejected.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        yield run


def indexes(path: Path) -> list[int]:
    return [orjson.loads(line)["index"] for line in path.read_bytes().splitlines()]


def test_rejected_records_leave_the_run_and_are_kept_beside_it(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", {2: "empty", 4: "check: max_sentences", 5: "stale"}) as run:
        assert set_rejected_aside(run) == 2
        assert indexes(run.directory.records) == [1, 3, 5]
        assert indexes(run.directory.replaced) == [2, 4]
        state: RunState = run.state
        assert (state.spend.records, state.spend.cost_usd) == (3, 1.0)


def test_new_answers_are_not_taken_out_by_an_old_list(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", {2: "empty"}) as run:
        set_rejected_aside(run)
        with pytest.raises(UsageError, match="does not say which answers were rejected"):
            set_rejected_aside(run)
        assert indexes(run.directory.records) == [1, 3, 4, 5]


def test_a_run_that_was_not_prepared_is_told_so(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", None) as run, pytest.raises(UsageError) as caught:
        set_rejected_aside(run)
    assert "asyncgen prepare" in (caught.value.help_text or "")
