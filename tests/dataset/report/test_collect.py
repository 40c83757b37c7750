"""A report tells what is in a run, row by row counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.dataset.report import collect
from asyncgen.dataset.report.collect import Report, make_report
from asyncgen.dataset.report.quality import Coverage
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.records import Record, Usage

if TYPE_CHECKING:
    from pathlib import Path

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

CHECKED = "[checks]\nmax_words = 12\nmust_match = ['[.]$']\n"


def report(made: Any) -> Report:
    return make_report(made.directory, made.opened.job, made.opened.grid)


def test_a_full_run_is_covered_everywhere(make_run: MakeRun) -> None:
    found = report(make_run().fill())
    assert found.coverage == Coverage(36, filled=36)
    assert [axis.name for axis in found.axes] == ["sector", "city"]
    assert dict(found.axes[1].values or {}) == {
        city: Coverage(12, filled=12) for city in ("Brussels", "Paris", "Berlin")
    }
    assert found.finish_reasons == {"stop": 36}
    assert found.models == {"some-model-2026": 36}
    assert not found.rejected
    assert not found.failures


def test_each_row_comes_to_one_fate(make_run: MakeRun) -> None:
    def change(record: Record) -> Record | None:
        changes: dict[int, dict[str, Any]] = {
            0: {"finish_reason": "length"},
            1: {"completion": "I'm sorry, but I can't help with that."},
            2: {"finish_reason": "content_filter"},
            3: {"completion": "word " * 13},
        }
        return (
            None if record.index in {4, 5, 6, 7} else msgspec.structs.replace(record, **changes.get(record.index, {}))
        )

    made = make_run(CHECKED).fill(change)
    made.fail(4)
    made.fail(4)
    made.fail(5, "refusal")
    made.fail(8)  # and was answered later
    found = report(made)
    assert found.coverage == Coverage(36, filled=28, rejected=2, refused=3, failed=1)
    assert found.coverage.left == 2
    assert found.coverage.holes == 8
    assert found.failures == {"server_error": 1, "refusal": 1}
    assert found.rejected == {"truncated": 1, "refused": 1, "filtered": 1, "check: max_words": 1}
    assert found.checks == {"max_words": 1, "must_match: [.]$": 1}
    assert found.axes[0].values == {
        "Grocery": Coverage(9, filled=1, rejected=2, refused=3, failed=1),
        "Pharmacy": Coverage(9, filled=9),
        "Bakery": Coverage(9, filled=9),
        "Books": Coverage(9, filled=9),
    }


def test_rows_of_an_earlier_form_of_the_job_are_stale_and_no_holes(make_run: MakeRun) -> None:
    made = make_run().fill()
    job = made.path.parent.joinpath("run.toml").read_text().replace('"Paris", ', '"Rome", ')
    found = report(make_run(job=job))
    assert found.coverage == Coverage(36, filled=24, stale=12)
    assert found.coverage.left == 12
    cities = found.axes[1].values
    assert cities is not None
    assert cities["Paris"] == Coverage(0, stale=12)
    assert cities["Rome"] == Coverage(12)


def test_duplicates_and_near_duplicates_are_counted(make_run: MakeRun) -> None:
    text = "Give your shops a safe way to accept cards online, because every customer wants it now."
    spoken = {0: text, 1: text, 2: text.replace("safe", "quick")}
    made = make_run().fill(
        lambda record: msgspec.structs.replace(record, completion=spoken.get(record.index, record.completion))
    )
    found = report(made)
    assert (found.duplicates, found.near_duplicates) == (1, 1)


def test_texts_are_measured(make_run: MakeRun) -> None:
    made = make_run().fill(
        lambda record: msgspec.structs.replace(record, completion=f"Take cards online{' now' * (record.index % 3)}.")
    )
    found = report(made)
    assert found.words.summary().smallest == 3
    assert found.words.summary().largest == 5
    assert found.characters.summary().count == found.coverage.filled
    assert found.openings[0][0] == "Take cards online"
    one, two, three = found.diversity.distinct
    assert 0 < one <= two <= three < 1
    assert found.latency_ms.counts == {250: 36}


def test_spend_is_that_of_the_run(make_run: MakeRun) -> None:
    made = make_run().fill()
    found = report(made)
    assert (found.usage, found.cost_usd, found.unpriced) == (Usage(), 0.0, 0)


def test_a_run_without_answers_is_all_holes(make_run: MakeRun) -> None:
    found = report(make_run())
    assert found.coverage == Coverage(36)
    assert found.coverage.holes == 36
    assert found.diversity.answers == 0


def test_a_job_too_large_to_count_tells_what_is_there_only(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MOST_ENUMERATED", 10)
    found = report(make_run().fill(lambda record: record if record.index < 9 else None))
    assert found.coverage == Coverage(36, filled=9)
    assert found.axes[0].values == {"Grocery": Coverage(None, filled=9)}


def test_an_axis_of_very_many_values_is_not_shown_by_value(make_run: MakeRun, tmp_path: Path) -> None:
    rows = "".join(f"shop number {number}\n" for number in range(1005))
    (tmp_path / "shops.txt").write_text(rows)
    job = 'name = "many"\n[grid]\nshop = { file = "shops.txt" }\nsize = ["small"]\n[prompt]\nuser = "{shop} {size}"\n'
    found = report(make_run(job=job).fill())
    assert found.axes[0].values is None
    assert found.axes[1].values == {"small": Coverage(1005, filled=1005)}


def test_a_damaged_line_ends_it_with_its_number(make_run: MakeRun) -> None:
    made = make_run().fill()
    with made.directory.records.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(BadLineError, match="line 37"):
        report(made)
