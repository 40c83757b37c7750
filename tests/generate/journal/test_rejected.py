from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from asyncgen.errors import UsageError
from asyncgen.generate.journal.journal import open_journal
from asyncgen.generate.journal.repair import SetAside, set_rejected_aside, set_simulated_aside
from asyncgen.run.directory import RunWriter, open_run
from asyncgen.run.jsonl import LineFile
from asyncgen.run.records import Record, Usage, encode_line
from asyncgen.run.simulated import count_simulated
from asyncgen.run.state import RunState, Spend


def record(number: int) -> Record:
    return Record(
        key=f"{number:016x}{0:016x}", index=number, repeat=0, variables={"a": str(number)}, prompt="p",
        completion="c", model="m", finish_reason="stop", usage=Usage(), attempts=1, check_failures=[],
        latency_s=1.0, created=1,
    )  # fmt: skip


@contextmanager
def run_with(path: Path, rejected: dict[int, str] | None) -> Iterator[RunWriter]:
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
        assert set_rejected_aside(run).moved == 2
        assert indexes(run.directory.records) == [1, 3, 5]
        assert indexes(run.directory.replaced) == [2, 4]
        state: RunState = run.state
        assert (state.spend.records, state.spend.cost_usd) == (3, 1.0)


def test_given_again_it_goes_on_until_every_replaced_row_has_its_new_answer(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", {2: "empty", 3: "empty"}) as run:
        assert set_rejected_aside(run) == SetAside(2)
        for number in (2, 3):
            assert set_rejected_aside(run) == SetAside(0, goes_on=True)
            with run.directory.records.open("ab") as file:
                file.write(encode_line(record(number)))
        with pytest.raises(UsageError, match="not known which answers of"):
            set_rejected_aside(run)  # the new answers are not taken out by an old list
        assert indexes(run.directory.records) == [1, 4, 5, 2, 3]


def test_records_of_a_simulation_are_set_aside(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", None) as run:
        made_up = msgspec.structs.replace(record(6), simulated=True)
        tricky = msgspec.structs.replace(record(7), completion=',"simulated":true')
        with run.directory.records.open("ab") as file:
            file.write(encode_line(made_up) + encode_line(tricky))
        assert count_simulated(run.directory.records) == 1
        assert set_simulated_aside(run) == 1
        assert indexes(run.directory.records) == [1, 2, 3, 4, 5, 7]
        assert indexes(run.directory.replaced) == [6]


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", range(1, 6))
def test_a_crash_anywhere_keeps_every_answer_once_and_the_money_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Of five records three are counted; the first and the fourth are rejected."""
    with run_with(tmp_path / "run", {1: "empty", 4: "empty"}) as run:
        run.update(lambda state: msgspec.structs.replace(state, spend=Spend(records=3, cost_usd=3.0)))
        steps = 0

        def crashing(function: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == step:
                    raise Crash
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch, suppress(Crash):
            patch.setattr(RunWriter, "update", crashing(RunWriter.update))
            patch.setattr(LineFile, "append", crashing(LineFile.append))
            patch.setattr(Path, "rename", crashing(Path.rename))
            set_rejected_aside(run)
        if run.directory.rejected.exists():
            set_rejected_aside(run)
        assert indexes(run.directory.records) == [2, 3, 5]
        assert sorted(indexes(run.directory.replaced)) == [1, 4]
        with open_journal(run, cost_of=lambda usages, _in_batch: float(len(usages))) as journal:
            assert journal.spend.total.cost_usd == 4.0  # three counted, and the fifth is found; the fourth never was
            assert journal.spend.total.records == 3


def test_a_run_that_was_not_prepared_is_told_so(tmp_path: Path) -> None:
    with run_with(tmp_path / "run", None) as run, pytest.raises(UsageError) as caught:
        set_rejected_aside(run)
    assert "asyncgen prepare" in (caught.value.help_text or "")
