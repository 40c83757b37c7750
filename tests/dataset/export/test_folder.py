"""A dataset folder: samples by split, a card that tells where they are from, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.dataset.export.files import ordered_records
from asyncgen.dataset.export.folder import export_folder
from asyncgen.dataset.prepare_run import prepare_run
from asyncgen.dataset.split import plan_split
from asyncgen.errors import DiskError, UsageError
from asyncgen.providers.prices import PriceList
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import open_run

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

VALIDATED = '[dataset]\nvalidation = 0.25\nseed = 7\nsystem = "You sell."\n'


def export(made: Any, path: Path) -> int:
    plan = plan_split(made.opened.grid, made.opened.job.dataset, None)
    return export_folder(path, ordered_records(made.directory.record_files(), None), made.opened, plan).rows


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_samples_stand_on_the_sides_where_prepare_puts_them(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(VALIDATED).fill()
    assert export(made, tmp_path / "hub") == 36
    with open_run(made.path) as run:
        prepare_run(run, made.opened.job, made.opened.grid, provider=PROFILES["local"], prices=PriceList())
    for side in ("train", "validation"):
        prepared = rows(made.path / f"{side}.jsonl")
        assert [row["prompt"] + row["completion"] for row in rows(tmp_path / "hub" / "data" / f"{side}.jsonl")] == [
            row["messages"] for row in prepared
        ]


def test_a_row_has_prompt_completion_and_where_it_came_from(make_run: MakeRun, tmp_path: Path) -> None:
    export(make_run(VALIDATED).fill(), tmp_path / "hub")
    row = next(row for row in rows(tmp_path / "hub" / "data" / "train.jsonl") if row["repeat"] == 1)
    assert set(row) == {"prompt", "completion", "variables", "repeat", "model"}
    assert row["prompt"][0] == {"role": "system", "content": "You sell."}
    assert row["prompt"][1]["content"] == ", ".join(row["variables"].values())
    assert [message["role"] for message in row["completion"]] == ["assistant"]


def test_the_card_states_job_model_dates_and_hashes(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(VALIDATED).fill()
    export(made, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    front = card.split("---")[1]
    assert 'pretty_name: "shops"' in front
    assert "path: data/train.jsonl" in front
    assert "- n<1K" in front
    assert "`some-model-2026` (36)" in card
    assert "2026-09-21 to 2026-09-21" in card
    for name in ("data/train.jsonl", "data/validation.jsonl", "job.toml"):
        assert hashlib.sha256((tmp_path / "hub" / name).read_bytes()).hexdigest() in card
    assert (tmp_path / "hub" / "job.toml").read_text() == made.opened.file.text


def test_nothing_from_the_run_becomes_markup_of_the_card(make_run: MakeRun, tmp_path: Path) -> None:
    job = 'name = "x"\n[grid]\nshop = ["<b>a</b>|`b`", "[c](http://x)"]\n[prompt]\nuser = "{shop}"\n'
    made = make_run(job=job).fill(lambda record: msgspec.structs.replace(record, model="<script>\n# head"))
    export(made, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    body = card.split("<!-- made by asyncgen export -->")[1]
    assert "<" not in body
    assert "](" not in body
    assert "\n# head" not in body


def test_only_samples_are_in_it(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run().fill(
        lambda record: msgspec.structs.replace(record, finish_reason="length" if record.index < 30 else "stop")
    )
    assert export(made, tmp_path / "hub") == 6
    assert not (tmp_path / "hub" / "data" / "validation.jsonl").exists()


def test_an_earlier_export_is_replaced_whole(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(VALIDATED).fill()
    export(made, tmp_path / "hub")
    made.write(made.records[:3])
    made.opened = make_run().opened
    export(made, tmp_path / "hub")
    assert sorted(path.name for path in (tmp_path / "hub" / "data").iterdir()) == ["train.jsonl"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_no_export_is_never_touched(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run().fill()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own")
    with pytest.raises(UsageError, match="not an export of asyncgen"):
        export(made, tmp_path / "mine")
    with pytest.raises(UsageError, match="not an export of asyncgen"):
        export(made, tmp_path / "run.toml")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own"


def test_an_empty_folder_is_filled(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    assert export(make_run().fill(), tmp_path / "hub") == 36


def test_without_a_sample_there_is_no_folder(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run().fill(lambda record: msgspec.structs.replace(record, completion=""))
    with pytest.raises(UsageError, match="no answer"):
        export(made, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_an_export_that_breaks_off_leaves_the_earlier_folder(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(VALIDATED).fill()
    export(made, tmp_path / "hub")
    before = (tmp_path / "hub" / "README.md").read_bytes()

    def breaking() -> Iterator[Record]:
        yield from made.records[:5]
        raise DiskError("the records could not be read")

    with pytest.raises(DiskError):
        export_folder(
            tmp_path / "hub", breaking(), made.opened, plan_split(made.opened.grid, made.opened.job.dataset, None)
        )
    assert (tmp_path / "hub" / "README.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "run", "run.toml"]
