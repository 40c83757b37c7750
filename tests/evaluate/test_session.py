"""Whole evaluations, with functions in the place of models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from asyncgen.api.observer import LibraryObserver
from asyncgen.errors import DiskError, UsageError
from asyncgen.evaluate.asking import AskOptions, EngineOf, as_completion_request
from asyncgen.evaluate.contestants import ReadyContestant, parse_contestant
from asyncgen.evaluate.result import as_json
from asyncgen.evaluate.rows import parse_axes
from asyncgen.evaluate.session import Evaluated, WantedEvaluation, evaluate_run
from asyncgen.evaluate.small import small_comparison
from asyncgen.generate.engine import Engine
from asyncgen.generate.http.completer import AttemptError, ErrorClass
from asyncgen.generate.observer import Interrupt
from asyncgen.generate.session import OnlineEngine
from asyncgen.providers.profiles import PROFILES
from asyncgen.run.directory import RunDirectory
from asyncgen.run.jsonl import read_rows
from asyncgen.run.records import decode_record

Reply = Callable[[str, Mapping[str, Any]], str]
MakeRun = Callable[..., RunDirectory]
Answering = Callable[[Mapping[str, Reply]], EngineOf]
JOB = """
name = "campaign"
[grid]
city = ["Paris", "Berlin", "Rome", "Oslo"]
sector = ["Bakery", "Florist", "Garage", "Cinema"]
size = ["small", "large"]
[prompt]
user = "Write an advert for {size} {sector} in {city}."
sample = "{size} {sector} in {city}"
[generate]
provider = "local"
model = "base-model"
[checks]
must_contain = ["{city}"]
[dataset]
validation = 0.25
"""
AXES = {"city": ["Madrid", "Vienna", "Lyon"], "sector": ["Hotel", "Bookshop"]}


WHERE = "http://127.0.0.1:9/v1"  # nobody listens there: functions answer


def run(directory: RunDirectory, observer: Any, engine: EngineOf, **wanted: Any) -> Evaluated:
    settings = WantedEvaluation(base_url=WHERE, **wanted)
    return asyncio.run(evaluate_run(directory, settings, observer(), engine=engine))


def echo(prompt: str, _: Mapping[str, Any]) -> str:
    return f"Buy at {prompt}"


def silent(_prompt: str, _request: Mapping[str, Any]) -> str:
    return "Buy something"


ALL: dict[str, Reply] = {"zero-shot": silent, "few-shot": echo, "prompt": echo, "tuned": echo}


def test_the_defaults_are_base_bare_and_with_examples_the_writer_and_the_tuned_model(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    asked: dict[str, list[Mapping[str, Any]]] = {}

    def keeping(name: str, reply: Reply) -> Reply:
        def answer(prompt: str, request: Mapping[str, Any]) -> str:
            asked.setdefault(name, []).append(request)
            return reply(prompt, request)

        return answer

    directory = make_run(JOB)
    done = run(directory, observer, answering({name: keeping(name, reply) for name, reply in ALL.items()}), axes=AXES)
    assert done.exit_code == 0
    assert done.evaluation is not None
    found = as_json(done.evaluation)
    assert [(each["name"], each["technique"], each["model"]) for each in found["contestants"]] == [
        ("zero-shot", "zero-shot", "base-model"), ("few-shot", "few-shot", "base-model"),
        ("prompt", "prompt", "base-model"), ("tuned", "tuned", "ft:base-model:mine"),
    ]  # fmt: skip
    assert [each["n"] for each in found["contestants"]] == [12] * 4
    assert [each["passed"] for each in found["contestants"]] == [0, 12, 12, 12]
    assert {len(request["messages"]) for request in asked["zero-shot"]} == {1}
    assert {len(request["messages"]) for request in asked["few-shot"]} == {9}
    assert asked["prompt"][0]["messages"][-1]["content"].startswith("Write an advert for ")
    assert asked["tuned"][0]["model"] == "ft:base-model:mine"
    assert all(
        "Madrid" in m or "Vienna" in m or "Lyon" in m for m in (r["messages"][-1]["content"] for r in asked["tuned"])
    )


def test_a_signal_during_the_last_rows_of_a_contestant_leaves_the_next_one_unasked(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    interrupt, asked = Interrupt(), []

    def last(prompt: str, request: Mapping[str, Any]) -> str:
        asked.append(prompt)
        if len(asked) == 12:
            interrupt.exit_code = 130
            interrupt.stop.set()
        return echo(prompt, request)

    class Signalled(LibraryObserver):
        """Like the command line, listens anew for each contestant."""

        @asynccontextmanager
        async def interruptible(self, on_first: Callable[[], None]) -> AsyncIterator[Interrupt]:
            yield Interrupt() if asked else interrupt

    done = run(directory, lambda: Signalled(yes=True), answering(dict.fromkeys(ALL, last)), axes=AXES)
    assert (done.exit_code, done.evaluation, len(asked)) == (130, None, 12)
    again = run(directory, observer, answering(dict.fromkeys(ALL, last)), axes=AXES)
    assert (again.exit_code, len(asked)) == (0, 48)


def test_a_folder_that_cannot_be_created_is_an_error_of_the_disk(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    (directory.path / "evaluations").write_text("in the way", encoding="utf-8")
    with pytest.raises(DiskError, match="evaluations"):
        run(directory, observer, answering(ALL), axes=AXES)


def test_the_same_evaluation_again_asks_nobody(make_run: MakeRun, answering: Answering, observer: Any) -> None:
    directory = make_run(JOB)
    first = run(directory, observer, answering(ALL), axes=AXES)

    def never(prompt: str, _: Mapping[str, Any]) -> str:
        raise AssertionError(f"asked again: {prompt}")

    again = run(directory, observer, answering(dict.fromkeys(ALL, never)), axes=AXES)
    assert first.evaluation is not None
    assert again.evaluation is not None
    assert as_json(again.evaluation) == as_json(first.evaluation)


def test_more_rows_ask_for_the_new_ones_alone(make_run: MakeRun, answering: Answering, observer: Any) -> None:
    directory = make_run(JOB)
    counts = {"asked": 0}

    def counting(prompt: str, _: Mapping[str, Any]) -> str:
        counts["asked"] += 1
        return prompt

    engine = answering({"one": counting})
    run(directory, observer, engine, axes=AXES, rows=5, contestants=["one=zero-shot:local/base-model"], name="growing")
    assert counts["asked"] == 5
    run(directory, observer, engine, axes=AXES, rows=8, contestants=["one=zero-shot:local/base-model"], name="growing")
    assert counts["asked"] == 8


def test_rows_of_the_validation_side_were_not_trained_on(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    done = run(directory, observer, answering(ALL))
    assert done.evaluation is not None
    trained = directory.train.read_text(encoding="utf-8")
    assert 4 <= len(done.evaluation.prompts) <= 12
    assert not [prompt for prompt in done.evaluation.prompts.values() if f'"{prompt}"' in trained]


def test_a_margin_cannot_be_changed_once_answers_are_there(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    run(directory, observer, answering(ALL), axes=AXES, margin_points=10)
    kept = run(directory, observer, answering(ALL), axes=AXES)
    assert kept.evaluation is not None
    assert kept.evaluation.margin == pytest.approx(0.10)
    with pytest.raises(UsageError) as error:
        run(directory, observer, answering(ALL), axes=AXES, margin_points=20)
    assert error.value.code == "margin_fixed"


def test_the_margin_is_written_down_before_anybody_is_asked(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)

    def look(prompt: str, _: Mapping[str, Any]) -> str:
        settings = json.loads((directory.path / "evaluations" / "seen" / "evaluation.json").read_text())
        assert settings["margin"] == pytest.approx(0.03)
        return prompt

    done = run(directory, observer, answering(dict.fromkeys(ALL, look)), axes=AXES, margin_points=3, name="seen")
    assert done.evaluation is not None
    assert [each.failed for each in done.evaluation.contestants] == [0, 0, 0, 0]


def test_a_run_without_held_out_rows_says_how_to_have_some(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB.replace("validation = 0.25", ""))
    with pytest.raises(UsageError) as error:
        run(directory, observer, answering(ALL))
    assert error.value.code == "nothing_held_out"
    assert "--axis" in str(error.value.help_text)
    assert run(directory, observer, answering(ALL), axes=AXES).exit_code == 0


@pytest.mark.parametrize(
    ("axes", "word"),
    [({"town": ["Madrid"]}, "no axis 'town'"), ({"city": ["Paris"]}, "already in the grid")],
)
def test_axes_that_cannot_be_are_refused(
    make_run: MakeRun, answering: Answering, observer: Any, axes: dict[str, list[str]], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        run(make_run(JOB), observer, answering(ALL), axes=axes)


def test_a_budget_that_is_used_up_stops_before_the_next_contestant(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    """Local answers are free, so only a budget of almost nothing would stop them: it does not."""
    done = run(make_run(JOB), observer, answering(ALL), axes=AXES, options=AskOptions(max_cost=0.01))
    assert done.exit_code == 0


def test_a_classifier_is_judged_by_its_label(make_run: MakeRun, answering: Answering, observer: Any) -> None:
    job = """
name = "labels"
[grid]
label = ["refund", "delivery"]
tone = ["angry", "polite", "confused", "curt", "warm"]
[prompt]
user = "Write a message with the label {label}, {tone}."
sample = "Which label?\\n\\n{answer}"
target = "{label}"
[generate]
provider = "local"
model = "base-model"
repeats = 3
[dataset]
validation = 0.4
"""
    number = count()
    directory = make_run(job, write=lambda asked, _: f"Dear shop {next(number)}, {asked}")

    def right(prompt: str, _: Mapping[str, Any]) -> str:
        return " Refund. " if "refund" in prompt else "DELIVERY"

    done = run(
        directory, observer, answering({"zero-shot": silent, "few-shot": right, "tuned": right}),
    )  # fmt: skip
    assert done.evaluation is not None
    shares = {each.contestant.name: each.pass_rate.value for each in done.evaluation.contestants}
    assert shares == {"zero-shot": 0.0, "few-shot": 1.0, "tuned": 1.0}
    with pytest.raises(UsageError, match="another task"):
        run(directory, observer, answering({}), contestants=["long=prompt:local/base-model"], name="long")


def test_a_tuned_model_of_the_completion_format_is_asked_with_separator_and_stop(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    seen: list[Mapping[str, Any]] = []

    def keep(prompt: str, request: Mapping[str, Any]) -> str:
        seen.append(request)
        return prompt

    directory = make_run(JOB.replace("[dataset]", '[dataset]\nformat = "completion"'))
    run(directory, observer, answering({"t": keep}), axes=AXES, contestants=["t=tuned:local/ft:base-model:mine"])
    body = as_completion_request(dict(seen[0]))
    assert body["prompt"].endswith(" -->")
    assert body["stop"] == ["\n"]
    assert body["max_tokens"] > 16
    assert "messages" not in body


def test_hostile_answers_and_prompts_stay_data(make_run: MakeRun, answering: Answering, observer: Any) -> None:
    hostile = "</script><script>alert(1)</script> {city} {{ \x1b[31m \u202e \u2028 " + '"""\'\\'
    replies: dict[str, Reply] = dict.fromkeys(ALL, lambda _p, _r: hostile)
    done = run(make_run(JOB), observer, answering(replies), axes={"city": ['Ma"d{rid', "L'Aquila\\n"]})
    assert done.evaluation is not None
    kept = [record for _, record in read_rows(done.evaluation.path / "tuned" / "records.jsonl", decode_record)]
    assert {record.completion for record in kept} == {hostile}


def test_the_small_comparison_shows_base_and_tuned_side_by_side(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    engine = answering({"base": silent, "tuned": echo})
    found = asyncio.run(small_comparison(directory, observer(), engine=engine, base_url=WHERE))
    assert found is not None
    assert found.base is not None
    assert (found.base.passed, found.tuned.passed) == (0, len(found.rows))
    assert {row.base for row in found.rows} == {"Buy something"}
    assert all(row.tuned == f"Buy at {row.prompt}" and row.tuned_passed for row in found.rows)


def test_the_small_comparison_of_the_built_in_job_leaves_its_grid(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB)
    engine = answering({"base": silent, "tuned": echo})
    found = asyncio.run(small_comparison(directory, observer(), engine=engine, base_url=WHERE))
    assert found is not None
    assert "outside the grid" in found.source
    assert len(found.rows) == 6


def test_the_small_comparison_shows_the_tuned_model_alone_where_no_base_model_is_served(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    class Absent:
        async def complete(self, _body: bytes) -> AttemptError:
            return AttemptError(kind=ErrorClass.STOP, type="invalid_request_error", status=404, message="no such model")

    answered = answering({"tuned": echo})

    def engine(entry: ReadyContestant) -> Engine:
        return OnlineEngine(Absent()) if entry.contestant.name == "base" else answered(entry)

    found = asyncio.run(small_comparison(make_run(JOB), observer(), engine=engine, base_url=WHERE))
    assert found is not None
    assert found.base is None
    assert {row.base for row in found.rows} == {""}
    assert all(row.tuned_passed for row in found.rows)


def test_the_small_comparison_asks_what_was_trained_on_where_nothing_was_held_out(
    make_run: MakeRun, answering: Answering, observer: Any
) -> None:
    directory = make_run(JOB.replace("sector", "shop").replace("validation = 0.25\n", ""))
    assert not directory.validation.exists()
    engine = answering({"base": silent, "tuned": echo})
    found = asyncio.run(small_comparison(directory, observer(), engine=engine, base_url=WHERE))
    assert found is not None
    assert "trained on" in found.source
    assert found.rows


def test_the_small_comparison_needs_a_tuned_model(make_run: MakeRun, answering: Answering, observer: Any) -> None:
    with pytest.raises(UsageError, match="no tuned model"):
        asyncio.run(small_comparison(make_run(JOB, tuned=False), observer(), engine=answering({})))


@pytest.mark.parametrize("text", ["a", "a=b", "a=prompt:", "a=clever:local/x", "a b=prompt:local", "a=tuned:local"])
def test_a_contestant_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_contestant(text, PROFILES)


def test_a_contestants_model_may_hold_slashes_and_colons() -> None:
    found = parse_contestant("a=tuned:together/meta-llama/Llama:ft:x", PROFILES)
    assert (found.provider, found.model) == ("together", "meta-llama/Llama:ft:x")


@pytest.mark.parametrize(
    "wanted", [{"name": "../outside"}, {"judge": "nobody/x"}, {"contestants": ["a=prompt:local", "a=prompt:local"]}]
)
def test_what_cannot_be_is_refused_before_anybody_is_asked(
    make_run: MakeRun, answering: Answering, observer: Any, wanted: dict[str, Any]
) -> None:
    directory = make_run(JOB)
    with pytest.raises(UsageError) as error:
        run(directory, observer, answering({}), axes=AXES, **wanted)
    assert error.value.help_text
    assert not (directory.path / "evaluations").exists()


def test_axes_are_read_from_the_command_line() -> None:
    assert parse_axes(["sector=Hotel, Bakery", "sector=Inn", "city=Rome"]) == {
        "sector": ["Hotel", "Bakery", "Inn"], "city": ["Rome"],
    }  # fmt: skip
    with pytest.raises(UsageError):
        parse_axes(["sector"])


def test_what_is_written_for_pages_has_every_answer(
    make_run: MakeRun, answering: Answering, observer: Any, tmp_path: Path
) -> None:
    done = run(make_run(JOB), observer, answering(ALL), axes=AXES)
    assert done.evaluation is not None
    lines = (done.evaluation.path / "tuned.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12
    assert set(json.loads(lines[0])) == {
        "key", "prompt", "completion", "variables", "model", "passed", "check_failures",
    }  # fmt: skip
