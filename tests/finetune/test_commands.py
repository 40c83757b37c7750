"""`asyncgen finetune ...`, `complete` and `providers`, as processes against a provider on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.api.tuning import complete
from asyncgen.cli.main import main
from asyncgen.errors import UsageError
from asyncgen.finetune.complete import Completion
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import RunDirectory, open_run
from asyncgen.run.state import FinetuningState

if TYPE_CHECKING:
    from collections.abc import Callable

    Asyncgen = Callable[..., subprocess.CompletedProcess[str]]

CANARY = "sk-canary-0123456789"
MODEL = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def environment(tmp_path: Path, provider: Any) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    home = tmp_path / "home"
    home.mkdir()
    address = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": CANARY}
    return {**kept, **address, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def asyncgen(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Asyncgen:
    """Run the command line, in this process: the SDK takes long to import."""
    for profile in PROFILES.values():
        monkeypatch.delenv(profile.key_variable or "NO_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        for name, value in {**environment, **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capfd.readouterr()
        assert CANARY not in out + err
        assert "Traceback" not in err
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, out, err)

    return run


def succeeding(provider: Any) -> list[Any]:
    def running(job: dict[str, Any], _events: Any) -> None:
        job["status"] = "running"
        for step in (1, 2):
            data = {"step": step, "total_steps": 2, "train_loss": 3.0 - step}
            provider.tell(job["id"], f"Step {step}/2: training loss={3 - step}.00", data=data)

    def done(job: dict[str, Any], _events: Any) -> None:
        provider.tell(job["id"], "The job has successfully completed")
        provider.finish(job)

    return [running, done]


def create(asyncgen: Asyncgen, training_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = ("--provider", "openai", "--model", MODEL, "-y")
    return asyncgen("finetune", "create", training_file.name, *flags, *arguments)


def test_create_uploads_creates_follows_and_names_the_model(
    asyncgen: Asyncgen, provider: Any, training_file: Path, tmp_path: Path
) -> None:
    host = provider.base_url.removeprefix("http://").removesuffix("/v1")
    provider.script = succeeding(provider)
    provider.shutdown_date = "2027-01-14"
    done = create(asyncgen, training_file, "--suffix", "adverts", "--hyperparameter", "n_epochs=3", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ft:{MODEL}:org:ftjob-2\n"
    for words in (
        "12 samples, 3 epochs",
        "are available until 2027-01-14",
        f"{host} offers fine-tuning until 2027-01-06, and only for customers who fine-tuned there before",
        "price: not known",
        "uploaded ",
        "created ftjob-2",
        "trained 1,234 tokens",
        f"asyncgen complete -m ft:{MODEL}:org:ftjob-2",
    ):
        assert words in done.stderr
    (body,) = provider.bodies
    assert (body["suffix"], body["seed"], body["method"]["supervised"]) == (
        "adverts",
        7,
        {"hyperparameters": {"n_epochs": 3}},
    )
    assert RunDirectory(tmp_path / "runs" / "train").read_state().finetuning[0].status == "succeeded"


def test_a_job_that_costs_money_is_not_created_without_consent(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    done = asyncgen("finetune", "create", training_file.name, "--provider", "openai", "--json")
    assert done.returncode == 2
    assert "costs money" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "needs_yes"
    assert provider.files == {}
    assert provider.bodies == []


def test_a_faulty_dataset_is_refused_before_anything_is_sent(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    training_file.write_text('{"messages": [{"role": "user", "content": "a"}]}\nno json\n', encoding="utf-8")
    done = create(asyncgen, training_file)
    assert done.returncode == 2
    assert "train.jsonl:1:" in done.stderr
    assert "train.jsonl:2:" in done.stderr
    assert "asyncgen prepare" in done.stderr
    assert provider.seen == []


def test_preferences_are_trained_by_dpo_and_by_nothing_else(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    refused = create(asyncgen, training_file, "--method", "dpo")
    assert (refused.returncode, "--method supervised" in refused.stderr) == (2, True)
    better, worse = ([{"role": "assistant", "content": text}] for text in ("Come in.", "No."))
    line = {"input": {"messages": [{"role": "user", "content": "Hotel"}]}, "preferred_output": better,
            "non_preferred_output": worse}  # fmt: skip
    training_file.write_text((json.dumps(line) + "\n") * 12, encoding="utf-8")
    refused = create(asyncgen, training_file)
    assert (refused.returncode, "--method dpo" in refused.stderr) == (2, True)
    assert provider.seen == []
    done = create(asyncgen, training_file, "--method", "dpo", "--hyperparameter", "beta=0.2", "--no-follow")
    assert done.returncode == 0, done.stderr
    assert provider.bodies[0]["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}


def test_the_same_command_again_follows_the_job_that_is_there(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    first = create(asyncgen, training_file, "--no-follow")
    assert (first.returncode, first.stdout) == (0, "ftjob-2\n")
    provider.script = succeeding(provider)
    again = create(asyncgen, training_file, "--json")
    answer = json.loads(again.stdout)
    assert (answer["how"], answer["outcome"], answer["job"]) == ("noted", "succeeded", "ftjob-2")
    assert len(provider.jobs) == 1
    assert "--another" in again.stderr


def test_a_closed_account_is_told_of_the_others_and_of_its_file(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    provider.closed_account = True
    kept = asyncgen("finetune", "create", training_file.name, "--provider", "openai", "-y", "--json")
    assert kept.returncode == 4
    assert json.loads(kept.stdout)["error"]["code"] == "training_not_available"
    assert "2 July 2026" in kept.stderr
    assert "nebius" in kept.stderr
    # --yes answers the offer to delete the file too.
    assert "deleted file-1" in kept.stderr
    assert provider.files == {}


def test_a_failed_job_ends_with_3_and_the_jobs_error(asyncgen: Asyncgen, provider: Any, training_file: Path) -> None:
    def failing(job: dict[str, Any], _events: Any) -> None:
        error = {"code": "invalid_training_file", "message": "line 3 is unsafe", "param": "training_file"}
        provider.finish(job, "failed", error=error)

    provider.script = [failing]
    done = create(asyncgen, training_file)
    assert done.returncode == 3
    assert "invalid_training_file: line 3 is unsafe (param: training_file)" in done.stderr
    assert asyncgen("finetune", "follow").returncode == 3


def test_follow_tells_each_event_once_over_several_commands(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    create(asyncgen, training_file, "--no-follow")
    provider.script = succeeding(provider)
    first = asyncgen("finetune", "follow", "--verbose")
    again = asyncgen("finetune", "follow", "ftjob-2", "--verbose")
    by_run = asyncgen("finetune", "follow", "runs/train", "--verbose")
    assert first.returncode == again.returncode == by_run.returncode == 0
    assert "Step 1/2" in first.stderr
    assert "Step 1/2" not in again.stderr + by_run.stderr
    assert first.stdout == again.stdout == by_run.stdout


def test_a_job_that_no_run_knows_is_followed_by_its_id(asyncgen: Asyncgen, provider: Any, tmp_path: Path) -> None:
    job = provider.add_job(id="ftjob-foreign")
    provider.tell("ftjob-foreign", "hello")
    provider.finish(job)
    done = asyncgen("finetune", "follow", "ftjob-foreign", "--provider", "openai", "--verbose")
    assert done.returncode == 0
    assert "hello" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_job_and_says_how_to_go_on(
    number: signal.Signals, environment: dict[str, str], provider: Any, tmp_path: Path
) -> None:
    provider.add_job(id="ftjob-long", status="running")
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncgen", "finetune", "follow", "ftjob-long", "--provider", "openai"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not provider.count("GET", "/fine_tuning/jobs/ftjob-long/events") and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 5
    assert out == "ftjob-long\n"
    for words in (
        "stopped following ftjob-long",
        "running",
        "asyncgen finetune follow ftjob-long",
        "finetune cancel ftjob-long",
    ):
        assert words in err
    assert provider.count("POST", ".*") == 0
    assert provider.jobs["ftjob-long"]["status"] == "running"


def test_list_show_events_and_checkpoints_are_tables_or_json(asyncgen: Asyncgen, provider: Any) -> None:
    job = provider.add_job(id="ftjob-a")
    provider.add_job(id="ftjob-b", status="running")
    provider.tell("ftjob-a", "one")
    provider.tell("ftjob-a", "two \x1b[2J", level="warn")
    provider.finish(job)
    provider.checkpoints["ftjob-a"] = [
        {"id": "ftckpt-1", "step_number": 5, "fine_tuned_model_checkpoint": "ft:x:ckpt", "metrics": {"train_loss": 0.5}}
    ]
    at = ("--provider", "openai")
    listed = asyncgen("finetune", "list", *at)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["job", "ftjob-b", "ftjob-a"]
    assert [
        job["id"] for job in json.loads(asyncgen("finetune", "list", "--json", "--limit", "1", *at).stdout)["jobs"]
    ] == ["ftjob-b"]
    shown = asyncgen("finetune", "show", "ftjob-a", *at).stdout
    assert re.search(r"state +succeeded", shown)
    assert json.loads(asyncgen("finetune", "show", "ftjob-a", "--json", *at).stdout)["trained_tokens"] == 1234
    events = asyncgen("finetune", "events", "ftjob-a", *at).stdout
    assert events.splitlines()[0].endswith("  one")
    assert "warn: two [2J" in events
    assert "\x1b" not in events
    checkpoints = asyncgen("finetune", "checkpoints", "ftjob-a", *at).stdout
    assert "train_loss 0.5" in checkpoints
    assert "ft:x:ckpt" in checkpoints


def test_results_writes_the_table_and_draws_the_loss(asyncgen: Asyncgen, provider: Any, tmp_path: Path) -> None:
    provider.finish(provider.add_job(id="ftjob-a"))
    at = ("--provider", "openai")
    done = asyncgen("finetune", "results", "ftjob-a", "--png", "loss.png", *at)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ftjob-a.csv").read_text(encoding="utf-8").startswith("step,train_loss")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "training loss, steps 1 to 2: 2.5 to 1.5" in done.stdout
    assert "validation loss at step 2: 1.7" in done.stdout
    assert "█" in done.stdout
    plain = asyncgen("finetune", "results", "ftjob-a", "-o", "-", *at)
    assert plain.stdout.startswith("step,train_loss")
    provider.add_job(id="ftjob-b", status="running")
    none = asyncgen("finetune", "results", "ftjob-b", *at)
    assert none.returncode == 1
    assert "no results: its status is running" in none.stderr


def test_an_id_that_is_a_path_leads_out_of_no_folder(asyncgen: Asyncgen, provider: Any, tmp_path: Path) -> None:
    provider.finish(provider.add_job(id="ftjob-a"))
    provider.jobs["ftjob-a"]["id"] = "../../outside/x"
    done = asyncgen("finetune", "results", "ftjob-a", "--provider", "openai")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*.csv")] == ["______outside_x.csv"]
    assert (tmp_path / "______outside_x.csv").exists()


def test_cancel_names_what_it_does_and_needs_consent(asyncgen: Asyncgen, provider: Any) -> None:
    provider.add_job(id="ftjob-a", status="running")
    at = ("--provider", "openai")
    asked = asyncgen("finetune", "cancel", "ftjob-a", *at)
    assert asked.returncode == 2
    assert "ftjob-a would be cancelled at 127.0.0.1" in asked.stderr
    assert provider.jobs["ftjob-a"]["status"] == "running"
    assert asyncgen("finetune", "cancel", "ftjob-a", "-y", *at).stdout == "ftjob-a: cancelled\n"
    again = asyncgen("finetune", "cancel", "ftjob-a", "-y", *at)
    assert "has ended already" in again.stderr
    assert provider.count("POST", "/fine_tuning/jobs/ftjob-a/cancel") == 1


def test_delete_takes_models_jobs_and_files_and_explains_what_it_cannot(asyncgen: Asyncgen, provider: Any) -> None:
    provider.finish(provider.add_job(id="ftjob-a"))
    provider.files["file-9"] = {"id": "file-9", "filename": "x", "bytes": 1}
    at = ("--provider", "openai")
    model = f"ft:{MODEL}:org:ftjob-a"
    assert asyncgen("finetune", "delete", model, *at).returncode == 2
    provider.fail("DELETE", "/models/", 403, code="insufficient_permissions")
    refused = asyncgen("finetune", "delete", model, "-y", *at)
    assert refused.returncode == 4
    assert "owner" in refused.stderr
    assert asyncgen("finetune", "delete", "ftjob-a", "-y", *at).stdout == f"deleted the model {model}\n"
    gone = asyncgen("finetune", "delete", model, "-y", *at)
    assert gone.returncode == 1
    assert f"has no model {model}" in gone.stderr
    assert asyncgen("finetune", "delete", "file-9", "-y", *at).stdout == "deleted the file file-9\n"
    assert provider.files == {}


def test_a_wrong_key_an_unknown_job_and_an_unreachable_host_are_clear(asyncgen: Asyncgen, provider: Any) -> None:
    absent = asyncgen("finetune", "show", "ftjob-none", "--provider", "openai")
    assert (absent.returncode, "could not look up the job ftjob-none" in absent.stderr) == (1, True)
    provider.fail("GET", "/", 401, times=9, code="invalid_api_key")
    wrong = asyncgen("finetune", "list", "--provider", "openai")
    assert wrong.returncode == 4
    nowhere = asyncgen("finetune", "list", "--provider", "openai", "--base-url", "http://127.0.0.1:9/v1")
    assert (nowhere.returncode, "could not list" in nowhere.stderr) == (1, True)


def test_without_a_run_the_commands_say_how_to_get_one(asyncgen: Asyncgen) -> None:
    done = asyncgen("finetune", "follow")
    assert done.returncode == 2
    assert "there is no run under runs" in done.stderr


def test_complete_asks_as_the_file_taught(asyncgen: Asyncgen, provider: Any, training_file: Path) -> None:
    pairs = [{"prompt": f"{place}, small -->", "completion": f" Come to {place}.\n"} for place in "ABCDEFGHIJKL"]
    training_file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    provider.script = succeeding(provider)
    done = asyncgen("finetune", "create", training_file.name, "--provider", "custom", "--base-url", provider.base_url,
                    "--model", "davinci-like", "-y")  # fmt: skip
    model = done.stdout.strip()
    assert done.returncode == 0, done.stderr
    asked = asyncgen("complete", "-m", model, "Hotel, New York, small", "--temperature", "0", "--max-tokens", "100")
    assert provider.bodies[-1] == {
        "model": model,
        "prompt": "Hotel, New York, small -->",
        "max_tokens": 100,
        "stop": ["\n"],
        "temperature": 0.0,
    }
    assert asked.stdout == "on Hotel, New York, small -->\n"


def test_complete_asks_the_newest_tuned_model_and_the_variables_model_only_where_there_is_none(
    asyncgen: Asyncgen, provider: Any, tmp_path: Path
) -> None:
    at = {"ASYNCGEN_MODEL": "base", "ASYNCGEN_BASE_URL": provider.base_url}
    assert asyncgen("complete", "hi", **at).returncode == 0
    assert provider.bodies[-1]["model"] == "base"
    with open_run(tmp_path / "runs" / "r", job_name="r") as run:
        tuned = FinetuningState(
            intent="i",
            training_file="t.jsonl",
            model="base",
            provider="custom",
            base_url=provider.base_url,
            job_id="ftjob-1",
            tuned_model="ft:base",
        )
        run.update(lambda state: msgspec.structs.replace(state, finetuning=[tuned]))
    assert asyncgen("complete", "hi", **at).returncode == 0
    assert provider.bodies[-1]["model"] == "ft:base"
    assert asyncgen("complete", "hi", "--run", "elsewhere", **at).returncode == 2


def test_python_asks_a_model_that_no_run_tuned_as_the_command_does(
    asyncgen: Asyncgen, provider: Any, tmp_path: Path
) -> None:
    assert asyncgen("runs").returncode == 0  # in the folder and the environment of the commands
    (answer,) = complete(["hi"], model="base", base_url=provider.base_url)
    assert isinstance(answer, Completion)
    assert provider.bodies[-1]["messages"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(UsageError):
        complete(["hi"], model="base", base_url=provider.base_url, run=tmp_path / "elsewhere")


def test_complete_takes_several_prompts_and_stdin_and_cleans_what_it_shows(
    asyncgen: Asyncgen, provider: Any, environment: dict[str, str]
) -> None:
    prices = Path(environment["HOME"]) / ".config" / "asyncgen" / "prices.toml"
    prices.parent.mkdir(parents=True)
    prices.write_text('[openai."gpt-6-luna"]\ninput = 0.1\noutput = 0.5\n', encoding="utf-8")
    at = ("--provider", "openai")
    done = asyncgen("complete", "-m", "gpt-6-luna", "one", "-", *at, text="two\n\nthree\n")
    assert [line for line in done.stdout.splitlines() if line.startswith(">")] == ["> one", "> two", "> three"]
    assert "\x1b" not in done.stdout
    assert "gpt-6-luna: 24 tokens in, 15 out, 0.0000099 USD" in done.stderr
    answer = json.loads(asyncgen("complete", "-m", "gpt-6-luna", "one", "--json", "--system", "Be brief.", *at).stdout)
    assert answer["answers"][0]["completion"] == "gpt-6-luna says \x1b[2Jone"
    assert answer["cost_usd"] > 0
    assert provider.bodies[-1]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_complete_shows_two_models_side_by_side(asyncgen: Asyncgen) -> None:
    done = asyncgen(
        "complete", "-m", "gpt-6-luna", "one", "--compare", "gpt-6.1-terra", "--provider", "openai", COLUMNS="90"
    )
    heading, _, answers = done.stdout.splitlines()
    assert heading.split("│")[0].strip() == "gpt-6-luna"
    assert heading.split("│")[1].strip() == "gpt-6.1-terra"
    assert "gpt-6.1-terra says" in answers.split("│")[1]


def test_complete_keeps_the_answers_beside_a_prompt_that_failed(asyncgen: Asyncgen, provider: Any) -> None:
    provider.fail("POST", "/chat/completions", 400, code="invalid_prompt")
    done = asyncgen("complete", "-m", "m", "one", "two", "three", "--provider", "openai")
    assert done.returncode == 3
    assert done.stdout.count("says") == 2
    provider.fail("POST", "/chat/completions", 401, times=9)
    assert asyncgen("complete", "-m", "m", "one", "--provider", "openai").returncode == 4


def test_complete_stops_at_the_first_prompt_for_a_model_that_is_not_there(asyncgen: Asyncgen, provider: Any) -> None:
    provider.fail("POST", "/chat/completions", 404, times=99, code="model_not_found")
    prompts = [f"prompt {number}" for number in range(20)]
    done = asyncgen("complete", "-m", "nope", *prompts, "--provider", "openai")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("error:") == 1
    assert "openai has no model nope" in done.stderr
    assert len([body for body in provider.bodies if body.get("model") == "nope"]) <= 10


def test_complete_without_a_model_asks_the_newest_tuned_one(
    asyncgen: Asyncgen, provider: Any, training_file: Path
) -> None:
    assert "there is no run" in asyncgen("complete", "one").stderr
    provider.script = succeeding(provider)
    done = asyncgen("finetune", "create", training_file.name, "--provider", "custom", "--base-url", provider.base_url,
                    "--model", "base", "-y")  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = asyncgen("complete", "one")
    assert asked.returncode == 0, asked.stderr
    assert provider.bodies[-1]["model"] == done.stdout.strip()


def test_complete_without_a_prompt_says_so(asyncgen: Asyncgen) -> None:
    done = asyncgen("complete", "-m", "m", "--provider", "openai")
    assert done.returncode == 2
    assert "no prompt on stdin" in done.stderr


def test_providers_tells_addresses_keys_and_days(asyncgen: Asyncgen, provider: Any) -> None:
    done = asyncgen("providers")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "OPENAI_API_KEY: set" in lines["openai"]
    assert "until 2027-01-06" in lines["openai"]
    assert "NEBIUS_API_KEY: not set" in lines["nebius"]
    assert provider.base_url in lines["openai"]
    listed = json.loads(asyncgen("providers", "--json").stdout)["providers"]
    names = [each["name"] for each in listed]
    assert names[:7] == ["openai", "azure", "nebius", "crusoe", "together", "custom", "local"]
    assert "fireworks" in names
    assert listed[0]["key_set"] is True


@pytest.mark.parametrize(
    "arguments", [["providers"], ["finetune", "--help"], ["finetune", "create", "--help"], ["complete", "--help"]]
)
def test_what_asks_nobody_imports_no_sdk(arguments: list[str], tmp_path: Path, environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom asyncgen.cli.main import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'openai', 'aiohttp', 'rich', 'matplotlib', 'genai_prices'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
