import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[str]]


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_one_command_goes_the_whole_way_and_again_does_nothing(
    asyncgen: Run, simulated: Callable[..., str], tmp_path: Path
) -> None:
    where = ("--provider", "local", "--base-url", simulated(), "--json")
    first = asyncgen("run", *where, timeout_s=100)
    assert first.returncode == 0, first.stderr
    report = last_line(first)
    assert report["generate"]["done"] == 162
    assert report["finetune"]["status"] == "succeeded"
    assert report["finetune"]["model"].startswith("ft:")
    prompt = report["complete"]["prompt"]
    assert f"{prompt}\n  before  " in first.stdout
    assert prompt.split(" in ")[1] in {"New York", "Madrid", "Vienna"}
    assert first.stdout.count("\n  after   ") == 3
    assert "usable answers: " in first.stdout
    assert "\n  after   " in first.stdout
    assert "done in " in first.stderr
    assert "next: asyncgen complete" in first.stderr
    run = tmp_path / "work" / "runs" / "direct-marketing"
    assert {path.name for path in run.iterdir()} >= {
        "job.toml", "records.jsonl", "failures.jsonl", "run.json", "train.jsonl", "validation.jsonl", "events.jsonl",
    }  # fmt: skip
    again = last_line(asyncgen("run", *where, timeout_s=100))
    assert again["generate"]["already_done"] == 162
    assert again["finetune"] == report["finetune"]


def test_a_large_model_elsewhere_writes_and_this_machine_learns(
    asyncgen: Run, simulated: Callable[..., str], environment: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = simulated()
    here = simulated("--data-dir", str(Path(environment["HOME"]) / ".local" / "share" / "asyncgen"))
    job = tmp_path / "work" / "job.toml"
    job.write_text(
        'name = "both"\n[grid]\ncity = ["Paris", "Berlin"]\n[prompt]\nuser = "Write to {city}."\n'
        '[generate]\nprovider = "openai"\nmodel = "any"\nrepeats = 8\n[finetune]\nprovider = "local"\n',
        encoding="utf-8",
    )
    done = asyncgen("run", "job.toml", "--base-url", elsewhere, "--json", timeout_s=100)
    assert done.returncode == 0, done.stderr
    assert f"custom, any at {elsewhere}" in done.stderr
    assert f"at {here} (" in done.stderr
    assert "the running local server is a simulation" in done.stderr
    assert last_line(done)["finetune"]["model"].startswith("ft:")


def test_a_run_stops_after_the_stage_that_was_named(asyncgen: Run, simulated: Callable[..., str]) -> None:
    done = asyncgen("run", "--provider", "local", "--base-url", simulated(), "--until", "prepare", "--json")
    assert done.returncode == 0, done.stderr
    assert set(last_line(done)) == {"run", "generate", "prepare"}


def test_a_run_says_at_which_stage_it_stopped_and_why(asyncgen: Run, simulated: Callable[..., str]) -> None:
    base_url = simulated("--fault", "401=1")
    done = asyncgen("run", "--provider", "local", "--base-url", base_url)
    assert done.returncode == 4
    assert "the run stopped at the stage generate; to continue: asyncgen run --provider local" in done.stderr


def test_a_signal_during_the_last_rows_leaves_the_next_stages_unbegun(here: Callable[..., Any]) -> None:
    """The rows in flight are all that was left; uploading and training would still cost."""
    reply = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Buy."}, "finish_reason": "stop"}],
    }  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            os.kill(os.getpid(), signal.SIGTERM)
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the base class's name

    Path("job.toml").write_text('name = "j"\n[grid]\ncity = ["Paris"]\n[prompt]\nuser = "{city}"\n', encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        where = ("--base-url", f"http://127.0.0.1:{server.server_port}/v1", "--model", "m")
        done = here("run", "job.toml", *where, "--finetune-model", "m", "-y")
        server.shutdown()
    assert done.code == 143, done.err
    assert "stage 2" not in done.err
    assert len(Path("runs/j/records.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "to continue: asyncgen run job.toml" in done.err
