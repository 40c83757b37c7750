import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.cli.init_command import EXAMPLES, example_files
from asyncgen.job.combinations import Combinations
from asyncgen.job.load import open_grid, read_job_file
from asyncgen.job.model import Example, Generate, Job, Prompt
from asyncgen.job.opened import OpenedJob, open_job
from asyncgen.job.requests import RequestGrid
from asyncgen.providers.profiles import PROFILES

Open = Callable[..., OpenedJob]

CAMPAIGN = """
name = "c"
[grid]
sector = ["Bakers", "Butchers"]
city = ["Paris", "Berlin"]
[prompt]
user = "Write to {sector} in {city}."
sample = "{sector}, {city}"
[generate]
repeats = 2
[generate.parameters]
temperature = 1
"""


def keys(grid: RequestGrid) -> dict[tuple[tuple[str, ...], int], bytes]:
    return {(request.values, request.repeat): request.key for request in grid.requests()}


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def grid_of(values: list[str], prompt: Prompt, **generate: object) -> RequestGrid:
    job = Job(name="x", prompt=prompt, grid={"a": list(values)}, generate=Generate(**generate))  # type: ignore[arg-type]
    return RequestGrid(job, Combinations({"a": values}), "m")


def test_the_built_in_campaign_has_162_requests_for_every_provider() -> None:
    file = read_job_file(None)
    for name in ("local", "openai"):
        grid = open_grid(file, file.job(name, "local"), PROFILES[name], PROFILES[name].default_model or "")
        requests = list(grid.requests())
        assert grid.count == len(requests) == len({request.key for request in requests}) == 162
        assert [request.index for request in requests] == list(range(162))


@pytest.mark.parametrize(
    ("tuning", "prompt"), [("openai", "Hotel, New York, small"), ("local", "small Hotel in New York")]
)
def test_the_built_in_campaigns_short_prompt_is_one_that_who_tunes_can_learn(tuning: str, prompt: str) -> None:
    file = read_job_file(None)
    for name in ("local", "openai"):
        grid = open_grid(file, file.job(name, tuning), PROFILES[name], "m")
        assert grid.sample.render({"sector": "Hotel", "city": "New York", "size": "small"}) == prompt


def test_another_short_prompt_leaves_every_key(opened: Open) -> None:
    before = keys(opened(CAMPAIGN).grid)
    other = opened(CAMPAIGN.replace('sample = "{sector}, {city}"', 'sample = "{sector} in {city}"')).grid
    assert keys(other) == before


@pytest.mark.parametrize("before", json.loads(Path(__file__).with_name("rows_of_0.1.json").read_text("utf-8")))
def test_rows_of_a_job_that_uses_no_new_word_stay_as_they_were(
    opened: Open, tmp_path: Path, before: dict[str, Any]
) -> None:
    for name, content in before["files"].items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    choice = {"generation": before["generation"], "tuning": "local", "model": before["model"]}
    job = opened(before["job"], **choice) if before["job"] else open_job(read_job_file(None), **choice)
    made = {
        request.key.hex(): {
            "key": request.key.hex(),
            "index": request.index,
            "repeat": request.repeat,
            "variables": job.grid.variables(request),
            "prompt": job.grid.prompt(request),
        }
        for request in job.grid.requests()
    }
    for row in before["rows"]:
        assert made[row["key"]] == row
        assert job.grid.key_of(row["variables"], row["repeat"]) == bytes.fromhex(row["key"])


def assert_made_elsewhere(grid: RequestGrid) -> None:
    """Another process, which is sent the form and a row's values, makes the same request, and the same prompt of it."""
    elsewhere = pickle.loads(pickle.dumps(grid.form)).grid()
    assert elsewhere.max_output_tokens == grid.max_output_tokens
    for request in itertools.islice(grid.requests(), 50):
        assert elsewhere.request_at(request.index, request.repeat, request.values) == request
        variables = grid.variables(request)
        for answer in ("Yes.", '{"text": "Yes.", "label": "a", "question": "Why?", "answer": "So."}'):
            assert elsewhere.prompt_of(variables, answer) == grid.prompt_of(variables, answer)
            assert elsewhere.answers.read(answer) == grid.answers.read(answer)
        assert elsewhere.opening(request) == grid.opening(request)


@pytest.mark.parametrize("before", json.loads(Path(__file__).with_name("rows_of_0.1.json").read_text("utf-8")))
def test_the_form_of_a_job_makes_its_requests_elsewhere(opened: Open, tmp_path: Path, before: dict[str, Any]) -> None:
    for name, content in before["files"].items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    choice = {"generation": before["generation"], "tuning": "local", "model": before["model"]}
    job = opened(before["job"], **choice) if before["job"] else open_job(read_job_file(None), **choice)
    assert_made_elsewhere(job.grid)


@pytest.mark.parametrize("example", [example for example in EXAMPLES if example != "chain"])  # it needs another run
def test_the_form_of_each_example_makes_its_requests_elsewhere(example: str, tmp_path: Path) -> None:
    for path, text in example_files(example, tmp_path / "job.toml").items():
        path.write_text(text, encoding="utf-8")
    file = read_job_file(tmp_path / "job.toml")
    assert_made_elsewhere(open_job(file, generation="openai", tuning="local", model="m").grid)


def test_repeats_vary_fastest_and_the_last_axis_next(opened: Open) -> None:
    grid = opened(CAMPAIGN).grid
    order = [(grid.prompt(request), request.repeat) for request in grid.requests()]
    assert order[:4] == [("Bakers, Paris", 0), ("Bakers, Paris", 1), ("Bakers, Berlin", 0), ("Bakers, Berlin", 1)]


@given(st.lists(st.text(), min_size=1, max_size=5, unique=True), st.text(), st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_body_is_the_json_that_its_parts_say(values: list[str], system: str, literal: str) -> None:
    text = escaped(literal)
    prompt = Prompt(user=f"{text}{{a}}{text}", system=escaped(system) or None)
    grid = grid_of(values, prompt, parameters={"top_p": 0.5, "stop": ["\n"]})
    for request in grid.requests():
        body = orjson.loads(request.body)
        assert body["messages"][-1] == {"role": "user", "content": literal + request.values[0] + literal}
        assert [message["role"] for message in body["messages"]] == (["system"] if system else []) + ["user"]
        assert list(body) == ["model", "messages", "stop", "top_p"]


def test_adding_a_city_or_a_repeat_leaves_every_other_key(opened: Open) -> None:
    before = keys(opened(CAMPAIGN).grid)
    for change in (('["Paris", "Berlin"]', '["Rome", "Paris", "Berlin"]'), ("repeats = 2", "repeats = 3")):
        after = keys(opened(CAMPAIGN.replace(*change)).grid)
        assert len(after) == len(before) + 4
        assert before.items() <= after.items()


@pytest.mark.parametrize(
    "change",
    [("Write to", "Write for"), ("temperature = 1", "temperature = 0.9"), ('user = "', 'system = "s"\nuser = "')],
)
def test_what_changes_the_request_changes_every_key(opened: Open, change: tuple[str, str]) -> None:
    before = keys(opened(CAMPAIGN).grid)
    after = keys(opened(CAMPAIGN.replace(*change)).grid)
    assert not set(before.values()) & set(after.values())


def test_another_model_changes_every_key(opened: Open) -> None:
    first = opened(CAMPAIGN, model="one").grid
    second = opened(CAMPAIGN, model="two").grid
    assert not set(keys(first).values()) & set(keys(second).values())


@pytest.mark.parametrize(
    "change", [("[generate]", "[limits]\nconcurrency = 3\n[generate]"), ('name = "c"', 'name = "d"')]
)
def test_what_is_not_in_the_request_changes_no_key(opened: Open, change: tuple[str, str]) -> None:
    before = opened(CAMPAIGN).grid
    after = opened(CAMPAIGN.replace(*change)).grid
    assert keys(before) == keys(after)
    assert before.fingerprint == after.fingerprint


def test_the_fingerprint_names_what_changed(opened: Open) -> None:
    before = opened(CAMPAIGN).grid.fingerprint
    after = opened(CAMPAIGN.replace("temperature = 1", "top_p = 1").replace('"Berlin"', '"Rome"')).grid.fingerprint
    changed = {part for part in before.keys() | after.keys() if before.get(part) != after.get(part)}
    assert changed == {"grid.city", "generate.parameters.temperature", "generate.parameters.top_p"}


@pytest.mark.parametrize(
    ("name", "job", "part"),
    [
        ("cities.txt", '[grid]\ncity = { file = "cities.txt" }', "grid.city"),
        ("cities.csv", '[rows]\nfile = "cities.csv"', "rows"),
    ],
)
def test_a_file_of_values_counts_by_what_stands_in_it(
    opened: Open, tmp_path: Path, name: str, job: str, part: str
) -> None:
    text = f'name = "c"\n{job}\n[prompt]\nuser = "Write to {{city}}."\n'
    fingerprints = []
    for city in ("Paris", "Paris", "Rome"):
        (tmp_path / name).write_text(f"city\n{city}\n", encoding="utf-8")
        fingerprints.append(opened(text).grid.fingerprint)
    same, again, other = fingerprints
    assert same == again
    assert {each for each in same if same[each] != other[each]} == {part}


def test_a_key_is_found_again_from_the_variables(opened: Open) -> None:
    grid = opened(CAMPAIGN).grid
    for request in grid.requests():
        assert grid.key_of(grid.variables(request), request.repeat) == request.key
    assert grid.key_of({"sector": "Bakers", "city": "Rome"}, 0) is None
    assert grid.key_of({"sector": "Bakers", "city": "Paris"}, 2) is None
    assert grid.key_of({"sector": "Bakers"}, 0) is None
    more = {"sector": "Bakers", "city": "Paris", "size": "small"}
    assert grid.key_of(more, 0) == grid.key_of({"sector": "Bakers", "city": "Paris"}, 0)


def test_settled_requests_are_passed_over(opened: Open) -> None:
    grid = opened(CAMPAIGN).grid
    every = list(grid.requests())
    settled = {request.key for request in every[::2]}
    assert list(grid.wanted(lambda key: key not in settled)) == every[1::2]


def test_repeats_of_a_combination_take_the_openings_in_turn() -> None:
    openings = [f"{number} {{a}}" for number in range(4)]
    grid = grid_of(["x", "y"], Prompt(user="{a}", openings=openings), repeats=8)
    turns = [int(grid.opening(request).split()[0]) for request in grid.requests()]
    assert all((second - first) % 4 == 1 for first, second in itertools.pairwise(turns[:8]))
    for request in grid.requests():
        assert orjson.loads(request.body)["messages"][-1] == {"role": "assistant", "content": grid.opening(request)}


def test_an_example_is_shown_as_earlier_turns_and_only_with_its_opening() -> None:
    examples = [Example({"a": "e0"}, "answer 0", opening=0), Example({"a": "all"}, "answer {literal}")]
    grid = grid_of(["x"], Prompt(user="ask {a}", openings=["zero", "one"], examples=examples), repeats=2)
    for request in grid.requests():
        texts = [message["content"] for message in orjson.loads(request.body)["messages"]]
        shown = ["ask e0", "answer 0"] if grid.opening(request) == "zero" else []
        assert texts == [*shown, "ask all", "answer {literal}", "ask x", grid.opening(request)]


def test_the_sample_defaults_to_the_values_in_order(opened: Open) -> None:
    grid = opened(CAMPAIGN.replace('sample = "{sector}, {city}"', "")).grid
    assert grid.prompt(next(grid.requests())) == "Bakers, Paris"


def test_the_most_output_tokens_are_read_from_either_parameter() -> None:
    assert grid_of(["x"], Prompt(user="{a}"), parameters={"max_tokens": 5}).max_output_tokens == 5
    assert grid_of(["x"], Prompt(user="{a}"), parameters={"max_completion_tokens": 6}).max_output_tokens == 6
    assert grid_of(["x"], Prompt(user="{a}")).max_output_tokens is None


def test_a_spread_gives_requests_of_the_grid(opened: Open) -> None:
    grid = opened(CAMPAIGN).grid
    everything = {request.index: request for request in grid.requests()}
    for most in (1, 2, 5, 1000):
        spread = list(grid.sample_evenly(most))
        assert 1 <= len(spread) <= most
        assert all(everything[request.index] == request for request in spread)


TEXTS = st.text(max_size=6)


@given(
    sectors=st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    cities=st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    literal=TEXTS,
    openings=st.lists(TEXTS, max_size=2),
)
def test_the_longest_body_is_known_without_making_any(
    sectors: list[str], cities: list[str], literal: str, openings: list[str]
) -> None:
    user = "{b}{a} " + escaped(literal) + " {a}"
    prompt = Prompt(user=user, openings=[escaped(opening) + "{b}" for opening in openings])
    job = Job(name="x", prompt=prompt, grid={"a": list(sectors), "b": list(cities)})
    grid = RequestGrid(job, Combinations({"a": sectors, "b": cities}), "m")
    longest = max(len(request.body) for request in grid.requests())
    assert grid.longest_body() >= longest
    if len(openings) <= 1:
        assert grid.longest_body() == longest


def test_the_longest_body_is_that_of_the_longest_row_with_the_longest_values(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "stores.csv").write_text("store,street\nShort,A very long street\nA long name,S\n", encoding="utf-8")
    text = 'name = "c"\n[rows]\nfile = "stores.csv"\n[grid]\ncity = ["Rome", "Brussels"]\n'
    text += '[prompt]\nuser = "{store} {street} {city} {city}"\n'
    grid = opened(text).grid
    assert grid.longest_body() == max(len(request.body) for request in grid.requests())
    chosen = opened(text + "[subset]\nsize = 1\n").grid
    assert chosen.longest_body() >= max(len(request.body) for request in chosen.requests())
