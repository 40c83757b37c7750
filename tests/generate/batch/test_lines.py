"""The lines of a batch's files. Run: pytest tests/generate/batch/test_lines.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.batch.files import input_line, key_of_line, read_output_line
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.providers.endpoint import Secret
from asyncgen.run.records import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bytes(range(16))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(min_size=16, max_size=16), st.dictionaries(st.text(), json_values, max_size=4))
def test_an_input_line_holds_the_key_and_the_body_as_it_is(key: bytes, body: dict[str, Any]) -> None:
    raw = orjson.dumps(body)
    line = input_line(key, raw)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert raw in line
    read = orjson.loads(line)
    assert read == {
        "custom_id": key.hex(),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": orjson.loads(raw),
    }
    assert key_of_line(line) == key


def test_an_answer_is_read_as_online(lines: tuple[Callable[..., dict[str, Any]], ...]) -> None:
    answered, _, _ = lines
    outcome = read_output_line(orjson.dumps(answered(KEY.hex(), "Buy\u2028now.")))
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.model, outcome.request_id) == ("Buy\u2028now.", "m-1", "r")
    assert outcome.usage == Usage(prompt_tokens=10, completion_tokens=5)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "context_length_exceeded", ErrorClass.ROW),
        (429, "rate_limit_exceeded", ErrorClass.WAIT),
        (429, "insufficient_quota", ErrorClass.STOP),
        (500, None, ErrorClass.RETRY),
        (401, "invalid_api_key", ErrorClass.STOP),
    ],
)
def test_errors_are_classified_as_online(
    lines: tuple[Callable[..., dict[str, Any]], ...], status: int, code: str | None, kind: ErrorClass
) -> None:
    outcome = read_output_line(orjson.dumps(lines[1](KEY.hex(), status, code)))
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.code, outcome.maybe_paid) == (kind, code, False)


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled", "something_new"])
def test_a_request_that_was_never_made_may_go_again(
    lines: tuple[Callable[..., dict[str, Any]], ...], code: str
) -> None:
    outcome = read_output_line(orjson.dumps(lines[2](KEY.hex(), code)))
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.type, outcome.maybe_paid) == (ErrorClass.RETRY, code, False)


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": KEY.hex()},
        {"custom_id": KEY.hex(), "response": None, "error": None},
        {"custom_id": KEY.hex(), "response": {"status_code": 0}},
        {"custom_id": KEY.hex(), "response": {}, "error": {"code": 7}},
    ],
)
def test_a_line_without_an_outcome_is_a_request_that_was_never_made(line: dict[str, Any]) -> None:
    outcome = read_output_line(orjson.dumps(line))
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.maybe_paid) == (ErrorClass.RETRY, False)
    assert outcome.message


@pytest.mark.parametrize("fields", [{"result": {"type": "succeeded"}}, {"response": "busy"}, {"output": ["Buy now."]}])
def test_an_outcome_in_an_unknown_form_may_have_been_paid_for(fields: dict[str, Any]) -> None:
    outcome = read_output_line(orjson.dumps({"custom_id": KEY.hex()} | fields))
    assert isinstance(outcome, AttemptError)
    assert outcome.maybe_paid
    assert outcome.message


def test_a_response_without_an_answer_in_it_may_have_been_paid_for() -> None:
    line = {"custom_id": KEY.hex(), "response": {"status_code": 200, "body": {"choices": []}}}
    outcome = read_output_line(orjson.dumps(line))
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.maybe_paid) == (ErrorClass.RETRY, True)


@given(st.binary() | st.binary(max_size=4).map(lambda text: b'{"error":{"code":"a","message":"%b"}}' % text))
def test_no_bytes_break_the_reading(line: bytes) -> None:
    assert isinstance(read_output_line(line), AttemptError)
    key = key_of_line(line)
    assert key is None or isinstance(key, bytes)


@given(json_values)
def test_no_json_breaks_the_reading(value: Any) -> None:
    line = orjson.dumps({"custom_id": KEY.hex(), "response": {"status_code": 200, "body": value}, "error": value})
    assert isinstance(read_output_line(line), Answer | AttemptError)


@pytest.mark.parametrize("response", [{"status_code": "200"}, {"request_id": 17}, {"status_code": None}, {}])
def test_an_answer_counts_whatever_stands_beside_it(response: dict[str, object]) -> None:
    body = {"choices": [{"message": {"content": "Buy."}, "finish_reason": "stop"}], "model": "m"}
    line = {"custom_id": "00" * 16, "response": {"body": body, **response}, "error": None}
    outcome = read_output_line(msgspec.json.encode(line))
    assert isinstance(outcome, Answer)
    assert outcome.text == "Buy."


def line_of(**fields: Any) -> bytes:
    return orjson.dumps({"custom_id": KEY.hex()} | fields)


BODY = {"model": "m", "choices": [{"message": {"content": "Buy now."}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "line",
    [
        line_of(response={"body": BODY}),
        line_of(response={"status_code": 400, "body": BODY}),
        line_of(response={"status_code": 200, "body": json.dumps(BODY)}),
        line_of(response={"status_code": 200.0, "body": BODY}, error="none"),
        line_of(response={"status_code": 200, "body": BODY}, error=[]),
        line_of(response=BODY),
        line_of(response=json.dumps({"status_code": 200, "body": BODY})),
        line_of(response={"status": "200 OK", "body": BODY}),
        line_of(result={"type": "succeeded", "message": BODY}),
        line_of(**BODY),
        line_of(response=[{"status_code": 200, "body": BODY}]),
        b"\xef\xbb\xbf" + line_of(response={"status_code": 200, "body": BODY}),
        line_of(response={"status_code": 200, "body": BODY | {"logprobs": None}}).replace(b"null", b"NaN"),
    ],
)
def test_an_answer_is_found_in_other_forms_of_the_line(line: bytes) -> None:
    outcome = read_output_line(line)
    assert isinstance(outcome, Answer)
    assert outcome.text == "Buy now."
    assert key_of_line(line.removeprefix(b"\xef\xbb\xbf")) == KEY


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (
            line_of(response={"status_code": 400, "body": None}, error={"message": "too long", "code": 400}),
            ErrorClass.ROW,
            "too long",
        ),
        (line_of(response=None, error={"message": "too long", "code": 400}), ErrorClass.ROW, "too long"),
        (line_of(response=None, error="the worker died"), ErrorClass.RETRY, "the worker died"),
        (line_of(response=None, error=["the worker died"]), ErrorClass.RETRY, "the worker died"),
        (line_of(response={"status_code": 400, "body": "too long"}), ErrorClass.ROW, "too long"),
        (line_of(response={"status_code": 500, "body": {}}, error={"msg": "died"}), ErrorClass.RETRY, "died"),
    ],
)
def test_an_errors_words_are_found_wherever_they_stand(line: bytes, kind: ErrorClass, message: str) -> None:
    outcome = read_output_line(line)
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.message, outcome.maybe_paid) == (kind, message, False)


@pytest.mark.parametrize(
    "line",
    [
        line_of(response={"status_code": 200, "body": "<html>busy</html>"}),
        line_of(response={"status_code": 200, "body": BODY})[:-30],
        line_of(response={"status_code": 200, "body": BODY})[:-2] + b',"x":' + b"[" * 100_000,
        line_of(response={"status_code": 200, "body": BODY})[:-2] + b',"x":' + b"9" * 5_000 + b"e",
    ],
)
def test_a_line_that_cannot_be_read_is_its_own_rows_alone(line: bytes) -> None:
    assert key_of_line(line) == KEY
    outcome = read_output_line(line)
    assert isinstance(outcome, AttemptError)
    assert (outcome.kind, outcome.type, outcome.maybe_paid) == (ErrorClass.RETRY, "bad_json", True)


def test_the_key_is_taken_out_of_what_a_line_quotes() -> None:
    secret = Secret("sk-verysecret", "K")
    lines = (
        line_of(response={"status_code": 400, "body": {"error": {"message": "key sk-verysecret is bad"}}}),
        line_of(response=None, error={"message": "key sk-verysecret is bad", "code": "batch_expired"}),
    )
    for line in lines:
        outcome = read_output_line(line, secret=secret)
        assert isinstance(outcome, AttemptError)
        assert outcome.message == "key *** is bad"


def test_a_call_counts_where_the_job_sends_tools() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "model": "m",
        "choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}],
    }
    line = line_of(response={"status_code": 200, "body": body})
    assert isinstance(read_output_line(line, sends_tools=True), Answer)
    unasked = read_output_line(line, sends_tools=False)
    assert isinstance(unasked, AttemptError)
    assert unasked.type == "tool_calls"
