"""`show` and `runs`: answers on the screen, and the runs that are here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Here = Callable[..., Any]

JOB = """name = "mine"
[grid]
city = ["Paris", "Berlin", "Rome"]
size = ["small", "large"]
[prompt]
user = "Write to {city}, {size}."
sample = "{size} {city}"
[generate]
model = "m"
[checks]
must_contain = ["never said"]
"""


@pytest.fixture
def ran(here: Here, simulated_server: Callable[..., Any]) -> Here:
    Path("job.toml").write_text(JOB, encoding="utf-8")
    done = here("generate", "job.toml", "--base-url", simulated_server().base_url, "--limit", "4", "-y")
    assert done.code == 0, done.err
    return here


def test_show_gives_answers_with_what_is_wrong_with_them(ran: Here) -> None:
    done = ran("show", "-n", "2")
    titles = [line for line in done.out.splitlines() if not line.startswith(" ")]
    assert len(titles) == 2
    assert "fails the check must_contain" in done.out
    assert len(json.loads(ran("show", "job.toml", "--random", "--json").out)["rows"]) == 4


def test_show_takes_only_rows_of_a_value_and_names_the_variables(ran: Here) -> None:
    shown = ran("show", "--where", "city=berlin", "--rejected", "--json")
    rows = json.loads(shown.out)["rows"]
    assert {row["variables"]["city"] for row in rows} == {"Berlin"}
    wrong = ran("show", "--where", "citi=Berlin")
    assert wrong.code == 2
    assert "did you mean 'city'?" in wrong.err
    assert "has no failed row" in ran("show", "--failed").err


def test_runs_lists_every_run_with_its_rows_and_state(ran: Here, simulated_server: Callable[..., Any]) -> None:
    done = ran("generate", "job.toml", "--base-url", simulated_server().base_url, "--out", "lim", "-y")
    assert done.code == 0, done.err
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("{", encoding="utf-8")
    listed = {each["run"]: each for each in json.loads(ran("runs", "--json").out)["runs"]}
    assert (listed["lim"]["done"], listed["lim"]["state"]) == (6, "generated")
    assert listed["runs/mine"]["state"] == "2 left"
    assert listed["runs/broken"]["state"].startswith("damaged")
    assert "runs/mine" in ran("runs").out


def test_runs_says_how_to_begin_where_there_is_none(here: Here) -> None:
    assert "next: asyncgen run" in here("runs").err


def test_status_of_a_half_done_run_names_the_command_that_goes_on(ran: Here) -> None:
    command = next(line for line in ran("status").err.splitlines() if line.startswith("next: "))
    words = command.removeprefix("next: asyncgen ").split()
    assert words[:2] == ["generate", "job.toml"]
    assert ran(*words).code == 0
    assert json.loads(ran("status", "--json").out)["done"] == 6 or "--limit" in words
