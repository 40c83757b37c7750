import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.errors import JobFileError, UsageError
from asyncgen.job.cells import TableError
from asyncgen.job.load import JobFile, _all_problems, open_grid, read_job_file
from asyncgen.job.opened import OpenedJob, open_job
from asyncgen.job.run_rows import RunRows
from asyncgen.job.sources import Sources
from asyncgen.providers.profiles import PROFILES

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
        (('city = ["Paris"]', 'city = ["Paris", "Paris"]'), ["grid.city: 'Paris' occurs twice"]),
        (('city = ["Paris"]', "city = [true]"), ["grid.city: expected text or numbers, found true"]),
        (('city = ["Paris"]', 'city = "Paris"'), ["grid.city: expected a list of values"]),
        (('city = ["Paris"]', '"a b" = ["x"]\ncity = ["Paris"]'), ["grid.a b: an axis must be an identifier"]),
        (("{city}", "{citty}"), ["prompt.user: {citty} is not an axis; the axes are city (did you mean 'city'?)"]),
        (("{city}", "{city"), ["prompt.user: line 1 of the text: a single '{'"]),
        (('user = "to {city}"', 'user = " "'), ["prompt.user: empty"]),
        (('user = "to {city}"', "user = 3"), ["prompt.user: expected text, found the number 3"]),
        (('user = "to {city}"', ""), ["prompt.user: missing"]),
        (('name = "x"', 'name = "../x"'), ["name: '../x' may only have letters"]),
        (('name = "x"', 'name = "-x"'), ["name: '-x' may only have letters", "begins with a letter or digit"]),
        (('name = "x"', f'name = "{"x" * 101}"'), ["name: it has 101 characters, and may have 100"]),
        (('name = "x"', ""), ["name: missing"]),
        (("[prompt]", "[generate]\nrepeats = 0\n[prompt]"), ["generate.repeats: 0 is out of range"]),
        (
            ("[prompt]", "[generate]\nrepeats = 1.5\n[prompt]"),
            ["generate.repeats: expected a whole number, found the number 1.5"],
        ),
        (
            ("[prompt]", "[generate.parameters]\nn = 2\n[prompt]"),
            ["generate.parameters.n: this parameter cannot be set"],
        ),
        (("[prompt]", '[generate]\nprovider = "opnai"\n[prompt]'), ["not a provider; possible: auto"]),
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
        (('"Paris"', '"Paris'), ["a string has no closing quote", "job.toml:3: "]),
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
        "9: prompt.user: {town} is not an axis; the axes are city",
    ]


def test_a_mistake_that_only_an_overlay_brings_is_found_without_that_provider(opened: Open) -> None:
    found = problems(opened, GOOD + '[on.local.prompt]\nuser = "{town}"\n')
    assert found[0].endswith("on.local.prompt.user: {town} is not an axis; the axes are city")


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
        "prompt.examples[2].opening: 0 is not an opening, expected prompt.openings to be there",
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
        ("gpt-6-astra", "top_p = 1", "remove it"),
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


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "city,n\nBonn,1\n", "set a column of t.csv: city, n"),
        ("t.jsonl", '{"city": "Bonn"}\n', "set a column of t.jsonl: city"),
        ("t.tsv", "city\tn\n", "t.tsv: neither a text file nor a table"),
        ("t.xlsx", "", "t.xlsx: neither a text file nor a table"),
        ("t.txt", " \n\n", "t.txt has no values"),
        ("t.txt", "Köln".encode("latin-1"), "t.txt:1: not UTF-8 at byte 2"),
        ("t.txt", "Bonn\n".encode("utf-16"), "t.txt:1: UTF-16, expected UTF-8"),
        ("t.txt", "Bonn\nOslo\n".encode("utf-16-le"), "t.txt:1: UTF-16, expected UTF-8"),
    ],
)
def test_a_file_of_an_axis_that_is_no_list_of_values_is_told(
    opened: Open, tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert words in problems(opened, GOOD.replace('["Paris"]', f'{{ file = "{name}" }}'))[0]


@pytest.mark.parametrize(
    ("name", "column", "content"),
    [
        ("t.txt", "", "Bonn\rOslo\rRome"),
        ("t.txt", "", "\ufeffBonn\r\n\r\n  Oslo \nRome\nBonn\n"),
        ("t.csv", "city", "city,n\nBonn,1\n ,2\n,3\nOslo ,4\nRome,5\n"),
        ("t.csv", "city", "n,n,city\n1,2,Bonn\n1,2,Oslo\n1,2,Rome\n"),
        ("t.csv", "city", "n;city\n1;Bonn\n1;Oslo\n1;Rome\n"),
        ("t.jsonl", "city", '{"tags": [1], "city": "Bonn"}\n{"city": null}\n{"city": "Oslo"}\n{"city": "Rome"}\n'),
    ],
)
def test_the_values_of_an_axis_are_those_that_a_person_means(
    opened: Open, tmp_path: Path, name: str, column: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    source = f'{{ file = "{name}"' + (f', column = "{column}" }}' if column else " }")
    grid = opened(GOOD.replace('["Paris"]', source)).grid
    assert [request.values for request in grid.requests()] == [("Bonn",), ("Oslo",), ("Rome",)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("[12345678901234567890123, -9223372036854775809]", ["12345678901234567890123", "-9223372036854775809"]),
        ("[1, 0.5, 1e3, 'x']", ["1", "0.5", "1000.0", "x"]),
    ],
)
def test_numbers_of_an_axis_are_as_they_were_written(opened: Open, values: str, expected: list[str]) -> None:
    grid = opened(GOOD.replace('["Paris"]', values)).grid
    assert [request.values[0] for request in grid.requests()] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('["Paris"]', "[nan]"), "3: grid.city: nan is not a valid number"),
        (GOOD.replace('["Paris"]', "[1, '1']"), "3: grid.city: '1' occurs twice"),
        (GOOD.replace('["Paris"]', "[0x" + "f" * 5000 + "]"), "3: grid.city: a number of more than 4,300 digits"),
        (GOOD + "[generate.parameters]\ntop_p = nan\n", "7: generate.parameters.top_p: nan is not a finite number"),
        (
            GOOD + "[generate.parameters]\nx = { y = [inf] }\n",
            "generate.parameters.x.y[1]: inf is not a finite number",
        ),
        (GOOD + "[limits]\ntimeout_s = inf\n", "7: limits.timeout_s: inf is not a finite number"),
        (GOOD + "[generate.parameters]\nx = 99999999999999999999\n", "7: generate.parameters.x: a whole number beyond"),
        (GOOD + "[subset]\nsize = 1\nseed = 99999999999999999999\n", "8: subset.seed: a whole number beyond 64 bits"),
        (
            GOOD + "[generate]\nmax_tokens = 99999999999999999999\n",
            "7: generate.max_tokens: a whole number beyond 64 bits",
        ),
        (GOOD + "[generate]\nrepeats = 2000000\n", "7: generate.repeats: 2e+06 is out of range, expected at most"),
        (GOOD + "[checks]\nmust_match = [1]\n", "7: checks.must_match[1]: expected text, found the number 1"),
        (GOOD + '[dataset]\nformat = "Chat"\n', '7: dataset.format: expected "chat" or "completion'),
        (GOOD + "[checks]\njson = true\n", "7: checks.json: unknown key; possible: max_sentences, max_words"),
        (GOOD + "[limits]\nmax_cost = '5'\n", "7: limits.max_cost: expected a number, found text"),
        (GOOD.replace('"Paris"', "1999-01-01"), "3: grid.city: expected text or numbers, found a date or time"),
        (GOOD + "x.y." * 200 + "z = 1\n", "nested more than 100 levels deep"),
        (GOOD + "x = " + "[" * 5000, "nested too deeply"),
        (GOOD + "x = " + "1" * 5000, "a number of more than 4,300 digits"),
        (GOOD.replace('["Paris"]', '{ file = "a\\u0000b" }'), "3: grid.city: a\0b: not a valid file name"),
    ],
)
def test_values_that_cannot_be_are_refused_in_our_words_with_their_line(opened: Open, text: str, words: str) -> None:
    assert words in problems(opened, text)[0]


@pytest.mark.parametrize(
    ("place", "may_be_text"),
    [("[generate]\nmax_tokens", False), ("[limits]\nmax_cost", False), ("[generate.parameters]\nseed", True)],
)
def test_quotes_are_advised_for_a_long_number_only_where_a_text_is_taken(
    opened: Open, place: str, may_be_text: bool
) -> None:
    [problem] = problems(opened, GOOD + f"{place} = 99999999999999999999\n")
    assert ("in quotes" in problem) is may_be_text


def test_streaming_can_be_switched_off_by_name_and_not_on(opened: Open) -> None:
    made = opened(GOOD + "[generate.parameters]\nstream = false\n")
    assert made.job.generate.parameters == {"stream": False}
    [problem] = problems(opened, GOOD + "[generate.parameters]\nstream = true\n")
    assert "7: generate.parameters.stream" in problem
    assert "not streamed" in problem


def test_a_byte_order_mark_changes_nothing(opened: Open) -> None:
    plain, marked = opened(GOOD), opened("\ufeff" + GOOD)
    assert plain.grid.fingerprint == marked.grid.fingerprint
    assert list(plain.grid.requests()) == list(marked.grid.requests())
    assert marked.file.text == plain.file.text


def test_ten_thousand_values_are_read_at_once(opened: Open) -> None:
    values = ", ".join(f'"city {number}"' for number in range(9_999))
    began = time.process_time()
    assert opened(GOOD.replace('"Paris"', values)).grid.count == 9_999
    assert time.process_time() - began < 5  # a comparison of each with each takes a multiple


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("place", ["job", "axis", "rows", "schema"])
def test_what_is_no_file_is_refused_and_not_waited_for(opened: Open, tmp_path: Path, kind: str, place: str) -> None:
    odd = tmp_path / {"axis": "odd.txt", "schema": "odd.json"}.get(place, "odd.jsonl")
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    else:
        odd.mkdir()
    texts = {
        "axis": GOOD.replace('["Paris"]', '{ file = "odd.txt" }'),
        "rows": GOOD + '[rows]\nfile = "odd.jsonl"\n',
        "schema": GOOD + '[answer]\nformat = "json"\nschema = "odd.json"\n',
    }
    with pytest.raises(UsageError) as caught:
        read_job_file(odd) if place == "job" else opened(texts[place])
    assert ("folder" if kind == "folder" else "a pipe or a device") in f"{caught.value} {caught.value.cause}"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "city,n\n", "rows.file: t.csv: it has no rows"),
        ("t.csv", "city,city\nBonn,1\n", "rows.file: t.csv:1: column 'city' occurs twice"),
        ("t.csv", "a,b\nx,y\n", "{city} is neither an axis nor a column; there are a, b"),
        ("t.jsonl", '{"city": "Bonn"}\n{"city": null}\n', "rows.file: t.jsonl:2: column 'city' is empty"),
    ],
)
def test_rows_that_cannot_be_asked_for_are_told(
    opened: Open, tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    text = f'name = "x"\n[rows]\nfile = "{name}"\n[prompt]\nuser = "to {{city}}"\nsample = "s"\n'
    assert words in problems(opened, text)[0]


def test_a_column_whose_name_is_no_identifier_is_told_how_to_be_named(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("Store City\nBonn\n", encoding="utf-8")
    found = problems(opened, 'name = "x"\n[rows]\nfile = "s.csv"\n[prompt]\nuser = "to {Store City}"\n')
    assert "the column 'Store City' of s.csv is not an identifier; rename it, for example to store_city" in found[0]


def test_columns_that_no_template_names_do_not_matter(opened: Open, tmp_path: Path) -> None:
    lines = '{"city": "Bonn", "tags": ["a"], "note": "x", "id": 1}\n{"city": "Oslo", "note": null, "more": {}}\n'
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    text = 'name = "x"\n[rows]\nfile = "t.jsonl"\n[prompt]\nuser = "to {city}"\nsample = "{city}"\n'
    grid = opened(text).grid
    assert [grid.variables(request) for request in grid.requests()] == [
        {"city": "Bonn", "note": "x", "id": "1"},
        {"city": "Oslo", "note": "", "id": ""},
    ]


def test_a_nested_cell_that_a_prompt_names_is_json_text(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"tags": ["a", {"b": 1}]}\n', encoding="utf-8")
    grid = opened('name = "x"\n[rows]\nfile = "t.jsonl"\n[prompt]\nuser = "{tags}"\n').grid
    assert next(grid.requests()).values == ('["a",{"b":1}]',)


def test_false_in_an_overlay_takes_away_and_inside_a_value_is_a_value(opened: Open) -> None:
    text = GOOD + (
        "[generate]\nmax_tokens = 5\n[generate.parameters]\nseed = 1\nlogprobs = true\n"
        "chat_template_kwargs = { enable_thinking = true }\n"
        "[on.custom.generate]\nmax_tokens = false\n[on.custom.generate.parameters]\nseed = false\nlogprobs = false\n"
        "chat_template_kwargs = { enable_thinking = false }\nstore = false\n"
    )
    assert opened(text, generation="custom").grid.parameters == {
        "chat_template_kwargs": {"enable_thinking": False},
        "store": False,
    }


@pytest.mark.parametrize(("provider", "name"), [("openai", "max_completion_tokens"), ("together", "max_tokens")])
def test_the_bound_on_an_answer_is_sent_under_the_name_that_the_provider_knows(
    opened: Open, provider: str, name: str
) -> None:
    bounded = opened(GOOD + "[generate]\nmax_tokens = 7\n", generation=provider).grid
    spelled = opened(GOOD + f"[generate.parameters]\n{name} = 7\n", generation=provider).grid
    assert list(bounded.requests()) == list(spelled.requests())
    assert bounded.fingerprint == spelled.fingerprint
    assert bounded.max_output_tokens == 7


def test_two_bounds_on_an_answer_are_one_too_many(opened: Open) -> None:
    text = GOOD + "[generate]\nmax_tokens = 7\n[generate.parameters]\nmax_completion_tokens = 7\n"
    assert "generate.max_tokens is set, too" in problems(opened, text)[0]


def test_an_overlay_may_be_for_a_provider_that_is_not_known_here(opened: Open) -> None:
    assert "on.gpu-box: there is no provider of this name" in opened(GOOD + "[on.gpu-box]\n").remarks
    assert "did you mean 'local'?" in problems(opened, GOOD + "[on.lcoal]\n")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, []),
        (GOOD.replace('["Paris"]', '["Paris"]\nsize = ["s", "l"]'), ["grid.size is used in no prompt: its 2 values"]),
        (
            GOOD.replace('["Paris"]', '["a", "b"]').replace("{city}", "{{ city }}"),
            ["grid.city is used in no prompt: its 2 values give the same requests; write {city} with single braces"],
        ),
        (GOOD + '[subset]\nexclude = [{ city = "Rome" }]\n', ["subset.exclude has no effect"]),
        (GOOD + 'sample = "{answer}"\n', ["prompt.sample contains the answer, and prompt.target is the answer, too"]),
        (GOOD + 'sample = "{answer}"\ntarget = "{city}"\n', []),
        (
            GOOD.replace('["Paris"]', '["Paris"]\nanswer = ["a"]') + 'sample = "{answer}"\n',
            ["{answer} in prompt.sample is your variable `answer`"],
        ),
    ],
)
def test_what_may_not_be_meant_is_told(opened: Open, text: str, expected: list[str]) -> None:
    remarks = opened(text).remarks
    assert len(remarks) == len(expected)
    assert all(words in remark for words, remark in zip(expected, remarks, strict=True))


def test_an_axis_that_only_some_openings_name_is_told(opened: Open) -> None:
    text = 'name = "x"\n[grid]\ncity = ["a", "b"]\n[prompt]\nuser = "Write."\nopenings = ["In {city}", "So"]\n'
    assert "only in some of prompt.openings" in opened(text, generation="local").remarks[0]
    assert opened(text.replace('"So"', '"So {city}"'), generation="local").remarks == ()


def test_the_built_in_job_gives_no_remarks() -> None:
    for name in ("local", "openai"):
        model = PROFILES[name].default_model or ""
        assert open_job(read_job_file(None), generation=name, tuning="local", model=model).remarks == ()


def test_a_models_name_at_another_server_is_an_alias_and_only_told(opened: Open) -> None:
    text = f"{GOOD}[generate.parameters]\ntemperature = 1\n"
    remark = opened(text, generation="custom", model="gpt-5").remarks[0]
    assert "at custom the name may be another model" in remark
    assert problems(opened, text, generation="openai", model="gpt-5")


def test_a_file_with_nearly_the_name_is_suggested_and_a_folders_job_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(UsageError, match=r"did you mean '.*base.toml'\?"):
        read_job_file(tmp_path / "bas.toml")
    with pytest.raises(UsageError, match="is a folder") as caught:
        read_job_file(tmp_path)
    assert str(tmp_path / "base.toml") in (caught.value.help_text or "")


toml_values = st.recursive(
    st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.just("{city}") | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *(("grid", "city"), ("rows", "file"), ("rows", "files"), ("rows", "run"), ("rows",), ("subset", "exclude")),
    *(("subset", "size"), ("prompt", "user"), ("prompt", "sample"), ("prompt", "target"), ("prompt", "messages")),
    *(("prompt", "openings"), ("prompt", "examples"), ("generate", "parameters"), ("generate", "max_tokens")),
    *(("answer", "format"), ("answer", "schema"), ("answer",), ("checks", "must_contain"), ("checks", "must_match")),
    *(
        ("on", "local"),
        ("on", "openai", "grid"),
        ("dataset", "hold_out"),
        ("limits",),
        ("finetune", "metadata"),
        ("x",),
    ),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), toml_values, min_size=1, max_size=4), st.sampled_from(["openai", "local"])
)
def test_any_tables_are_a_job_or_problems(tmp_path: Path, tables: dict[tuple[str, ...], Any], generation: str) -> None:
    raw: dict[str, Any] = {"name": "x", "grid": {"city": ["Paris"]}, "prompt": {"user": "to {city}"}}
    for path, value in tables.items():
        table = raw
        for key in path[:-1]:
            table = table[key] if isinstance(table.get(key), dict) else table.setdefault(key, {}) or {}
            if not isinstance(table, dict):
                break
        else:
            table[path[-1]] = value
    file = JobFile(None, tmp_path, "", raw, Sources(tmp_path, lambda name: _no_run()))
    if not list(_all_problems(file)):
        with contextlib.suppress(JobFileError):
            open_grid(file, file.job(generation, "local"), PROFILES[generation], "m").longest_body()


def _no_run() -> RunRows:
    raise TableError("there is no run")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_a_job_file_or_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.toml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_job_file(tmp_path / "job.toml")
    assert "job.toml" in str(caught.value)
