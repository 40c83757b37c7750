"""Money on the command line: asked before much is spent, stopped before too much is, half of it in batches.

Run: pytest tests/cli/test_money.py
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from asyncgen.job.load import built_in_text

Run = Callable[..., subprocess.CompletedProcess[str]]

JOB = """
name = "c"
[grid]
a = ["one", "two", "three", "four"]
b = ["1", "2", "3"]
[prompt]
user = "Say {a} {b}"
[generate]
provider = "openai"
[generate.parameters]
max_completion_tokens = 20
"""
PRICES = """
date = 2026-11-01
[openai."gpt-6-luna"]
input = {usd}
output = {usd}
batch = {{ input = {half}, output = {half} }}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """A job of 12 rows, and the price of a million tokens beside it."""

    def write_files(usd: float | None, tables: str = "") -> None:
        (tmp_path / "work" / "job.toml").write_text(JOB + tables, encoding="utf-8")
        if usd is not None:
            text = PRICES.format(usd=usd, half=usd / 2)
            (tmp_path / "work" / "prices.toml").write_text(text, encoding="utf-8")

    return write_files


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def openai_at(base_url: str) -> dict[str, str]:
    """Variables that name the provider with the address: an address alone is a custom one, without a price."""
    return {"ASYNCGEN_BASE_URL": base_url, "ASYNCGEN_PROVIDER": "openai"}


def test_what_may_cost_more_than_a_dollar_is_asked_for_first(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(10_000)
    address = openai_at(simulated())
    refused = asyncgen("generate", "job.toml", "--json", **address)
    assert refused.returncode == 2
    assert answer(refused)["error"]["code"] == "needs_yes"
    assert "12 rows: estimated cost" in refused.stderr
    done = asyncgen("generate", "job.toml", "--json", "--yes", **address)
    assert done.returncode == 0, done.stderr
    assert answer(done)["cost_usd"] > 1
    assert "(estimated " in done.stderr


def test_what_costs_less_is_not_asked_for(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(10)
    done = asyncgen("generate", "job.toml", "--json", **openai_at(simulated()))
    assert done.returncode == 0, done.stderr


def test_a_few_of_many_rows_are_priced_as_a_few(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(10_000)
    done = asyncgen("generate", "job.toml", "--limit", "2", "--json", **openai_at(simulated()))
    assert done.returncode == 0, done.stderr


def test_a_budget_is_never_passed_over_all_invocations_and_the_run_goes_on_with_more(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(1000)
    address = openai_at(simulated())
    spent = 0.0
    for max_cost in ("0.1", "0.1", "0.2"):
        done = asyncgen("generate", "job.toml", "--max-cost", max_cost, "--json", **address)
        assert done.returncode == 5, done.stderr
        assert answer(done)["stopped"] == "budget"
        spent += answer(done)["cost_usd"]
        assert spent <= float(max_cost)
    assert spent > 0.1
    done = asyncgen("generate", "job.toml", "--json", **address)
    assert (done.returncode, answer(done)["left"]) == (0, 0), done.stderr


def test_a_demanded_limit_without_a_price_is_refused_and_a_jobs_own_is_told(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(None, "[limits]\nmax_cost = 5.0\n")
    address = openai_at(simulated())
    refused = asyncgen("generate", "job.toml", "--max-cost", "1", "--json", **address)
    assert (refused.returncode, answer(refused)["error"]["code"]) == (2, "no_price")
    done = asyncgen("generate", "job.toml", "--json", **address)
    assert (done.returncode, answer(done)["cost_usd"]) == (0, None)
    assert "max_cost = 5 cannot stop the run" in done.stderr


def test_batches_cost_half_and_may_be_mixed_with_online_rows(
    asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]
) -> None:
    write(1000)
    address = openai_at(simulated())
    online = asyncgen("generate", "job.toml", "--limit", "4", "--json", **address)
    batch = asyncgen("generate", "job.toml", "--limit", "4", "--batch", "--json", **address)
    rest = asyncgen("generate", "job.toml", "--json", **address)
    assert [answer(done)["done"] for done in (online, batch, rest)] == [4, 8, 12], batch.stderr
    assert answer(batch)["stopped"] == "limit"
    assert answer(batch)["cost_usd"] < 0.75 * answer(online)["cost_usd"]
    status = answer(asyncgen("status", "--json"))
    total = sum(answer(done)["cost_usd"] for done in (online, batch, rest))
    assert status["cost_usd"] == pytest.approx(total)
    listed = answer(asyncgen("batch", "list", "--json"))["batches"]
    assert [(each["requests"], each["status"], each["collected"]) for each in listed] == [(4, "completed", True)]


def test_a_budget_stops_batches_too(asyncgen: Run, simulated: Callable[..., str], write: Callable[..., None]) -> None:
    write(1000)
    done = asyncgen("generate", "job.toml", "--batch", "--max-cost", "0.1", "--json", **openai_at(simulated()))
    assert done.returncode == 5, done.stderr
    found = answer(done)
    assert (found["stopped"], 0 < found["done"] < 12) == ("budget", True)
    assert found["cost_usd"] <= 0.1


def test_the_built_in_job_goes_through_a_batch_of_the_simulated_server(
    asyncgen: Run, simulated: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "work" / "campaign.toml").write_text(built_in_text(), encoding="utf-8")
    base_url = simulated()
    done = asyncgen("generate", "--provider", "openai", "--batch", "--json", ASYNCGEN_BASE_URL=base_url)
    assert (done.returncode, answer(done)["done"]) == (0, 162), done.stderr
    again = asyncgen("generate", "--provider", "openai", "--batch", "--json", ASYNCGEN_BASE_URL=base_url)
    assert (again.returncode, answer(again)["already_done"]) == (0, 162), again.stderr


def test_a_provider_without_batches_says_who_has_them(asyncgen: Run, write: Callable[..., None]) -> None:
    write(1)
    refused = asyncgen(
        "generate", "job.toml", "--batch", "--provider", "together", "--model", "m", TOGETHER_API_KEY="k"
    )
    assert refused.returncode == 2
    assert "no Batch API" in refused.stderr
    assert "openai" in refused.stderr


def test_rows_with_the_same_request_are_done_with_one_answer(
    asyncgen: Run, simulated: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "work" / "rows.csv").write_text("a\nx\ny\nx\n", encoding="utf-8")
    job = 'name = "c"\n[rows]\nfile = "rows.csv"\n[prompt]\nuser = "{a}"\n'
    (tmp_path / "work" / "job.toml").write_text(job, encoding="utf-8")
    address = openai_at(simulated())
    done = asyncgen("generate", "job.toml", "--batch", "--json", **address)
    assert (done.returncode, answer(done)["done"], answer(done)["left"]) == (0, 3, 0), done.stderr
    assert answer(asyncgen("status", "--json"))["left"] == 0
    assert answer(asyncgen("batch", "list", "--json"))["batches"][0]["requests"] == 2


@pytest.mark.parametrize(
    ("usage", "is_counted"),
    [
        ({}, False),
        ({"usage": None}, False),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, False),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, True),
    ],
)
def test_a_server_that_counts_no_tokens_is_told_of(
    asyncgen: Run, write: Callable[..., None], usage: dict[str, Any], *, is_counted: bool
) -> None:
    write(None)
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    body = json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], **usage}).encode()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,)).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        done = asyncgen("generate", "job.toml", "--base-url", address, "--provider", "custom", "--model", "m", "--json")
        asked = asyncgen("complete", "hi", "--base-url", address, "--provider", "custom", "-m", "m")
        server.shutdown()
    assert answer(done)["done"] == 12, done.stderr
    assert ("does not report token counts" in done.stderr) is not is_counted
    assert ("does not report token counts" in asked.stderr) is not is_counted
