"""asyncgen.finetune.target and tuning_source: which job, which dataset, which provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asyncgen.errors import UsageError
from asyncgen.finetune.api import TuningJob
from asyncgen.finetune.follow import event_log, note_state
from asyncgen.finetune.source import find_source
from asyncgen.finetune.target import Target, find_target, name_of_job, owner_of_model
from asyncgen.providers.choose import EndpointFlags, choose_tuner
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.state import DatasetFile, DatasetState, FinetuningState


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for profile in PROFILES.values():
        monkeypatch.delenv(profile.key_variable or "NO_KEY", raising=False)
        monkeypatch.delenv(profile.base_url_variable or "NO_URL", raising=False)


def make_run(path: Path, *jobs: str, provider: str = "nebius", **fields: Any) -> None:
    with open_run(path, job_name=path.name) as run:
        noted = [
            FinetuningState(
                intent=job, provider=provider, base_url="https://there/v1", model="m", training_file="f", job_id=job,
                tuned_model=f"ft:{job}",
            )
            for job in jobs
        ]  # fmt: skip
        run.update(lambda state: replace(state, finetuning=noted, **fields))


def test_nothing_means_the_newest_runs_newest_job(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "ftjob-1", "ftjob-2")
    target = find_target(None, EndpointFlags())
    assert (target.job_id, target.choice.profile.name, target.where.base_url) == (
        "ftjob-2",
        "nebius",
        "https://there/v1",
    )


def test_a_directory_means_its_newest_job_and_an_id_is_found_in_whatever_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "ftjob-1", "ftjob-2")
    make_run(tmp_path / "runs" / "b", "ftjob-3")
    assert find_target("runs/a", EndpointFlags()).job_id == "ftjob-2"
    found = find_target("ftjob-1", EndpointFlags())
    assert found.run is not None
    assert found.run.path.name == "a"


def test_flags_go_before_what_the_run_notes(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "ftjob-1")
    assert find_target(None, EndpointFlags(provider="crusoe")).choice.profile.name == "crusoe"
    assert find_target(None, EndpointFlags(base_url="https://elsewhere/v1")).choice.profile.name == "custom"
    assert find_target(None, EndpointFlags(base_url="https://there/v1")).choice.profile.name == "nebius"


def test_an_id_that_no_run_knows_is_looked_for_where_a_key_is_set() -> None:
    target = find_target("ftjob-x", EndpointFlags(), {"NEBIUS_API_KEY": "k"})
    assert (target.run, target.choice.profile.name) == (None, "nebius")
    assert find_target("ftjob-x", EndpointFlags(), {}).choice.profile.name == "local"


def test_a_run_without_a_job_says_how_to_create_one(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    with pytest.raises(UsageError, match="has no fine-tuning job") as caught:
        find_target(None, EndpointFlags())
    assert caught.value.help_text is not None
    assert caught.value.help_text.startswith("asyncgen prepare runs/a ")  # it has no dataset


def test_a_tuned_model_leads_to_its_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "ftjob-1")
    owner = owner_of_model("ft:ftjob-1", EndpointFlags())
    assert owner is not None
    assert owner.job_id == "ftjob-1"
    assert owner_of_model("ft:other", EndpointFlags()) is None


def test_a_run_that_is_being_written_is_followed_without_keeping_anything(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "ftjob-1")
    line = b'{"job":"ftjob-1","id":"e1","created_at":1,"message":"m"}\n'
    (tmp_path / "runs" / "a" / "events.jsonl").write_bytes(line)
    target = find_target(None, EndpointFlags())
    with open_run(tmp_path / "runs" / "a"):
        with event_log(target, lambda _: None) as log:
            assert [event.id for event in log.history] == ["e1"]
            log.add(log.history[0])
        note_state(target, TuningJob(id="ftjob-1", status="cancelled", outcome="cancelled"))
    assert (tmp_path / "runs" / "a" / "events.jsonl").read_bytes() == line
    note_state(target, TuningJob(id="ftjob-1", status="cancelled", outcome="cancelled"))
    assert target.run is not None
    assert target.run.read_state().finetuning[0].status == "cancelled"


def test_a_job_of_no_run_is_noted_nowhere() -> None:
    target = Target("x", None, choose_tuner(EndpointFlags(), {}), EndpointFlags())
    note_state(target, TuningJob(id="x", status="s", outcome=None))


def test_a_file_is_tuned_on_where_new_customers_may_else_here(training_file: Path, monkeypatch: Any) -> None:
    assert find_source(training_file, None, None, EndpointFlags(), None).choice.profile.name == "local"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert find_source(training_file, None, None, EndpointFlags(), None).choice.profile.name == "local"
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    monkeypatch.delenv("OPENAI_API_KEY")
    source = find_source(training_file, None, None, EndpointFlags(), None)
    assert source.choice.profile.name == "together"
    assert source.model == "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"
    assert source.run.as_posix() == "runs/train"


def test_a_file_named_with_a_provider_is_tuned_on_there(training_file: Path) -> None:
    assert (
        find_source(training_file, None, None, EndpointFlags(provider="openai"), None).choice.profile.name == "openai"
    )
    with pytest.raises(UsageError, match="no model to fine-tune is set"):
        find_source(training_file, None, None, EndpointFlags(provider="custom"), None)


def test_a_file_inside_a_run_belongs_to_that_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    file = tmp_path / "runs" / "a" / "train.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    source = find_source(file, None, None, EndpointFlags(), None)
    assert (source.run, source.new_run_name) == (file.parent, None)


def test_a_run_needs_a_dataset_that_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    make_run(path)
    with pytest.raises(UsageError, match="has no dataset yet"):
        find_source(None, None, None, EndpointFlags(), None)
    files = [DatasetFile(name=name, sha256="", samples=3, bytes=9) for name in ("train.jsonl", "validation.jsonl")]
    make_run(path, dataset=DatasetState(files=files, format="chat"))
    with pytest.raises(UsageError, match="has no dataset yet"):
        find_source(None, None, None, EndpointFlags(), None)
    (path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    source = find_source(None, None, None, EndpointFlags(), None)
    assert source.dataset.validation is not None
    assert source.run.samefile(path)


def test_a_missing_source_says_how_to_make_one() -> None:
    from pathlib import Path  # noqa: PLC0415 - only here

    with pytest.raises(UsageError, match="nowhere is neither a run nor a file") as caught:
        find_source(Path("nowhere"), None, None, EndpointFlags(), None)
    assert "asyncgen runs" in (caught.value.help_text or "")


def test_a_job_is_named_by_its_id_where_runs_are_looked_up_and_else_by_its_run(tmp_path: Path) -> None:
    assert name_of_job("ftjob-1", None) == "ftjob-1"
    assert name_of_job("ftjob-1", RunDirectory(Path("runs/ads"))) == "ftjob-1"
    assert name_of_job("ftjob-1", RunDirectory(tmp_path / "ads")) == str(tmp_path / "ads")
