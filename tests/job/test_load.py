from collections.abc import Callable
from pathlib import Path

import pytest

from asyncgen.errors import JobFileError, UsageError
from asyncgen.job.load import read_job_file
from asyncgen.job.of_run import OpenedJob

Open = Callable[..., OpenedJob]
GOOD = 'name = "x"\n[grid]\ncity = ["Paris"]\n[prompt]\nuser = "to {city}"\n'


def problems(opened: Open, text: str, **choice: str) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        opened(text, **choice)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[grid]", "[girds]"), ["girds: unknown key (did you mean 'grid'?)"]),
        (('city = ["Paris"]', "city = []"), ["grid.city: an axis needs at least one value"]),
        (('city = ["Paris"]', 'city = ["Paris", "Paris"]'), ["grid.city: 'Paris' stands here twice"]),
        (('city = ["Paris"]', "city = [true]"), ["grid.city: expected text or numbers, found true"]),
        (('city = ["Paris"]', 'city = "Paris"'), ["grid.city: expected a list of values"]),
        (('city = ["Paris"]', '"a b" = ["x"]\ncity = ["Paris"]'), ["grid.a b: an axis must be an identifier"]),
        (("{city}", "{citty}"), ["prompt.user: {citty} is no axis; the axes are city (did you mean 'city'?)"]),
        (("{city}", "{city"), ["prompt.user: line 1 of the text: a single '{'"]),
        (('user = "to {city}"', 'user = " "'), ["prompt.user: empty"]),
        (('user = "to {city}"', "user = 3"), ["prompt.user: expected text, found the number 3"]),
        (('user = "to {city}"', ""), ["prompt.user: missing"]),
        (('name = "x"', 'name = "../x"'), ["name: '../x' must be letters"]),
        (('name = "x"', ""), ["name: missing"]),
        (("[prompt]", "[generate]\nrepeats = 0\n[prompt]"), ["generate.repeats: 0 is out of range"]),
        (
            ("[prompt]", "[generate]\nrepeats = 1.5\n[prompt]"),
            ["generate.repeats: expected a whole number, found the number 1.5"],
        ),
        (("[prompt]", "[generate.parameters]\nn = 2\n[prompt]"), ["generate.parameters.n: not a parameter"]),
        (("[prompt]", '[generate]\nprovider = "opnai"\n[prompt]'), ["no provider; they are auto"]),
        (("[prompt]", '[checks]\nmust_match = ["("]\n[prompt]'), ["checks.must_match[1]: not a regular expression"]),
        (("[prompt]", "[dataset]\nvalidation = 1\n[prompt]"), ["dataset.validation: 1 is out of range"]),
        (("[prompt]", '[dataset]\nformat = "csv"\n[prompt]'), ["dataset.format: "]),
        (("[prompt]", "[limits]\nmax_cost = -1\n[prompt]"), ["limits.max_cost: -1 is out of range"]),
        (("[prompt]", "[subset]\nsize = 0\n[prompt]"), ["subset.size: 0 is out of range"]),
        (("[prompt]", "[on.lcoal]\n[prompt]"), ["on.lcoal: no such provider"]),
        (
            ("[prompt]", "[on.local.prompt]\nusr = 'x'\n[prompt]"),
            ["on.local.prompt.usr: unknown key (did you mean 'user'?)"],
        ),
        (('"Paris"', '"Paris'), ["a text has no closing quote", "job.toml:3: "]),
        (("[prompt]", '[rows]\nfile = "none.csv"\n[prompt]'), ["rows.file: none.csv: No such file"]),
        (('["Paris"]', '{ file = "none.txt" }'), ["grid.city: none.txt: No such file"]),
        (('["Paris"]', '{ flie = "none.txt" }'), ["grid.city.flie: unknown key", "grid.city.file: missing"]),
    ],
)
def test_each_mistake_is_named_with_its_place(opened: Open, change: tuple[str, str], expected: list[str]) -> None:
    found = problems(opened, GOOD.replace(*change))
    for words in expected:
        assert any(words in problem for problem in found), found
    assert all("job.toml" in problem for problem in found)


def test_everything_wrong_is_reported_at_once_with_lines(opened: Open, tmp_path: Path) -> None:
    text = 'name = "x"\nnmae = "y"\n[grid]\ncity = []\n\n[generate]\nrepeats = 0\n[prompt]\nuser = "{town}"\n'
    found = problems(opened, text)
    place = tmp_path / "job.toml"
    assert [problem.removeprefix(f"{place}:") for problem in found] == [
        "4: grid.city: an axis needs at least one value",
        "2: nmae: unknown key (did you mean 'name'?)",
        "7: generate.repeats: 0 is out of range, expected at least 1",
        "9: prompt.user: {town} is no axis; the axes are city",
    ]


def test_a_mistake_that_only_an_overlay_brings_is_found_without_that_provider(opened: Open) -> None:
    found = problems(opened, GOOD + '[on.local.prompt]\nuser = "{town}"\n')
    assert found[0].endswith("on.local.prompt.user: {town} is no axis; the axes are city")


def test_tables_of_a_stage_are_laid_over_by_the_provider_of_that_stage(opened: Open) -> None:
    text = GOOD + (
        "[generate.parameters]\ntop_p = 1\n[on.local.generate.parameters]\nmin_p = 0.1\n"
        '[on.local.finetune]\nsuffix = "here"\n[on.openai.finetune]\nsuffix = "there"\n'
    )
    local = opened(text, generation="local", tuning="openai").job
    assert (local.generate.parameters, local.finetune.suffix) == ({"top_p": 1, "min_p": 0.1}, "there")
    openai = opened(text, generation="openai", tuning="local").job
    assert (openai.generate.parameters, openai.finetune.suffix) == ({"top_p": 1}, "here")


def test_the_short_prompt_is_laid_over_by_who_tunes_the_long_one_by_who_answers(opened: Open) -> None:
    text = GOOD + '[on.local.prompt]\nuser = "Short, for {city}."\nsample = "to {city}"\n'
    plain = opened(GOOD).job.prompt
    tuned_here = opened(text, generation="openai", tuning="local").job.prompt
    assert (tuned_here.user, tuned_here.sample) == (plain.user, "to {city}")
    tuned_there = opened(text, generation="local", tuning="openai").job.prompt
    assert (tuned_there.user, tuned_there.sample) == ("Short, for {city}.", plain.sample)


def test_openings_are_refused_for_a_provider_that_begins_answers_itself(opened: Open) -> None:
    text = GOOD + 'openings = ["In {city}"]\n'
    assert opened(text, generation="local").grid.count == 1
    assert "prompt.openings" in problems(opened, text, generation="openai")[0]


def test_examples_must_hold_what_the_prompt_needs(opened: Open) -> None:
    text = (
        GOOD
        + '[[prompt.examples]]\ncity = "Rome"\ncompletion = "x"\n'
        + '[[prompt.examples]]\ntown = "Rome"\nopening = 0\ncompletion = "x"\n'
    )
    found = problems(opened, text)
    assert [problem.partition(": ")[2] for problem in found] == [
        "prompt.examples[2].city: missing: prompt.user needs it",
        "prompt.examples[2].town: unknown key: neither an axis, nor completion, nor opening",
        "prompt.examples[2].opening: 0 is no opening, expected prompt.openings to be there",
    ]


def test_axes_and_rows_come_from_files_beside_the_job(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "cities.txt").write_text("Paris\nRome\nParis\n", encoding="utf-8")
    (tmp_path / "stores.csv").write_text("name,kind\nA,x\nB,y\n", encoding="utf-8")
    text = (
        'name = "x"\n[grid]\ncity = { file = "cities.txt" }\n'
        'kind2 = { file = "stores.csv", column = "kind" }\n'
        '[rows]\nfile = "stores.csv"\n[prompt]\nuser = "{name} {kind} {kind2} {city}"\n'
    )
    grid = opened(text).grid
    assert grid.names == ("name", "kind", "city", "kind2")
    assert [request.values for request in grid.requests()][:3] == [
        ("A", "x", "Paris", "x"),
        ("A", "x", "Paris", "y"),
        ("A", "x", "Rome", "x"),
    ]
    assert grid.count == 8


def test_a_column_that_is_not_there_is_named_with_the_nearest(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "stores.csv").write_text("city\nParis\n", encoding="utf-8")
    found = problems(opened, GOOD.replace('["Paris"]', '{ file = "stores.csv", column = "citty" }'))
    assert "has no column 'citty'; it has city (did you mean 'city'?)" in found[0]


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("gpt-6-luna", "temperature = 1", 'set reasoning_effort = "none"'),
        ("gpt-6-luna", "max_tokens = 5", "max_completion_tokens"),
        ("gpt-6.1-sol", 'reasoning_effort = "none"', "refuses 'none'"),
        ("gpt-6-astra", "top_p = 1", "take it out"),
        ("gpt-4.1-mini", 'reasoning_effort = "none"', "does not reason"),
    ],
)
def test_a_parameter_that_the_model_refuses_is_refused_before_sending(
    opened: Open, model: str, parameters: str, words: str
) -> None:
    assert words in problems(opened, f"{GOOD}[generate.parameters]\n{parameters}\n", model=model)[0]


@pytest.mark.parametrize("model", ["gpt-6-luna", "some-llama", "gpt-4.1-mini"])
def test_parameters_that_a_model_takes_pass(opened: Open, model: str) -> None:
    effort = 'reasoning_effort = "none"' if model.startswith("gpt-6") else ""
    assert opened(f"{GOOD}[generate.parameters]\ntemperature = 1\n{effort}\n", model=model).grid.count == 1


def test_a_missing_job_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_job_file(tmp_path / "none.toml")
    assert "asyncgen init" in (caught.value.help_text or "")


def test_a_job_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match=r"job.toml:1: not UTF-8 at byte 9"):
        read_job_file(tmp_path / "job.toml")
