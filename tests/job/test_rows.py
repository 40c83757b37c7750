"""Rows of other runs, of text files, and of columns that hold chat turns."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import JobFileError
from asyncgen.job.load import read_job_file
from asyncgen.job.opened import OpenedJob, keep_job, open_job
from asyncgen.job.requests import Request
from asyncgen.job.sources import parts_of
from asyncgen.run.directory import open_run
from asyncgen.run.records import Record, Usage, encode_line

Open = Callable[..., OpenedJob]

QUESTIONS = """
name = "questions"
[grid]
topic = ["tides", "winds"]
[prompt]
user = "Ask about {topic}."
"""
ANSWERS = """
name = "answers"
[rows]
run = "runs/questions"
[prompt]
user = "Answer: {question}"
sample = "{question}"
"""


class Runs:
    """Writes a job's run as if it had been generated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def job(self, name: str, text: str) -> OpenedJob:
        path = self.folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return open_job(read_job_file(path), generation="custom", tuning="local", model="m")

    def settle(self, opened: OpenedJob, answer: Callable[[Request], str], **fields: object) -> None:
        path = self.folder / "runs" / opened.job.name
        with open_run(path, job_name=opened.job.name) as run:
            keep_job(run, opened)
            there = run.directory.records.read_bytes() if run.directory.records.exists() else b""
            new = (self.record(opened, request, answer(request), fields) for request in opened.grid.requests())
            lines = b"".join(encode_line(each) for each in new if each.key.encode() not in there)
            run.directory.records.write_bytes(there + lines)

    def record(self, opened: OpenedJob, request: Request, answer: str, fields: dict[str, object]) -> Record:
        variables = opened.grid.variables(request)
        made = {
            "key": request.key.hex(), "index": request.index, "repeat": request.repeat, "variables": variables,
            "prompt": opened.grid.prompt_of(variables, answer), "completion": answer, "model": "m",
            "finish_reason": "stop", "usage": Usage(), "attempts": 1, "check_failures": [], "latency_s": 0.1,
            "created": 1,
        }  # fmt: skip
        return Record(**(made | fields))  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_settled_rows_of_a_run_are_rows_and_one_more_topic_adds_its_own_only(runs: Runs) -> None:
    questions = QUESTIONS + '[answer]\nformat = "json"\neach = "questions"\n'

    def ask(request: Request) -> str:
        topic = request.values[0]
        return orjson.dumps({"questions": [{"question": f"Why {topic}?"}, {"question": f"When {topic}?"}]}).decode()

    runs.settle(runs.job("questions", questions), ask)
    before = runs.job("answers", ANSWERS).grid
    rows = [before.variables(request) for request in before.requests()]
    assert [(row["topic"], row["question"]) for row in rows] == [
        ("tides", "Why tides?"),
        ("tides", "When tides?"),
        ("winds", "Why winds?"),
        ("winds", "When winds?"),
    ]
    keys = {request.key for request in before.requests()}
    runs.settle(runs.job("questions", questions.replace('"winds"', '"winds", "moon"')), ask)
    after = runs.job("answers", ANSWERS).grid
    assert len({request.key for request in after.requests()} - keys) == 2
    assert keys < {request.key for request in after.requests()}


def test_a_row_keeps_the_key_of_the_record_that_it_was_made_of(runs: Runs) -> None:
    source = runs.job("questions", QUESTIONS)
    runs.settle(source, lambda request: f"Why {request.values[0]}?")
    text = ANSWERS.replace("{question}", "{answer} of {topic} by {prompt}").replace('sample = "', 'sample = "{topic} ')
    judge = runs.job("judge", text.replace('"{topic} {answer} of {topic} by {prompt}"', '"{topic}"')).grid
    assert [judge.variables(request) for request in judge.requests()] == [
        {"topic": topic, "source": asked.key.hex(), "prompt": topic, "answer": f"Why {topic}?"}
        for topic, asked in zip(("tides", "winds"), source.grid.requests(), strict=True)
    ]


def test_a_column_that_only_the_dataset_names_is_kept(runs: Runs) -> None:
    runs.settle(runs.job("questions", QUESTIONS), lambda request: f"Why {request.values[0]}?")
    text = ANSWERS.replace("{question}", "{topic}") + '[dataset]\nsystem = "Asked: {prompt}"\n'
    grid = runs.job("answers", text).grid
    assert grid.names == ("topic", "source", "prompt")


def test_the_source_row_does_not_decide_the_key(runs: Runs) -> None:
    text = ANSWERS.replace("{question}", "{answer}")
    runs.settle(runs.job("questions", QUESTIONS), lambda _: "Why?")
    first = runs.job("answers", text).grid
    row = next(first.requests())
    variables = first.variables(row) | {"source": "0" * 32}
    assert first.key_of(variables, 0) == row.key
    assert sum(map(len, first.twins().values())) == 1


def test_answers_that_fail_their_checks_are_no_rows_and_told(runs: Runs) -> None:
    opened = runs.job("questions", QUESTIONS)
    runs.settle(opened, lambda request: f"Why {request.values[0]}?")
    path = runs.folder / "runs" / "questions" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    bad = orjson.loads(lines[0]) | {"check_failures": ["json"]}
    path.write_bytes(orjson.dumps(bad) + b"\n" + lines[1] + lines[1][:20])
    text = ANSWERS.replace('sample = "{question}"', 'sample = "{prompt}"').replace("{question}", "{answer}")
    answers = runs.job("answers", text)
    assert answers.grid.count == 1
    assert answers.remarks == ("rows.run: 1 record of runs/questions left out: they failed their checks",)


def test_rows_that_a_simulation_made_up_are_told(runs: Runs) -> None:
    runs.settle(runs.job("questions", QUESTIONS), lambda request: f"Why {request.values[0]}?")
    path = runs.folder / "runs" / "questions" / "records.jsonl"
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(orjson.dumps(line | {"simulated": True}) + b"\n" for line in lines))
    text = ANSWERS.replace('sample = "{question}"', 'sample = "{prompt}"').replace("{question}", "{answer}")
    [remark] = runs.job("answers", text).remarks
    assert f"{len(lines)} rows of runs/questions are simulated" in remark


def test_rows_that_the_source_no_longer_asks_for_are_left_out(runs: Runs) -> None:
    runs.settle(runs.job("questions", QUESTIONS), lambda request: f"Why {request.values[0]}?")
    changed = runs.job("questions", QUESTIONS.replace('["tides", "winds"]', '["tides"]'))
    with open_run(runs.folder / "runs" / "questions", job_name="questions") as run:
        keep_job(run, changed)
        from asyncgen.generate.journal.stale import accept_stale, find_stale  # noqa: PLC0415 - a higher layer's

        accept_stale(run, changed.grid, find_stale(run, changed.grid))
    assert runs.job("answers", ANSWERS.replace("{question}", "{answer}")).grid.count == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("runs/questions", "runs/none"), "there is no run yet"),
        (("runs/questions", "a\\u0000b"), "not a valid folder name"),
        (("runs/questions", "x" * 5000), "rows.run: xxxx"),
        (("{question}", "{qestion}"), "neither an axis nor a column"),
    ],
)
def test_a_source_that_cannot_be_followed_is_told(runs: Runs, change: tuple[str, str], words: str) -> None:
    runs.settle(runs.job("questions", QUESTIONS), lambda _: "Why?")
    with pytest.raises(JobFileError) as caught:
        runs.job("answers", ANSWERS.replace(*change))
    assert words in (caught.value.cause or "")


def test_a_run_without_a_settled_row_and_a_damaged_line_are_told(runs: Runs) -> None:
    runs.settle(runs.job("questions", QUESTIONS), lambda _: "Why?", check_failures=["x"])
    text = ANSWERS.replace("{question}", "{answer}")
    with pytest.raises(JobFileError, match="1 problem") as caught:
        runs.job("answers", text)
    assert "no answer can be used yet (2 failed their checks)" in (caught.value.cause or "")
    path = runs.folder / "runs" / "questions" / "records.jsonl"
    path.write_bytes(b'{"key": [[[[' + b"[" * 100_000 + b"\n")
    with pytest.raises(JobFileError) as caught:
        runs.job("answers", text)
    assert "runs/questions:1: not a record" in (caught.value.cause or "")


def test_runs_that_follow_each_other_in_a_circle_are_refused(runs: Runs) -> None:
    opened = runs.job("questions", QUESTIONS)
    runs.settle(opened, lambda _: "Why?")
    circle = QUESTIONS.replace('[grid]\ntopic = ["tides", "winds"]', '[rows]\nrun = "runs/questions"')
    (runs.folder / "runs" / "questions" / "job.toml").write_text(circle, encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        runs.job("answers", ANSWERS)
    assert "its job cannot be opened" in (caught.value.cause or "")
    assert "the runs depend on each other in a circle" in (caught.value.cause or "")


def test_text_files_are_rows_a_part_each(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "b.md").write_text("# One\n\nAlpha beta.\n\nGamma delta.\n", encoding="utf-8")
    (tmp_path / "docs" / "sub" / "a.md").write_text("Short\r\ntext.", encoding="utf-8", newline="")
    (tmp_path / "docs" / "empty.md").write_text(" \n", encoding="utf-8")
    text = 'name = "x"\n[rows]\nfiles = "docs/**/*.md"\nsplit_words = 4\n[prompt]\nuser = "{file} {part}: {text}"\n'
    grid = opened(text).grid
    assert [request.values for request in grid.requests()] == [
        ("docs/b.md", "1", "# One\n\nAlpha beta."),
        ("docs/b.md", "2", "Gamma delta."),
        ("docs/sub/a.md", "1", "Short\ntext."),
    ]
    assert all(grid.key_of(grid.variables(request), 0) == request.key for request in grid.requests())


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no file matches it"), (b" ", "have no text"), (b"x\n\xff", "docs/a.md, line 2: not UTF-8")],
)
def test_files_that_cannot_be_read_are_named(opened: Open, tmp_path: Path, content: bytes | None, words: str) -> None:
    (tmp_path / "docs").mkdir()
    if content is not None:
        (tmp_path / "docs" / "a.md").write_bytes(content)
    with pytest.raises(JobFileError) as caught:
        opened('name = "x"\n[rows]\nfiles = "docs/*.md"\n[prompt]\nuser = "{text}"\n')
    assert words in (caught.value.cause or "")


@given(
    st.lists(st.lists(st.sampled_from(["a", "bb", "# h", "c\nd"]), min_size=1, max_size=5), max_size=9),
    st.integers(1, 9),
)
def test_paragraphs_stay_whole_and_none_is_lost(words: list[list[str]], split: int) -> None:
    paragraphs = [" ".join(each) for each in words]
    parts = parts_of("\n\n".join(paragraphs), split)
    assert [each for part in parts for each in part.split("\n\n")] == paragraphs
    assert all(len(part.split()) <= split or "\n\n" not in part or part.startswith("#") for part in parts)


def test_a_part_begins_with_the_last_words_of_the_one_before() -> None:
    parts = parts_of("one two three\n\nfour five\n\nsix seven eight", 4, overlap_words=2)
    assert parts == ["one two three", "two three\n\nfour five", "four five\n\nsix seven eight"]


def test_a_column_of_chat_turns_is_sent_up_to_what_is_to_be_answered(opened: Open, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi \u20ac"}, {"role": "assistant", "content": "old"}]
    rows = [{"turns": turns, "id": 1}, {"turns": [{"from": "human", "value": "Ho"}], "id": 2}]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    text = 'name = "x"\n[rows]\nfile = "t.jsonl"\n[prompt]\nmessages = "turns"\n[generate.parameters]\ntop_p = 1\n'
    grid = opened(text).grid
    requests = list(grid.requests())
    assert [orjson.loads(request.body) for request in requests] == [
        {"model": "some-model", "messages": [{"role": "user", "content": "Hi \u20ac"}], "top_p": 1},
        {"model": "some-model", "messages": [{"role": "user", "content": "Ho"}], "top_p": 1},
    ]
    assert max(len(request.body) for request in requests) <= grid.longest_body()
    parts = next(grid.samples(grid.variables(requests[0]), " new "))
    assert (parts.prompt, parts.target) == ("Hi \u20ac", "new")
    assert list(parts.turns or ()) == [turns[0], {"role": "assistant", "content": "new"}]


def test_a_cell_without_chat_turns_is_named(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"turns": [{"role": "user", "content": "x"}]}\n{"turns": "no"}\n')
    with pytest.raises(JobFileError) as caught:
        opened('name = "x"\n[rows]\nfile = "t.jsonl"\n[prompt]\nmessages = "turns"\n')
    assert "row 2: column 'turns' has no chat messages" in (caught.value.cause or "")


def test_the_direction_of_a_sample_can_be_turned(opened: Open) -> None:
    text = 'name = "x"\n[grid]\nlabel = ["spam"]\n[prompt]\nuser = "{label}"\nsample = "{answer}"\ntarget = "{label}"\n'
    grid = opened(text).grid
    request = next(grid.requests())
    assert grid.prompt(request) == "{answer}"
    parts = next(grid.samples(grid.variables(request), " Buy now "))
    assert (parts.prompt, parts.target, parts.turns) == ("Buy now", "spam", None)
    assert grid.prompt_of(grid.variables(request), "Buy now") == "Buy now"


def test_fields_of_an_answer_are_places_in_sample_and_target(opened: Open) -> None:
    text = (
        'name = "x"\n[grid]\ntopic = ["t"]\n[prompt]\nuser = "{topic}"\nsample = "{answer.q}"\ntarget = "{answer.a}"\n'
        '[answer]\nformat = "json"\neach = "pairs"\n'
    )
    grid = opened(text).grid
    answer = '{"pairs": [{"q": "1?", "a": "1!"}, {"q": "2?", "a": "2!"}]}'
    parts = list(grid.samples({"topic": "t"}, answer))
    assert [(part.prompt, part.target) for part in parts] == [("1?", "1!"), ("2?", "2!")]
    assert grid.prompt_of({"topic": "t"}, answer) == "1?"
    assert list(grid.samples({"topic": "t"}, "no json")) == []
    assert grid.prompt_of({"topic": "t"}, "no json") == ""
    with pytest.raises(JobFileError) as caught:
        opened(text.replace('format = "json"', ""))
    assert 'set answer.format = "json"' in (caught.value.cause or "")


def test_a_schema_comes_from_a_file_or_from_response_format(opened: Open, tmp_path: Path) -> None:
    text = 'name = "x"\n[grid]\nt = ["t"]\n[prompt]\nuser = "{t}"\n[answer]\nformat = "json"\n'
    wanted = "{ type = 'json_schema', json_schema = { name = 'n', schema = { required = ['a'] } } }"
    by_parameter = opened(f"{text}[generate.parameters]\nresponse_format = {wanted}\n").grid
    (tmp_path / "s.json").write_text('{"required": ["a"]}', encoding="utf-8")
    by_file = opened(text + 'schema = "s.json"\n').grid
    for grid in (by_parameter, by_file):
        assert grid.answers.read("{}").failures == ("schema",)
        assert grid.answers.read('{"a": 1}').failures == ()
    for content in ("no", '{"type": "objct"}'):
        (tmp_path / "s.json").write_text(content, encoding="utf-8")
        with pytest.raises(JobFileError) as caught:
            opened(text + 'schema = "s.json"\n')
        assert "answer.schema" in (caught.value.cause or "")
