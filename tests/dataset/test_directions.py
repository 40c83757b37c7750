"""What a sample asks and what it teaches: directions, items, conversations, thoughts, tool calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from asyncgen.dataset.samples import SampleMaker, training_line
from asyncgen.errors import JobFileError
from asyncgen.job.answers import checks_of

if TYPE_CHECKING:
    from asyncgen.run.records import Record

MakeRun = Callable[..., Any]

LABELS = """
name = "labels"
[grid]
label = ["refund", "delivery"]
[prompt]
user = "Write a message about {label}."
"""


def written(made: Any, completion: str, **changes: Any) -> list[Any]:
    record: Record = msgspec.structs.replace(made.record(made.request(0)), completion=completion, **changes)
    settings = made.opened.job.dataset
    return [
        json.loads(training_line(settings, each)[0])
        for each in SampleMaker(made.opened.job, made.opened.grid).of(record)
    ]


def contents(line: Any) -> list[str]:
    return [message["content"] for message in line["messages"]]


def test_a_classification_asks_for_the_text_and_teaches_the_label(make_run: MakeRun) -> None:
    made = make_run(job=LABELS + 'sample = "{answer}"\ntarget = "{label}"\n')
    assert [contents(line) for line in written(made, " Where is my money? ")] == [["Where is my money?", "refund"]]


def test_fields_of_the_answer_are_prompt_and_target_of_each_item(make_run: MakeRun) -> None:
    job = (
        LABELS + 'sample = "{answer.question}"\ntarget = "{answer.reply}"\n[answer]\nformat = "json"\neach = "pairs"\n'
    )
    made = make_run(job=job)
    pairs = [{"question": f"Why {number}?", "reply": f"Because {number}."} for number in range(3)]
    found = [contents(line) for line in written(made, json.dumps({"pairs": pairs}))]
    assert found == [[f"Why {number}?", f"Because {number}."] for number in range(3)]


def test_a_list_of_turns_is_the_conversation(make_run: MakeRun) -> None:
    job = LABELS + '[answer]\nformat = "json"\nmessages = "turns"\n[dataset]\nsystem = "You help with {label}."\n'
    made = make_run(job=job)
    turns = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello"), ("user", "?"))]
    turns.append({"role": "assistant", "content": "!"})
    (line,) = written(made, json.dumps({"turns": turns}))
    assert line["messages"] == [{"role": "system", "content": "You help with refund."}, *turns]


def test_the_system_message_may_hold_variables(make_run: MakeRun) -> None:
    made = make_run(job=LABELS + '[dataset]\nsystem = "You know {label}."\n')
    assert contents(written(made, "Text.")[0])[0] == "You know refund."


def test_a_system_message_with_an_unknown_variable_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(JobFileError, match="problem"):
        make_run(job=LABELS + '[dataset]\nsystem = "You know {lable}."\n')


THOUGHT = "<think>\nFirst this.\n</think>\n\nThe text."


@pytest.mark.parametrize(
    "completion",
    [
        THOUGHT,
        "<thinking>First this.</thinking>The text.",
        "<THINK>First this.</THINK>The text.",
        "First this.\n</think>\n\nThe text.",  # the template ended the prompt with <think>
        "[THINK]First this.[/THINK]The text.",
        "<seed:think>First this.</seed:think>The text.",
        "<thought>\nFirst this.\n</thought>\nThe text.",
        "◁think▷First this.◁/think▷The text.",
        "<|channel|>analysis<|message|>First this.<|end|><|start|>assistant<|channel|>final<|message|>The text.",
    ],
)
@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("drop", {"content": "The text."}),
        ("think", {"content": THOUGHT}),
        ("reasoning_content", {"content": "The text.", "reasoning_content": "First this."}),
        ("thinking", {"content": "The text.", "thinking": "First this."}),
    ],
)
def test_thoughts_go_where_the_job_says(
    make_run: MakeRun, reasoning: str, expected: dict[str, str], completion: str
) -> None:
    made = make_run(job=LABELS + f'[dataset]\nreasoning = "{reasoning}"\n')
    wanted = {"role": "assistant", **expected}
    assert written(made, completion)[0]["messages"][1] == wanted
    assert written(made, "The text.", reasoning="First this.")[0]["messages"][1] == wanted


def test_thoughts_without_an_end_leave_no_answer_to_learn(make_run: MakeRun) -> None:
    made = make_run(job=LABELS + '[dataset]\nreasoning = "drop"\n')
    assert written(made, "<think>I was cut") == []


@pytest.mark.parametrize("completion", [THOUGHT, "First this.\n</think>\n\nThe text."])
@pytest.mark.parametrize(("table", "failures"), [('[dataset]\nreasoning = "drop"\n', []), ("", ["max_words"])])
def test_the_checks_judge_what_is_learnt(make_run: MakeRun, completion: str, table: str, failures: list[str]) -> None:
    made = make_run(job=LABELS + "[checks]\nmax_words = 2\n" + table)
    checks = checks_of(made.opened.job, made.opened.grid.answers)
    assert checks.failures(completion, {}) == failures


def test_where_the_job_says_nothing_thoughts_of_their_own_are_left_out_and_the_text_stays(make_run: MakeRun) -> None:
    made = make_run(job=LABELS)
    assert contents(written(made, THOUGHT, reasoning="Else.")[0])[1] == THOUGHT


CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}


def test_tool_calls_go_out_with_the_tools_that_were_offered(make_run: MakeRun) -> None:
    tools = '[[generate.parameters.tools]]\ntype = "function"\n'
    tools += 'function = { name = "find", parameters = { type = "object" } }\n'
    made = make_run(job=LABELS + tools)
    (line,) = written(made, "", tool_calls=[CALL], finish_reason="tool_calls")
    assert line["messages"][1] == {"role": "assistant", "tool_calls": [CALL]}
    assert line["tools"] == made.opened.job.generate.parameters["tools"]
