"""asyncgen.generate.reply and verdict: what a reply means. Run: pytest tests/generate/test_reply.py."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.backoff import BILLING_CODES
from asyncgen.generate.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits, StopReason
from asyncgen.generate.ratelimit_headers import read_limits
from asyncgen.generate.reply import read_reply, read_usage
from asyncgen.records import Usage

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "gpt-6-luna-2026-09-22",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Buy it."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 60,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}


def answer(**choice: Any) -> dict[str, Any]:
    """ANSWER with other fields in its choice."""
    changed = copy.deepcopy(ANSWER)
    changed["choices"][0].update(choice)
    return changed


def judge(body: Any, status: int = 200, **headers: str) -> Answer | AttemptError:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return read_reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def failed(body: Any, status: int = 200, **headers: str) -> AttemptError:
    reply = judge(body, status, **headers)
    assert isinstance(reply, AttemptError)
    return reply


def error(**fields: Any) -> dict[str, Any]:
    return {"error": {"message": "no", **fields}}


def test_an_answer_is_read_with_its_counts() -> None:
    assert judge(ANSWER, x_request_id="req_1") == Answer(
        "Buy it.", "stop", "gpt-6-luna-2026-09-22", Usage(60, 10, 20, 5), "req_1", 0.0, NO_LIMITS
    )


def test_an_answer_cut_off_by_the_token_limit_is_kept_and_says_so() -> None:
    reply = judge(answer(finish_reason="length"))
    assert isinstance(reply, Answer)
    assert reply.finish_reason == "length"


@pytest.mark.parametrize(
    "extra", [{"error": None}, {"error": {}}, {"usage": None}, {"usage": [7]}, {"usage": "?"}, {"model": None}]
)
def test_fields_that_say_nothing_spoil_no_answer(extra: dict[str, Any]) -> None:
    assert isinstance(judge({**ANSWER, **extra}), Answer)


@pytest.mark.parametrize("finish", [[], {}, 7, None])
def test_an_odd_finish_reason_counts_as_none(finish: Any) -> None:
    reply = judge(answer(finish_reason=finish))
    assert isinstance(reply, Answer)
    assert reply.finish_reason == ""


def test_one_odd_token_count_does_not_spoil_the_others() -> None:
    reply = judge({**ANSWER, "usage": {"prompt_tokens": -5, "completion_tokens": 7, "prompt_tokens_details": []}})
    assert isinstance(reply, Answer)
    assert reply.usage == Usage(completion_tokens=7)


@pytest.mark.parametrize("depth", [500, 990, 1020, 3000, 100_000])
@pytest.mark.parametrize("place", ["usage", "content", "error", "x"])
def test_no_depth_of_nesting_is_a_crash(depth: int, place: str) -> None:
    nested = b"[" * depth + b"]" * depth
    fields = b'"finish_reason":"stop","message":{"content":%b}' % (nested if place == "content" else b'"Buy it."')
    rest = b"" if place == "content" else b',"%b":%b' % (place.encode(), nested)
    usage = b',"usage":{"prompt_tokens":-1,"y":%b}' % nested if place == "x" else b""
    assert isinstance(judge(b'{"choices":[{%b}]%b%b}' % (fields, rest, usage)), Answer | AttemptError)


def test_an_answer_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Buy "}, {"type": "thinking"}, {"type": "text", "text": "it."}]
    reply = judge(answer(message={"content": parts}))
    assert isinstance(reply, Answer)
    assert reply.text == "Buy it."


@pytest.mark.parametrize(
    ("choice", "kind", "name"),
    [
        ({"message": {"content": None, "refusal": "I cannot."}}, ErrorClass.ROW, "refusal"),
        ({"message": {"content": "I cannot."}, "finish_reason": "refusal"}, ErrorClass.ROW, "refusal"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, ErrorClass.ROW, "content_filter"),
        ({"message": {"content": "Half"}, "finish_reason": "content_filter"}, ErrorClass.ROW, "content_filter"),
        ({"message": {"content": ""}, "finish_reason": "length"}, ErrorClass.ROW, "empty"),
        ({"message": {"content": None}}, ErrorClass.RETRY, "empty"),
        ({"message": {"content": " \n"}}, ErrorClass.RETRY, "empty"),
        ({"message": {"content": 7}}, ErrorClass.RETRY, "empty"),
        ({"message": {"content": "Half"}, "finish_reason": "error"}, ErrorClass.RETRY, "server_error"),
    ],
)
def test_what_is_no_answer_is_a_failure_that_was_paid_for(choice: dict[str, Any], kind: ErrorClass, name: str) -> None:
    reply = failed(answer(**choice))
    assert (reply.kind, reply.type, reply.maybe_paid) == (kind, name, True)
    assert reply.usage == Usage(60, 10, 20, 5)


def test_an_empty_answer_whose_tokens_were_used_up_tells_what_to_raise() -> None:
    reply = failed(answer(message={"content": ""}, finish_reason="length"))
    assert "max_completion_tokens" in (reply.remedy or "")


@pytest.mark.parametrize(
    ("status", "kind", "name", "stop"),
    [
        (301, ErrorClass.STOP, "redirect", None),
        (307, ErrorClass.STOP, "redirect", None),
        (400, ErrorClass.ROW, "bad_request", None),
        (401, ErrorClass.STOP, "auth", StopReason.AUTH),
        (402, ErrorClass.STOP, "quota", StopReason.QUOTA),
        (403, ErrorClass.STOP, "permission", StopReason.AUTH),
        (404, ErrorClass.STOP, "not_found", StopReason.AUTH),
        (408, ErrorClass.RETRY, "timeout", None),
        (409, ErrorClass.RETRY, "conflict", None),
        (413, ErrorClass.ROW, "too_large", None),
        (418, ErrorClass.ROW, "http_error", None),
        (422, ErrorClass.ROW, "http_error", None),
        (429, ErrorClass.WAIT, "rate_limit", None),
        (500, ErrorClass.RETRY, "server_error", None),
        (502, ErrorClass.RETRY, "server_error", None),
        (503, ErrorClass.RETRY, "server_error", None),
        (504, ErrorClass.RETRY, "server_error", None),
        (522, ErrorClass.RETRY, "server_error", None),
        (529, ErrorClass.WAIT, "overloaded", None),
        (600, ErrorClass.ROW, "http_error", None),
    ],
)
def test_a_status_decides_where_no_code_does(status: int, kind: ErrorClass, name: str, stop: StopReason | None) -> None:
    reply = failed(error(), status)
    assert (reply.kind, reply.type, reply.stop, reply.status) == (kind, name, stop, status)


@pytest.mark.parametrize("code", sorted(BILLING_CODES))
def test_a_billing_code_stops_the_run_though_its_status_is_that_of_a_rate_limit(code: str) -> None:
    reply = failed(error(code=code, type="insufficient_quota"), 429)
    assert (reply.kind, reply.stop) == (ErrorClass.STOP, StopReason.QUOTA)


@pytest.mark.parametrize(
    ("status", "fields", "kind", "name"),
    [
        (429, {"code": None, "type": "insufficient_quota"}, ErrorClass.STOP, "quota"),
        (400, {"code": "context_length_exceeded"}, ErrorClass.ROW, "context_length_exceeded"),
        (400, {"code": "content_filter"}, ErrorClass.ROW, "content_filter"),
        (400, {"code": "unsupported_parameter", "param": "temperature"}, ErrorClass.STOP, "parameter"),
        (400, {"code": "unsupported_value", "param": "temperature"}, ErrorClass.STOP, "parameter"),
        (400, {"code": "model_not_found"}, ErrorClass.STOP, "not_found"),
        (400, {"code": "invalid_api_key"}, ErrorClass.STOP, "auth"),
        (503, {"code": "slow_down", "type": "rate_limit_error"}, ErrorClass.WAIT, "rate_limit"),
        (503, {"code": "server_is_overloaded"}, ErrorClass.WAIT, "overloaded"),
        (403, {"metadata": {"reasons": ["violence"]}, "code": 403}, ErrorClass.ROW, "moderation"),
    ],
)
def test_a_code_goes_before_the_status(status: int, fields: dict[str, Any], kind: ErrorClass, name: str) -> None:
    reply = failed(error(**fields), status)
    assert (reply.kind, reply.type) == (kind, name)


def test_the_text_of_a_message_decides_nothing() -> None:
    texts = ("insufficient_quota", "Rate limit reached, invalid_api_key, model_not_found")
    assert [failed({"error": {"message": text}}, 400).type for text in texts] == ["bad_request"] * 2


@pytest.mark.parametrize("status", [408, 504, 524])
def test_a_gateway_that_gave_up_waiting_may_have_been_paid(status: int) -> None:
    assert failed(error(), status).maybe_paid
    assert not failed(error(), 500).maybe_paid


@pytest.mark.parametrize(
    ("inner", "kind", "name"),
    [
        ({"error": {"code": 429, "message": "slow"}}, ErrorClass.WAIT, "rate_limit"),
        ({"error": {"code": "429", "message": "slow"}}, ErrorClass.WAIT, "rate_limit"),
        ({"error": {"code": 502, "message": "upstream"}}, ErrorClass.RETRY, "server_error"),
        ({"error": {"message": "something"}}, ErrorClass.RETRY, "server_error"),
        ({"error": {"code": "insufficient_quota", "message": "pay"}}, ErrorClass.STOP, "quota"),
        ({"error": "something"}, ErrorClass.RETRY, "server_error"),
        ({"object": "error", "message": "bad", "code": 400}, ErrorClass.ROW, "bad_request"),
        (answer(error={"code": 502, "message": "upstream"}), ErrorClass.RETRY, "server_error"),
    ],
)
def test_an_error_within_a_reply_of_status_200_counts_as_what_it_says(
    inner: dict[str, Any], kind: ErrorClass, name: str
) -> None:
    reply = failed(inner)
    assert (reply.kind, reply.type, reply.maybe_paid) == (kind, name, True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": {"message": {}}}',
        b'{"choices": null}',
        b'{"object": "list"}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"choices": NaN}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_reply_that_is_no_answer_is_tried_again_and_may_have_been_paid(content: bytes) -> None:
    reply = failed(content)
    assert (reply.kind, reply.type, reply.maybe_paid) == (ErrorClass.RETRY, "bad_json", True)
    assert len(reply.message) <= 500


def test_a_web_page_in_place_of_an_answer_says_that_the_address_is_wrong() -> None:
    page = b"<!doctype html><h1>Welcome</h1>"
    for reply in (failed(page), failed(b"Welcome", content_type="text/html; charset=utf-8")):
        assert (reply.kind, reply.type) == (ErrorClass.STOP, "not_an_api")
        assert "/v1" in (reply.remedy or "")


def test_a_web_page_with_an_error_status_counts_as_that_status() -> None:
    reply = failed(b"<html>502 Bad Gateway</html>", 502, content_type="text/html")
    assert (reply.kind, reply.type, reply.message) == (ErrorClass.RETRY, "server_error", "a web page")


@pytest.mark.parametrize("body", [{"error": "gone"}, {"detail": "gone"}, {"message": "gone"}, b"gone"])
def test_the_message_is_found_wherever_servers_put_it(body: Any) -> None:
    assert failed(body, 400).message == "gone"


def test_a_message_is_made_safe_and_short() -> None:
    reply = failed(error(message="\x1b[2Jred\n" + "x" * 9999), 400)
    assert "\x1b" not in reply.message
    assert len(reply.message) == 500


def test_a_server_that_says_so_is_not_asked_again() -> None:
    assert failed(error(), 500, x_should_retry="false").kind is ErrorClass.ROW


def test_what_the_server_asks_to_wait_is_read() -> None:
    assert failed(error(), 429, retry_after="1.5").retry_after_s == 1.5
    assert failed(error(), 429, retry_after_ms="250", retry_after="9").retry_after_s == 0.25
    assert failed(error(), 429).retry_after_s is None


def test_errors_carry_limits_and_the_request_id_too() -> None:
    reply = failed(error(), 429, x_ratelimit_limit_requests="500", x_request_id="req_9")
    assert (reply.limits, reply.request_id) == (RateLimits(500.0, None), "req_9")


@pytest.mark.parametrize(
    ("requests", "tokens", "project", "limits"),
    [
        ("500", "200000", None, RateLimits(500.0, 200_000.0)),
        ("500", None, None, RateLimits(500.0, None)),
        (None, "200000", "50000", RateLimits(None, 50_000.0)),
        ("-1", "0", None, RateLimits(None, None)),
        ("nan", "inf", None, RateLimits(None, None)),
        ("many", "", None, RateLimits(None, None)),
        (None, None, None, NO_LIMITS),
    ],
)
def test_limits_are_read_where_the_server_tells_them(
    requests: str | None, tokens: str | None, project: str | None, limits: RateLimits
) -> None:
    headers = {
        "x-ratelimit-limit-requests": requests,
        "x-ratelimit-limit-tokens": tokens,
        "x-ratelimit-limit-project-tokens": project,
    }
    assert read_limits({name: value for name, value in headers.items() if value is not None}) == limits


@pytest.mark.parametrize("value", [-1, 10**12, 1.5, "7", None, [], {}])
def test_token_counts_that_cannot_be_count_as_nothing(value: Any) -> None:
    assert read_usage({"prompt_tokens": value, "completion_tokens": 3, "prompt_tokens_details": value}) == Usage(
        0, 0, 3
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "error", "code", "usage", "x"]), inner)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from([200, 201, 302, 400, 404, 429, 500, 529]))
def test_no_json_whatever_is_a_crash(body: Any, status: int) -> None:
    assert isinstance(judge(orjson.dumps(body), status), Answer | AttemptError)


@given(st.binary(max_size=60), st.integers(100, 700))
def test_no_bytes_whatever_are_a_crash(content: bytes, status: int) -> None:
    assert isinstance(read_reply(status, {}, content), Answer | AttemptError)
