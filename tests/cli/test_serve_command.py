"""`asyncgen serve` as a process: its options, its signals, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = (sys.executable, "-m", "asyncgen", "serve")
SIMULATED = (*SERVE, "--engine", "simulated", "--port", "0", "--json")


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A simulated server, and what it said when it listened."""
    with subprocess.Popen((*SIMULATED, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def refused(*options: str) -> str:
    ended = subprocess.run((*SERVE, *options), capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    return ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_server_in_good_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with serving("--data-dir", str(tmp_path)) as (process, info):
        assert info["pid"] == process.pid
        assert (tmp_path / "server.json").exists()
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert not (tmp_path / "server.json").exists()


def test_second_signal_drops_what_is_in_flight() -> None:
    with serving("--latency-ms", "60000") as (process, info):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        program = f"import urllib.request as u; u.urlopen('{info['base_url']}/chat/completions', {body!r})"
        with subprocess.Popen((sys.executable, "-c", program), stderr=subprocess.DEVNULL) as asking:
            time.sleep(1)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            while "stopping" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
            assert time.monotonic() - began < 3
            asking.kill()


def test_second_server_on_a_folder_exits_with_7_and_names_the_first(tmp_path: Path) -> None:
    with serving("--data-dir", str(tmp_path)) as (_, info):
        second = subprocess.run(
            (*SIMULATED, "--data-dir", str(tmp_path)), capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 7
        assert info["base_url"] in second.stderr
        assert json.loads(second.stdout)["error"]["code"] == "in_use"


def test_killed_server_leaves_the_folder_free(tmp_path: Path) -> None:
    with serving("--data-dir", str(tmp_path)) as (process, _):
        process.kill()
        process.wait()
    with serving("--data-dir", str(tmp_path)) as (_, info):
        assert json.loads((tmp_path / "server.json").read_bytes()) == info


def test_settings_of_the_simulation_reach_it() -> None:
    with serving("--rpm", "600", "--fault", "empty=1", "--latency-ms", "100") as (_, info):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        with urllib.request.urlopen(f"{info['base_url']}/chat/completions", body, timeout=20) as response:
            answer = json.load(response)
            assert response.headers["x-ratelimit-limit-requests"] == "600"
            assert int(response.headers["openai-processing-ms"]) >= 100
        assert answer["choices"][0]["message"]["content"] == ""


def test_idle_server_ends_by_itself_once_its_client_is_gone() -> None:
    with serving("--until-idle") as (process, info):
        url = info["base_url"].removesuffix("/v1") + "/asyncgen/attach"
        with urllib.request.urlopen(url, timeout=20) as attached:
            assert attached.readline() == b"attached\n"
        assert process.wait(timeout=20) == 0


def test_settings_of_the_other_engine_are_refused() -> None:
    assert "--slots has no effect on the engine simulated" in refused("--engine", "simulated", "--slots", "2")
    assert "--fault has no effect on the engine llama" in refused("--fault", "500=1")


def test_variable_of_the_other_engine_is_not_minded() -> None:
    environment = {**os.environ, "ASYNCGEN_MODEL_PATH": "/nowhere.gguf"}
    with subprocess.Popen(SIMULATED, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        assert "base_url" in process.stdout.readline()
        process.terminate()


def test_unknown_fault_names_the_known_ones() -> None:
    assert "reset-after" in refused("--engine", "simulated", "--fault", "nonsense=1")


def test_missing_model_file_is_named(tmp_path: Path) -> None:
    assert "missing.gguf" in refused(
        "--model-path", str(tmp_path / "missing.gguf"), "--data-dir", str(tmp_path / "data")
    )


def said(*options: str, lines: int) -> list[str]:
    """The first lines on stderr of a server that just started."""
    with subprocess.Popen(
        (*SIMULATED, *options), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        try:
            return [process.stderr.readline().strip() for _ in range(lines)]
        finally:
            process.kill()


def test_banner_has_a_command_that_can_be_copied_and_the_line_for_other_commands() -> None:
    command = [*SERVE, "--engine", "simulated", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            serves, curl, export = (process.stderr.readline().strip() for _ in range(3))
            asked = subprocess.run(
                curl.removeprefix("try:").strip() + " --silent", shell=True, capture_output=True, check=True
            )
            assert json.loads(asked.stdout)["choices"][0]["message"]["content"]
        finally:
            process.kill()
    address = serves.rpartition(" ")[2]
    assert f"ASYNCGEN_BASE_URL={address} " in export
    assert " ASYNCGEN_MODEL=simulated ASYNCGEN_FINETUNE_MODEL=simulated " in export
    assert "Ctrl-C" in export


def test_quiet_server_says_its_address_and_nothing_else() -> None:
    command = [*SERVE, "--engine", "simulated", "--port", "0", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with urllib.request.urlopen(f"{process.stdout.readline().strip()}/models", timeout=20) as response:
            assert response.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == ""


def test_requests_are_told_in_a_line_each() -> None:
    with serving("--log") as (process, info):
        with urllib.request.urlopen(f"{info['base_url']}/models?limit=1", timeout=20) as response:
            identifier = response.headers["x-request-id"]
        assert process.stderr is not None
        while identifier not in (line := process.stderr.readline()):
            assert line
        assert " GET /v1/models?limit=1 200 " in line


def test_key_names_and_origins_reach_the_server(tmp_path: Path) -> None:
    key_file = tmp_path / "my key"
    key_file.write_text("sk-mine\n")
    key_file.chmod(0o600)
    options = ("--api-key-file", str(key_file), "--allow-host", "box:99", "--allow-origin", "http://localhost:3000/")
    with serving(*options) as (_, info):
        headers = {"Authorization": "Bearer sk-mine", "Host": "box:99", "Origin": "http://localhost:3000"}
        asked = urllib.request.Request(f"{info['base_url']}/models", headers=headers)
        with urllib.request.urlopen(asked, timeout=20) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{info['base_url']}/models", timeout=20)
        with caught.value as error:
            assert error.code == 401


@pytest.mark.parametrize("option", ["--allow-host=a/b", "--allow-origin=*", "--allow-origin=localhost:3000"])
def test_names_and_origins_that_are_none_are_refused(option: str) -> None:
    assert option.partition("=")[2] in refused("--engine", "simulated", option)


def test_others_that_can_ask_are_told_of_unless_there_is_a_key(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-mine")
    key_file.chmod(0o600)
    assert "--api-key-file" in said("--host", "0.0.0.0", lines=2)[1]
    lines = said("--host", "0.0.0.0", "--api-key-file", str(key_file), lines=3)
    assert not [line for line in lines if "warning" in line]
    assert "Authorization" in lines[1]


def test_reasoning_and_a_slow_training_are_rehearsed() -> None:
    with serving("--reasoning") as (_, info):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        with urllib.request.urlopen(f"{info['base_url']}/chat/completions", body, timeout=20) as response:
            assert json.load(response)["choices"][0]["message"]["reasoning_content"]
    assert "--training-s" in refused("--engine", "simulated", "--training-s", "-1")


def test_help_imports_no_server() -> None:
    program = "import sys, asyncgen.cli.serve_command; print('aiohttp' in sys.modules)"
    found = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
