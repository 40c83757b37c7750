"""What `generate --ray` refuses before anything is begun. Runs on Ray are in tests/durability/test_ray.py."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from asyncgen.cli.generate_command import generate
from asyncgen.generate import session

Here = Any
GENERATE = ("generate", "job.toml", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.fixture
def job(here: Here, tmp_path: Path) -> Path:
    path = tmp_path / "work" / "job.toml"
    path.write_text('name = "job"\n[grid]\nrow = ["a"]\n[prompt]\nuser = "About {row}."\n', encoding="utf-8")
    return path


def error(done: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])["error"]
    return found


def test_without_ray_the_error_names_the_command_that_installs_it(
    here: Here, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "find_spec", lambda _name: None)
    done = here(*GENERATE, "--ray", "auto", "--json")
    assert done.code == 2
    assert (error(done)["code"], error(done)["help"]) == ("no_extra", "pip install 'asyncgen[ray]'")
    assert not (job.parent / "runs").exists()


def test_ray_does_not_go_with_batches(here: Here, job: Path) -> None:
    done = here(*GENERATE, "--ray=local", "--batch")
    assert done.code == 2
    assert "cannot be combined" in done.err


@pytest.mark.parametrize(("named", "set_to"), [("ray://head:1", ""), ("auto", "ray://head:1")])
def test_an_address_of_ray_client_is_refused_with_the_way_that_works(
    here: Here, job: Path, monkeypatch: pytest.MonkeyPatch, named: str, set_to: str
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'asyncgen[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", set_to)
    done = here(*GENERATE, "--ray", named)
    assert done.code == 2
    assert "ray job submit" in done.err


def test_the_jobs_of_the_page_are_jobs_of_kuberay_with_a_command_of_ours() -> None:
    yaml = pytest.importorskip("yaml")
    page = (Path(__file__).parents[2] / "docs" / "many-machines.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}, "a string, as the resource has it"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        assert container["envFrom"], "each node reads the key from its environment"
    [submitted] = re.findall(r"^    ray job submit .* -- (asyncgen .*)$", page, re.MULTILINE)
    for command in (job["spec"]["entrypoint"], submitted):
        name, word, *words = shlex.split(command)
        assert (name, word) == ("asyncgen", "generate")
        context = generate.make_context("generate", words, resilient_parsing=True)
        assert (context.params["ray"], context.params["yes"]) == ("auto", True)
