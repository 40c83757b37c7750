"""asyncgen from Python: the same runs as the command line's, without a word on the screen."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import asyncgen

JOB = """
name = "adverts"
[grid]
city = ["Bonn", "Oslo", "Rome", "Lima"]
size = ["small", "large"]
[prompt]
user = "Write an advert for a {size} hotel in {city}."
sample = "{city}, {size}"
"""


async def shout(request: Mapping[str, Any]) -> str:
    return str(request["messages"][-1]["content"]).upper()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> asyncgen.LoadedJob:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    return asyncgen.load_job("job.toml", provider="custom", model="mine")


def test_public_names_are_those_of_all_and_each_can_be_imported() -> None:
    assert sorted(asyncgen.__all__) == asyncgen.__all__
    assert {name for name in asyncgen.__all__ if getattr(asyncgen, name) is None} == set()
    assert set(asyncgen._HOME_OF) | {"__version__"} == set(asyncgen.__all__)


def test_package_imports_no_heavy_library_before_a_name_is_used() -> None:
    code = "import sys, asyncgen; print({'aiohttp', 'openai', 'rich', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_row_is_asked_once_and_a_second_call_asks_nothing(job: asyncgen.LoadedJob) -> None:
    asked: list[str] = []

    async def count(request: Mapping[str, Any]) -> str:
        asked.append(request["messages"][-1]["content"])
        return "An advert."

    run = asyncgen.generate(job, completer=count)
    assert (len(run), len(asked), run.path) == (8, 8, Path("runs/adverts"))
    again = asyncgen.generate(job, completer=count)
    assert (len(again), len(asked)) == (8, 8)
    record = next(run.records())
    assert (record.completion, set(record.variables)) == ("An advert.", {"city", "size"})


def test_nothing_is_printed(job: asyncgen.LoadedJob, capfd: pytest.CaptureFixture[str]) -> None:
    asyncgen.generate(job, completer=shout)
    assert capfd.readouterr() == ("", "")


def test_generate_works_inside_a_running_loop(job: asyncgen.LoadedJob) -> None:
    async def notebook_cell() -> int:
        return len(asyncgen.generate(job, completer=shout))

    assert asyncio.run(notebook_cell()) == 8


def test_agenerate_runs_on_the_callers_loop(job: asyncgen.LoadedJob) -> None:
    loops: set[int] = set()

    async def note_loop(request: Mapping[str, Any]) -> str:
        loops.add(id(asyncio.get_running_loop()))
        return "An advert."

    async def program() -> bool:
        await asyncgen.agenerate(job, completer=note_loop)
        return loops == {id(asyncio.get_running_loop())}

    assert asyncio.run(program())


def test_cancelled_agenerate_keeps_what_was_in_flight(job: asyncgen.LoadedJob) -> None:
    async def program() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait(request: Mapping[str, Any]) -> str:
            begun.set()
            await go_on.wait()
            return "An advert."

        task = asyncio.create_task(asyncgen.agenerate(job, completer=wait, concurrency=2))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(program())
    assert 2 <= len(asyncgen.open_run("runs/adverts")) < 8


def test_stream_yields_every_record_once_those_of_before_first(job: asyncgen.LoadedJob) -> None:
    asyncgen.generate(job, completer=shout, limit=3)

    async def program() -> list[str]:
        return [record.key async for record in asyncgen.stream(job, completer=shout)]

    keys = asyncio.run(program())
    assert len(keys) == len(set(keys)) == 8
    assert keys == [record.key for record in asyncgen.open_run("runs/adverts").records()]


def test_leaving_a_stream_early_drains_it(job: asyncgen.LoadedJob) -> None:
    async def program() -> None:
        records = asyncgen.stream(job, completer=shout, concurrency=1)
        async for _ in records:
            break
        await records.aclose()  # type: ignore[attr-defined]

    asyncio.run(program())
    status = asyncgen.open_run("runs/adverts").status()
    assert not status.being_written
    assert status.done >= 1


def test_a_failing_function_fails_its_rows_and_no_others(job: asyncgen.LoadedJob) -> None:
    async def picky(request: Mapping[str, Any]) -> Mapping[str, Any]:
        text = request["messages"][-1]["content"]
        if "Rome" in text:
            return {"error": {"message": "no adverts for Rome", "code": 400}}
        return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}

    run = asyncgen.generate(job, completer=picky)
    assert len(run) == 6
    failures = list(run.failures())
    assert [failure.variables["city"] for failure in failures] == ["Rome", "Rome"]
    assert "no adverts for Rome" in failures[0].error.message
    assert next(run.records()).usage.prompt_tokens == 7


def test_preview_returns_the_records_that_it_bought(job: asyncgen.LoadedJob) -> None:
    assert len(asyncgen.preview(job, n=2, completer=shout)) == 2
    assert len(asyncgen.preview(job, n=2, completer=shout)) == 2
    assert asyncgen.open_run().status().done == 4


def test_changed_job_needs_consent_as_an_argument(job: asyncgen.LoadedJob, tmp_path: Path) -> None:
    asyncgen.generate(job, completer=shout)
    (tmp_path / "job.toml").write_text(JOB.replace("Write an advert", "Write one line"), encoding="utf-8")
    changed = asyncgen.load_job("job.toml", provider="custom", model="mine")
    with pytest.raises(asyncgen.UsageError) as caught:
        asyncgen.generate(changed, completer=shout)
    assert (caught.value.code, caught.value.help_text) == ("needs_yes", "pass yes=True to continue")
    assert len(asyncgen.generate(changed, completer=shout, yes=True)) == 8


def test_mistakes_of_a_job_file_are_typed(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = 1\n[grdi]\n", encoding="utf-8")
    with pytest.raises(asyncgen.JobFileError):
        asyncgen.load_job(tmp_path / "bad.toml")


def test_progress_is_told_to_the_callback(job: asyncgen.LoadedJob) -> None:
    told: list[asyncgen.ProgressSnapshot] = []
    asyncgen.generate(job, completer=shout, on_progress=told.append)
    assert (told[-1].requests, told[-1].done, told[-1].left, told[-1].in_flight) == (8, 8, 0, 0)


def test_plan_sends_nothing_and_counts_what_is_left(job: asyncgen.LoadedJob) -> None:
    asyncgen.generate(job, completer=shout, limit=3)
    assert asyncgen.plan(job).left == 5


def test_run_begun_in_python_goes_on_from_the_command_line(
    job: asyncgen.LoadedJob, tmp_path: Path, simulated_server: Any
) -> None:
    server = simulated_server()
    loaded = asyncgen.load_job("job.toml", provider="custom", base_url=server.base_url, model="simulated")
    asyncgen.generate(loaded, limit=3)
    words = ["--provider", "custom", "--base-url", server.base_url, "--model", "simulated"]
    command = [sys.executable, "-m", "asyncgen", "generate", "job.toml", *words]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len(asyncgen.open_run("runs/adverts")) == 8


def test_ctrl_c_in_a_script_drains_and_goes_on_later(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    script = """
import asyncio, sys, asyncgen
async def slow(request):
    print("sent", flush=True)
    await asyncio.sleep(0.5)
    return "An advert."
job = asyncgen.load_job("job.toml", provider="custom", model="mine")
try:
    asyncgen.generate(job, completer=slow, concurrency=2)
except KeyboardInterrupt:
    print("interrupted", len(asyncgen.open_run("runs/adverts")))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        process.send_signal(signal.SIGINT)
        lines = process.stdout.read().splitlines()
    assert lines[-1].startswith("interrupted")
    assert int(lines[-1].split()[1]) >= 2


def test_sync_calls_work_outside_the_main_thread(job: asyncgen.LoadedJob) -> None:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(len(asyncgen.generate(job, completer=shout))))
    thread.start()
    thread.join()
    assert counts == [8]


def test_a_function_that_is_not_async_is_told_at_once(job: asyncgen.LoadedJob) -> None:
    with pytest.raises(asyncgen.AsyncgenError) as caught:
        asyncgen.generate(job, completer=lambda request: request["model"])
    assert "not async" in (caught.value.cause or "")
    assert "async def" in (caught.value.help_text or "")


def test_what_a_notebook_shows_of_a_result_is_a_line(job: asyncgen.LoadedJob) -> None:
    run = asyncgen.generate(job, completer=shout)
    shown = [repr(each) for each in (asyncgen.plan(job), run.status(), run.report(), asyncgen.prepare(run))]
    assert "8 requests" in shown[0]
    assert "8 done" in shown[1]
    assert "8 rows filled" in shown[2]
    assert "8 samples" in shown[3]
    assert max(map(len, shown)) < 200
