"""Facts about run directories and their state."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen import __version__
from asyncgen.errors import AsyncgenError, DiskError, UsageError
from asyncgen.run import state as run_state
from asyncgen.run.directory import FILE_NAMES, RunDirectory, RunWriter, find_run, newest_run, open_run, output_file
from asyncgen.run.state import RunState, read_state, write_state

if TYPE_CHECKING:
    from pathlib import Path


def make_run(folder: Path, job_name: str = "campaign") -> None:
    with open_run(folder, job_name=job_name):
        pass


def with_requests(run: RunWriter, requests: int) -> RunState:
    return run.update(
        lambda state: msgspec.structs.replace(state, job=msgspec.structs.replace(state.job, requests=requests))
    )


def edit_state(folder: Path, **fields: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_a_run_is_made_once_and_opened_again(folder: Path) -> None:
    make_run(folder)
    with open_run(folder, job_name="campaign") as run:
        with_requests(run, 162)
    with open_run(folder) as run:
        assert run.state.job.name == "campaign"
        assert run.state.job.requests == 162
        assert run.state == RunDirectory(folder).read_state()


def test_a_run_directory_that_is_a_link_is_followed(tmp_path: Path, folder: Path) -> None:
    """People keep their runs on a larger disk."""
    (tmp_path / "large").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "large")
    make_run(folder)
    assert (tmp_path / "large" / "run.json").exists()


def test_the_run_of_another_job_is_refused_and_unchanged(folder: Path) -> None:
    make_run(folder)
    before = contents(folder)
    with pytest.raises(UsageError, match="belongs to the job 'campaign', not to 'other'") as refused:
        make_run(folder, "other")
    assert "--out" in (refused.value.help_text or "")
    assert contents(folder) == before


def test_a_folder_of_another_program_is_refused_and_unchanged(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("x", encoding="utf-8")
    for job_name in ("campaign", None):
        with pytest.raises(UsageError, match="not a run directory"), open_run(folder, job_name=job_name):
            pass
    assert contents(folder) == {"thesis.tex": b"x"}


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".run.json.123.tmp"]])
def test_a_run_whose_making_was_killed_is_made_again(folder: Path, left: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).touch()
    make_run(folder)
    assert set(contents(folder)) == {".lock", "run.json"}


def test_records_without_a_state_are_not_run_over_but_repaired(folder: Path) -> None:
    make_run(folder)
    (folder / "records.jsonl").touch()
    (folder / "run.json").unlink()
    with pytest.raises(UsageError, match=r"records but no run\.json") as refused:
        make_run(folder)
    assert f"asyncgen repair {folder}" in (refused.value.help_text or "")


def test_a_place_that_is_not_there_is_no_run(folder: Path) -> None:
    with pytest.raises(UsageError, match="there is no run at"), open_run(folder):
        pass
    assert not folder.exists()


def test_a_file_in_the_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    with pytest.raises(UsageError, match="is not a folder"):
        make_run(folder)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*args: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(DiskError) as refused:
        make_run(folder)
    assert refused.value.cause == os.strerror(error)
    assert refused.value.help_text


@pytest.mark.parametrize("name", [".lock", "run.json"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_files_of_a_run_that_are_not_files_are_refused(tmp_path: Path, folder: Path, name: str, kind: str) -> None:
    make_run(folder)
    path = folder / name
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    before = elsewhere.read_bytes()
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(DiskError, match="not a regular file"):
        make_run(folder)
    assert elsewhere.read_bytes() == before


def test_a_run_of_the_first_form_is_read_and_written_in_todays(folder: Path) -> None:
    make_run(folder)
    path = folder / "run.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    del before["tried"]
    path.write_text(json.dumps({**before, "version": 1, "asyncgen": "0.0"}), encoding="utf-8")
    with open_run(folder, job_name="campaign") as run:
        assert run.state.tried == {}
        run.update(lambda state: msgspec.structs.replace(state, uploads=[]))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert (after["version"], after["tried"]) == (run_state.VERSION, {})


def test_a_newer_runs_directory_is_refused_politely(folder: Path) -> None:
    make_run(folder)
    edit_state(folder, version=run_state.VERSION + 1, asyncgen="9.9", job="of a form unknown today")
    with pytest.raises(AsyncgenError, match=r"newer asyncgen \(9\.9\)") as refused:
        make_run(folder)
    assert refused.value.help_text is not None
    assert "pip install --upgrade asyncgen" in refused.value.help_text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0\0\0", b"[]", b'{"version": 1}', b'{"version": "new"}', b'{"asyncgen": "\xff"}']
)
def test_a_damaged_state_is_refused_with_the_command_that_rebuilds_it(folder: Path, content: bytes) -> None:
    make_run(folder)
    (folder / "run.json").write_bytes(content)
    with pytest.raises(DiskError, match="damaged") as refused:
        make_run(folder)
    assert f"asyncgen repair {folder}" in (refused.value.help_text or "")
    assert (folder / "run.json").read_bytes() == content


@given(st.builds(RunState, job=st.builds(run_state.JobState), uploads=st.lists(st.builds(run_state.UploadState))))
def test_any_state_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, state: RunState) -> None:
    path = tmp_path_factory.mktemp("state") / "run.json"
    write_state(path, state)
    assert read_state(path) == state


def test_every_section_survives_being_written(tmp_path: Path) -> None:
    filled = RunState(
        job=run_state.JobState(name="campaign", fingerprint={"model": "1f"}, stale=3),
        spend=run_state.Spend(cost_usd=0.25, unpriced=1, records=4),
        dataset=run_state.DatasetState(
            files=[run_state.DatasetFile(name="train.jsonl", sha256="00", samples=4, bytes=9)], format="chat"
        ),
        uploads=[run_state.UploadState(provider="openai", base_url="https://x/v1", sha256="00", file_id="file-1")],
        finetuning=[
            run_state.FinetuningState(intent="i", provider="p", base_url="u", model="m", training_file="file-1")
        ],
        batches=[run_state.BatchState(intent="i", provider="p", base_url="u", model="m", file_id="file-2", requests=4)],
    )
    write_state(tmp_path / "run.json", filled)
    assert read_state(tmp_path / "run.json") == filled


def test_a_state_that_cannot_be_written_is_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_run(folder, job_name="campaign") as run:
        before = run.state
        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(DiskError):
            with_requests(run, 3)
        assert run.state == before == run.directory.read_state()


def test_no_change_writes_nothing(folder: Path) -> None:
    with open_run(folder, job_name="campaign") as run:
        inode = run.directory.state.stat().st_ino
        with_requests(run, run.state.job.requests)
        assert run.directory.state.stat().st_ino == inode


def test_the_release_that_wrote_last_is_noted(folder: Path) -> None:
    make_run(folder)
    edit_state(folder, asyncgen="0.0.1")
    with open_run(folder) as run:
        with_requests(run, 5)
    assert RunDirectory(folder).read_state().asyncgen == __version__


def test_changes_from_several_threads_are_all_kept(folder: Path) -> None:
    def add_one() -> None:
        for _ in range(20):
            run.update(
                lambda state: msgspec.structs.replace(
                    state, spend=msgspec.structs.replace(state.spend, records=state.spend.records + 1)
                )
            )

    with open_run(folder, job_name="campaign") as run:
        threads = [threading.Thread(target=add_one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.directory.read_state().spend.records == 80


def test_the_newest_run_is_the_one_written_last(tmp_path: Path) -> None:
    for name, age_s in (("a", 30), ("b", 10), ("c", 20)):
        make_run(tmp_path / name, name)
        os.utime(tmp_path / name / "run.json", (1_000_000 - age_s, 1_000_000 - age_s))
    (tmp_path / "no-run").mkdir()
    assert newest_run(tmp_path) == RunDirectory(tmp_path / "b")
    assert find_run(None, root=tmp_path) == RunDirectory(tmp_path / "b")
    assert find_run(tmp_path / "a", root=tmp_path) == RunDirectory(tmp_path / "a")


def test_without_any_run_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run under") as refused:
        newest_run(tmp_path / "runs")
    assert "asyncgen run" in (refused.value.help_text or "")
    with pytest.raises(UsageError, match="there is no run at"):
        find_run(tmp_path / "nowhere", root=tmp_path)


@pytest.mark.parametrize("name", [*sorted(FILE_NAMES), "records.jsonl.torn", "records.jsonl.bad", "batches/x.jsonl"])
@pytest.mark.parametrize("through_link", [False, True])
def test_no_output_takes_the_place_of_a_file_of_a_run(tmp_path: Path, name: str, *, through_link: bool) -> None:
    with open_run(tmp_path / "run", job_name="ads"):
        pass
    path = tmp_path / "run" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    before = path.read_bytes()
    if through_link:
        (tmp_path / "out.csv").symlink_to(path)
    with (
        pytest.raises(UsageError, match="must not be overwritten"),
        output_file(tmp_path / "out.csv" if through_link else path) as file,
    ):
        file.write(b"mine")
    assert path.read_bytes() == before


def test_an_output_may_stand_beside_a_runs_files(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", job_name="ads"):
        pass
    for path in (tmp_path / "run" / "results.csv", tmp_path / "records.jsonl"):
        with output_file(path) as file:
            file.write(b"mine")
        assert path.read_bytes() == b"mine"


def test_a_run_that_is_made_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    with open_run(tmp_path / "runs" / "new", job_name="new"):
        pass
    assert (tmp_path / "runs" / "new").stat().st_mode & 0o077 == 0
