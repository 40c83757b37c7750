"""`asyncgen serve` as a process: its options, its signals, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
    assert "--slots means nothing to the engine simulated" in refused("--engine", "simulated", "--slots", "2")
    assert "--fault means nothing to the engine llama" in refused("--fault", "500=1")


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


def test_help_imports_no_server() -> None:
    program = "import sys, asyncgen.cli.serve_command; print('aiohttp' in sys.modules)"
    found = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
