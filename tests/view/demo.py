"""A believable run to look at, made without a server: the built-in job half way, two trainings and an evaluation.

`python tests/view/demo.py run FOLDER` writes it to FOLDER/runs/direct-marketing. `python tests/view/demo.py pictures
docs/images` takes the pictures that the README shows: of this run, served by `asyncgen view` as anybody starts it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from asyncgen.finetune.api import Event
from asyncgen.generate.live_file import LiveFile, LiveState, PauseNote
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, keep_job, open_job
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.records import Failure, FailureError, Record, Usage, encode_line
from asyncgen.run.reviews import Review, add_review, answer_digest
from asyncgen.run.state import DatasetFile, DatasetState, FinetuningState, Spend

_CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-device-scale-factor=1"]
_OPENINGS = [
    "Queues at the till cost {city} {sector} more than card fees ever will.",
    "Your customers in {city} already pay by phone; let your {size} {sector} say yes.",
    "One link, one tap, paid: checkout that keeps up with {size} {sector} in {city}.",
    "From the first coffee to the last receipt, {city} pays the way it likes.",
    "{city} {sector} that take every wallet sell to every wallet.",
    "No terminal, no contract, no waiting: take payments in {city} from tonight.",
]
_CLOSINGS = [
    "Start this week and keep the first thousand payments free of fees.",
    "Set it up over lunch, and be paid by dinner.",
    "Try it for thirty days; leave whenever you like.",
    "See what your neighbours sell with it.",
    "Ask us for a quote that fits a {size} business.",
]
_TECHNIQUES = [("zero-shot", "zero-shot", 0.41), ("long-prompt", "prompt", 0.82), ("tuned", "tuned", 0.86)]


def make_demo(folder: Path, *, now: float, rows: int = 118) -> RunDirectory:
    """Write the run; returns where it is.

    Args:
        folder: `runs/direct-marketing` is made in it.
        now: Unix seconds.
        rows: how many of the job's 162 are settled.
    """
    file = read_job_file(None)
    opened = open_job(file, generation="openai", tuning="local", model="gpt-6-luna")
    path = folder / "runs" / opened.job.name
    directory = RunDirectory(path)
    chance = Random(7)
    with open_run(path, job_name=opened.job.name) as run:
        keep_job(run, opened)
        records = _write_rows(directory, opened, chance, now, rows)
        tokens = Usage(prompt_tokens=412 * records, completion_tokens=38 * records)
        spend = Spend(usage=tokens, cost_usd=0.00021 * records, records=records)
        jobs = [_tuning("ftjob-first", now - 9000, "tuned-1"), _tuning("ftjob-second", now - 3000, None)]
        dataset = DatasetState(
            files=[DatasetFile(name="train.jsonl", sha256="0" * 64, samples=95, bytes=9000)], format="chat"
        )
        run.update(lambda state: msgspec.structs.replace(state, spend=spend, finetuning=jobs, dataset=dataset))
    _write_events(directory, chance, now)
    _write_evaluation(directory, opened, chance)
    return directory


def _write_rows(directory: RunDirectory, opened: OpenedJob, chance: Random, now: float, rows: int) -> int:
    records = 0
    chosen = list(opened.grid.requests())
    head, tail = chosen[: rows - 20], chosen[rows - 20 :]
    chance.shuffle(tail)
    with directory.records.open("wb") as settled, directory.failures.open("wb") as failed:
        for number, request in enumerate(head + tail[:20]):
            variables = opened.grid.variables(request)
            created = int(now - (rows - number) * 1.3 - 9 * math.sin(number / 9))
            common: dict[str, Any] = {
                "key": request.key.hex(),
                "index": request.index,
                "repeat": request.repeat,
                "variables": variables,
            }
            if chance.random() < 0.04:
                error = FailureError(type="server_error", status=503, message="The engine is overloaded, try again.")
                row = Failure(**common, error=error, attempts=5, maybe_paid=0, created=created)
                failed.write(encode_line(row))
                continue
            records += 1
            text = advert(variables, chance)
            checks = ["max_sentences"] if chance.random() < 0.06 else []
            record = Record(
                **common, prompt=opened.grid.prompt(request), completion=text, model="gpt-6-luna-2026-09-30",
                finish_reason="stop", usage=Usage(prompt_tokens=412, completion_tokens=len(text) // 4), attempts=1,
                check_failures=checks, latency_s=round(chance.lognormvariate(0.3, 0.5), 3), created=created,
                request_id=f"req_{number:05}",
            )  # fmt: skip
            settled.write(encode_line(record))
            if number in {7, 30}:
                answers = {record.key: answer_digest(text)}
                add_review(directory.path, Review(id=f"r{number}", created=created, action="reject", answers=answers))
    return records


def advert(variables: dict[str, str], chance: Random) -> str:
    """Two sentences for a row of the job."""
    words = {**variables, "sector": variables["sector"].lower()}
    return f"{chance.choice(_OPENINGS)} {chance.choice(_CLOSINGS)}".format(**words)


def _tuning(job_id: str, created: float, tuned: str | None) -> FinetuningState:
    return FinetuningState(
        intent=job_id, provider="local", base_url="", model="smollm2-135m-instruct", training_file="file-1",
        job_id=job_id, status="succeeded" if tuned else "running", tuned_model=tuned, created=int(created),
    )  # fmt: skip


def _write_events(directory: RunDirectory, chance: Random, now: float) -> None:
    encode = msgspec.json.Encoder().encode
    events: list[Event] = []
    for job, began, steps, floor in (("ftjob-first", now - 9000, 240, 1.4), ("ftjob-second", now - 3000, 130, 1.1)):
        events.append(Event(job=job, id=f"{job}-0", created_at=int(began), message="Created fine-tuning job"))
        for step in range(1, steps + 1):
            fall = math.exp(-step / 60)
            figures = {"step": step, "train_loss": round(floor + 2 * fall + chance.gauss(0, 0.12), 4)}
            if not step % 20:
                figures["valid_loss"] = round(floor + 0.15 + 1.9 * fall, 4)
            message = f"Step {step}/240: training loss={figures['train_loss']}"
            at = int(began + step * 10)
            events.append(
                Event(job=job, id=f"{job}-{step}", created_at=at, type="metrics", message=message, data=figures)
            )
    directory.events.write_bytes(b"".join(encode(event) + b"\n" for event in events))


def _write_evaluation(directory: RunDirectory, opened: OpenedJob, chance: Random) -> None:
    folder = directory.path / "evaluations" / "held-out"
    folder.mkdir(parents=True)
    held_out = list(opened.grid.requests())[::9]
    contestants = []
    for name, technique, rate in _TECHNIQUES:
        lines = []
        for request in held_out:
            variables = opened.grid.variables(request)
            text = advert(variables, chance) if technique != "zero-shot" else f"Buy now in {variables['city']}!"
            passed = chance.random() < rate
            answer = {
                "key": request.key.hex(), "prompt": opened.grid.prompt(request), "variables": variables,
                "completion": text, "passed": passed, "check_failures": [] if passed else ["max_sentences"],
            }  # fmt: skip
            lines.append(json.dumps(answer))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        contestants.append(
            {
                "name": name,
                "technique": technique,
                "provider": "local",
                "model": "smollm2-135m-instruct",
                "n": len(held_out),
                "pass_rate": rate,
                "ci95": [max(rate - 0.16, 0), min(rate + 0.12, 1)],
                "cost_usd_per_1000": 0.0,
            }
        )
    sentence = "The tuned model passes as often as the long prompt does, with a tenth of its tokens."
    summary = {"contestants": contestants, "comparisons": [], "sentence": sentence}
    (folder / "evaluation.json").write_text(json.dumps(summary), encoding="utf-8")


def write_live(directory: RunDirectory, now: float) -> None:
    """Say that a process works on the run now; it is believed for ten seconds."""
    state = directory.read_state()
    done, failed = state.spend.records, 6
    LiveFile(directory.path).write(
        LiveState(
            updated=now,
            began=now - 155,
            requests=state.job.requests,
            done=done,
            failed=failed,
            left=state.job.requests - done - failed,
            in_flight=24,
            concurrency=64,
            per_second=0.83,
            eta_s=52.0,
            retries=6,
            rate_limited=11,
            pauses=(PauseNote(began=now - 95, until=now - 87, reason="429: too many"),),
        )
    )


def take_pictures(folder: Path) -> list[Path]:
    """Write the pictures; returns where they are."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - one Playwright at a time

    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / "view-run.png", folder / "view-records.png"]
    with tempfile.TemporaryDirectory() as work:
        directory = make_demo(Path(work), now=time.time())
        command = [sys.executable, "-m", "asyncgen", "view", str(directory.path), "--no-browser", "--port", "0", "-q"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stdout is not None
            browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
            page.goto(server.stdout.readline().strip())
            write_live(directory, time.time())
            page.get_by_text("24 in flight").wait_for()
            page.wait_for_selector(".heat .cell")
            page.wait_for_selector(".plot canvas")
            page.screenshot(path=made[0])
            page.evaluate("location.hash = '#/direct-marketing/records?axis.city=Paris'")
            page.wait_for_selector("[role=listbox] [role=option]")
            page.locator("[role=listbox] [role=option]").nth(2).click()
            page.wait_for_selector(".text.answer")
            page.screenshot(path=made[1])
            browser.close()
            server.terminate()
    return made


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    for path in take_pictures(where) if what == "pictures" else [make_demo(where, now=time.time()).path]:
        print(path)  # noqa: T201 - a command
