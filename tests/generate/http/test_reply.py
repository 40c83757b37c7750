"""asyncgen.generate.http.reply and verdict: what a reply means. Run: pytest tests/generate/test_reply.py."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.backoff import BILLING_CODES
from asyncgen.generate.http.completer import NO_LIMITS, Answer, AttemptError, ErrorClass, RateLimits, StopReason
from asyncgen.generate.http.reply import read_limits, read_reply, read_usage
from asyncgen.providers.endpoint import Secret
from asyncgen.run.records import Record, Usage, decode_record, encode_line

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
    assert "max_tokens under [generate]" in (reply.remedy or "")


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
    ("inner", "kind", "name", "maybe_paid"),
    [
        ({"error": {"code": 429, "message": "slow"}}, ErrorClass.WAIT, "rate_limit", False),
        ({"error": {"code": "429", "message": "slow"}}, ErrorClass.WAIT, "rate_limit", False),
        ({"error": {"code": 429.0, "message": "slow"}}, ErrorClass.WAIT, "rate_limit", False),
        ({"error": {"code": 402, "message": "pay"}}, ErrorClass.STOP, "quota", False),
        ({"error": {"code": 529, "message": "busy"}}, ErrorClass.WAIT, "overloaded", False),
        ({"error": {"code": 502, "message": "upstream"}}, ErrorClass.RETRY, "server_error", True),
        ({"error": {"code": 504, "message": "upstream"}}, ErrorClass.RETRY, "server_error", True),
        ({"error": {"message": "something"}}, ErrorClass.RETRY, "server_error", True),
        ({"error": {"code": "insufficient_quota", "message": "pay"}}, ErrorClass.STOP, "quota", False),
        ({"error": "something"}, ErrorClass.RETRY, "server_error", True),
        ({"object": "error", "message": "bad", "code": 400}, ErrorClass.ROW, "bad_request", False),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no"}}, ErrorClass.STOP, "quota", False),
        ([{"error": {"code": 429, "message": "slow"}}], ErrorClass.WAIT, "rate_limit", False),
        (answer(error={"code": 502, "message": "upstream"}), ErrorClass.RETRY, "server_error", True),
        (answer(error={"code": 429, "message": "slow"}), ErrorClass.WAIT, "rate_limit", True),
    ],
)
def test_an_error_within_a_reply_of_status_200_counts_as_the_status_that_it_names(
    inner: Any, kind: ErrorClass, name: str, *, maybe_paid: bool
) -> None:
    reply = failed(inner)
    assert (reply.kind, reply.type, reply.maybe_paid) == (kind, name, maybe_paid)


def test_an_error_without_a_status_of_its_own_has_that_of_its_reply() -> None:
    assert failed({"error": "something"}).status == 200
    assert failed({"error": {"code": 429, "message": "slow"}}).status == 429


@pytest.mark.parametrize("empty", [{"code": 0, "message": ""}, {"code": None, "message": None}, [], "", 0])
def test_an_error_that_says_nothing_spoils_no_answer(empty: Any) -> None:
    assert isinstance(judge({**ANSWER, "error": empty}), Answer)


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


@pytest.mark.parametrize(
    ("reset", "limit"),
    [("2m59.56s", None), ("1h0m0s", None), ("86000", None), ("6s", 14400.0), ("12ms", 14400.0), ("?", 14400.0)],
)
def test_a_limit_of_the_day_is_not_taken_for_one_of_the_minute(reset: str, limit: float | None) -> None:
    headers = {"x-ratelimit-limit-requests": "14400", "x-ratelimit-reset-requests": reset}
    assert read_limits(headers).requests_per_minute == limit


@pytest.mark.parametrize(
    "value", [-1, 10**12, "-7", "many", "1e3", True, False, None, [], {}, float("nan"), float("inf"), "9" * 5000]
)
def test_token_counts_that_cannot_be_count_as_nothing(value: Any) -> None:
    assert read_usage({"prompt_tokens": value, "completion_tokens": 3, "prompt_tokens_details": value}) == Usage(
        0, 0, 3
    )


@pytest.mark.parametrize(("value", "count"), [(10.0, 10), ("10", 10), (" 10 ", 10), ("10.0", 10), (9.2, 10), (0.0, 0)])
def test_token_counts_of_another_type_count(value: Any, count: int) -> None:
    reply = judge({**ANSWER, "usage": {"prompt_tokens": value, "completion_tokens": 3}})
    assert isinstance(reply, Answer)
    assert reply.usage == Usage(count, 0, 3)
    assert type(reply.usage.prompt_tokens) is int


@pytest.mark.parametrize("usage", [b'{"prompt_tokens": 1e999}', b'{"prompt_tokens": 1e400}', b'{"prompt_tokens": %b}'])
def test_a_count_beyond_all_numbers_costs_no_answer(usage: bytes) -> None:
    usage = usage.replace(b"%b", b"9" * 5000)
    reply = judge(b'{"choices":[{"message":{"content":"Buy it."},"finish_reason":"stop"}],"usage":%b}' % usage)
    assert isinstance(reply, Answer)
    assert reply.usage == Usage()


@pytest.mark.parametrize("name", ["prompt_cache_hit_tokens", "cached_tokens"])
def test_cached_tokens_are_found_under_other_makers_names(name: str) -> None:
    reply = judge({**ANSWER, "usage": {"prompt_tokens": 60, "completion_tokens": 20, name: 40}})
    assert isinstance(reply, Answer)
    assert reply.usage == Usage(60, 40, 20)


@pytest.mark.parametrize(("cost", "read"), [(0.25, 0.25), ("0.25", 0.25), (0, 0.0)])
def test_what_the_server_says_that_it_charged_is_kept(cost: Any, read: float) -> None:
    reply = judge({**ANSWER, "usage": {"prompt_tokens": 6, "completion_tokens": 2, "cost": cost}})
    assert isinstance(reply, Answer)
    assert reply.usage == Usage(6, 0, 2, cost_usd=read)


@pytest.mark.parametrize("cost", [-1, True, "free", 10**9, None, {}])
def test_a_cost_that_cannot_be_is_no_cost(cost: Any) -> None:
    reply = judge({**ANSWER, "usage": {"prompt_tokens": 6, "completion_tokens": 2, "cost": cost}})
    assert isinstance(reply, Answer)
    assert reply.usage == Usage(6, 0, 2)


def stream(*events: str) -> bytes:
    return "".join(f"data: {event}\n\n" for event in events).encode()


CHUNKS = (
    '{"model":"m-1","choices":[{"delta":{"role":"assistant","content":"Buy "},"finish_reason":null}]}',
    '{"model":"m-1","choices":[{"delta":{"content":"it.","reasoning_content":"Hm."},"finish_reason":null}]}',
    '{"model":"m-1","choices":[{"delta":{},"finish_reason":"stop"}]}',
    '{"model":"m-1","choices":[],"usage":{"prompt_tokens":6,"completion_tokens":2}}',
)


@pytest.mark.parametrize("start", [b"", b": ping\n\n", b"event: message\n", b"\xef\xbb\xbf", b"\r\n"])
def test_an_event_stream_that_nobody_asked_for_is_joined(start: bytes) -> None:
    reply = judge(start + stream(*CHUNKS, "[DONE]"))
    assert reply == Answer("Buy it.", "stop", "m-1", Usage(6, 0, 2), reasoning="Hm.")


def test_tool_calls_of_an_event_stream_are_joined() -> None:
    pieces = [
        '[{"index":0,"id":"c1","type":"function","function":{"name":"look","arguments":""}}]',
        '[{"index":0,"function":{"arguments":"{\\"a\\":"}}]',
        '[{"index":0,"function":{"arguments":"1}"}},{"index":1,"id":"c2","function":{"name":"go","arguments":"{}"}}]',
    ]
    chunks = ['{"choices":[{"delta":{"tool_calls":' + piece + "}}]}" for piece in pieces]
    reply = judge(stream(*chunks, '{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}', "[DONE]"))
    assert isinstance(reply, Answer)
    assert reply.tool_calls == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "go", "arguments": "{}"}},
    ]


def test_a_stream_that_broke_off_is_no_answer() -> None:
    assert (failed(stream(*CHUNKS[:2])).kind, failed(stream(*CHUNKS[:2])).maybe_paid) == (ErrorClass.RETRY, True)


def test_an_error_in_a_stream_is_read() -> None:
    assert failed(stream('{"error":{"message":"slow","code":429}}')).kind is ErrorClass.WAIT


GOOD_BYTES = orjson.dumps(ANSWER)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbf" + GOOD_BYTES, "Buy it."),
        (GOOD_BYTES + b"\n\ndata: [DONE]\n\n", "Buy it."),
        (GOOD_BYTES.replace(b'"index":0', b'"logprobs":NaN,"x":-Infinity'), "Buy it."),
        (GOOD_BYTES.replace(b"it.", b"it\\ud83d"), "Buy it\ufffd"),
        (GOOD_BYTES.replace(b"it.", b"it \xf0\x9f"), "Buy it \ufffd"),
        (GOOD_BYTES.replace(b"it.", b"it\tnow"), "Buy it\tnow"),
        (b"[" + GOOD_BYTES + b"]", "Buy it."),
    ],
)
def test_a_slip_in_the_body_loses_no_answer_that_was_paid_for(content: bytes, text: str) -> None:
    reply = judge(content)
    assert isinstance(reply, Answer)
    assert reply.text == text


def test_a_body_in_another_encoding_is_read_as_its_header_says() -> None:
    content = GOOD_BYTES.replace(b"it.", "für".encode("latin-1"))
    reply = judge(content, content_type="application/json; charset=iso-8859-1")
    assert isinstance(reply, Answer)
    assert reply.text == "Buy für"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("eos", "stop"),
        ("MAX_TOKENS", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("tool_use", "tool_calls"),
        ("Something_New", "Something_New"),
    ],
)
def test_a_finish_reason_is_kept_by_the_name_that_the_api_has_for_it(given: str, kept: str) -> None:
    reply = judge(answer(finish_reason=given))
    assert isinstance(reply, Answer)
    assert reply.finish_reason == kept


@pytest.mark.parametrize(
    ("finish", "kind", "name"),
    [
        ("SAFETY", ErrorClass.ROW, "content_filter"),
        ("RECITATION", ErrorClass.ROW, "content_filter"),
        ("insufficient_system_resource", ErrorClass.RETRY, "server_error"),
        ("abort", ErrorClass.RETRY, "server_error"),
    ],
)
def test_an_answer_that_was_withheld_or_broken_off_is_none_by_any_name(
    finish: str, kind: ErrorClass, name: str
) -> None:
    assert (failed(answer(finish_reason=finish)).kind, failed(answer(finish_reason=finish)).type) == (kind, name)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Buy it.", "reasoning_content": "Hm."},
        {"content": "Buy it.", "reasoning": "Hm."},
        {"content": "Buy it.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"content": "Buy it.", "reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
        {"content": "Buy it.", "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Buy it."}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"text": "Buy it."}]},
    ],
)
def test_reasoning_is_kept_wherever_servers_put_it(message: dict[str, Any]) -> None:
    reply = judge(answer(message=message))
    assert isinstance(reply, Answer)
    assert (reply.text, reply.reasoning) == ("Buy it.", "Hm.")


CALLS = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]


@pytest.mark.parametrize("content", [None, "", "I look."])
def test_an_answer_that_calls_tools_is_an_answer(content: str | None) -> None:
    reply = judge(answer(message={"content": content, "tool_calls": CALLS}, finish_reason="tool_calls"))
    assert isinstance(reply, Answer)
    assert (reply.text, reply.tool_calls, reply.finish_reason) == (content or "", CALLS, "tool_calls")


def test_calls_of_tools_that_were_not_sent_are_no_answer_and_are_not_asked_for_again() -> None:
    body = orjson.dumps(answer(message={"content": None, "tool_calls": CALLS}, finish_reason="tool_calls"))
    reply = read_reply(200, {}, body, sends_tools=False)
    assert isinstance(reply, AttemptError)
    assert (reply.kind, reply.type) == (ErrorClass.ROW, "tool_calls")


def test_thoughts_without_an_answer_are_not_asked_for_again() -> None:
    reply = failed(answer(message={"content": "", "reasoning_content": "Hm."}))
    assert (reply.kind, reply.type) == (ErrorClass.ROW, "only_reasoning")
    assert reply.remedy


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"message": "gone"}}],
        {"errors": [{"message": "gone"}]},
        {"msg": "gone"},
        {"Message": "gone"},
        {"error_msg": "gone", "error_code": 17},
        {"error": "invalid_request", "error_description": "gone"},
        {"base_resp": {"status_code": 1000, "status_msg": "gone"}},
        {"error": {"message": '{"error": {"message": "gone"}}'}},
        {"detail": [{"loc": ["body", "temperature"], "msg": "gone", "type": "less_than"}]},
        {"error": {"error": {"error": {"message": "gone"}}}},
        {"fault": {"faultstring": "gone"}},
        "gone",
    ],
)
def test_the_servers_words_are_found_in_any_shape_of_body(body: Any) -> None:
    assert failed(body, 400).message == "gone"


def test_a_body_without_words_is_shown_as_it_came() -> None:
    assert failed({"ok": False, "why": 17}, 400).message == '{"ok":false,"why":17}'


def test_an_error_quoted_within_a_message_counts_as_the_status_that_it_names() -> None:
    reply = failed({"error": {"message": '{"error":{"message":"API key expired","code":401}}', "code": 400}}, 400)
    assert (reply.kind, reply.type, reply.message) == (ErrorClass.STOP, "auth", "API key expired")


def test_what_google_puts_into_details_counts() -> None:
    key = [
        {
            "error": {
                "code": 400,
                "message": "no",
                "status": "INVALID_ARGUMENT",
                "details": [{"reason": "API_KEY_INVALID"}],
            }
        }
    ]
    assert failed(key, 400).type == "auth"
    details: list[Any] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
    wait = [{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": details}}]
    assert (failed(wait, 429).kind, failed(wait, 429).retry_after_s) == (ErrorClass.WAIT, 34.5)
    details.append({"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]})
    day = [{"error": {"code": 429, "message": "no", "details": details}}]
    assert (failed(day, 429).kind, failed(day, 429).stop) == (ErrorClass.STOP, StopReason.QUOTA)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (429, {"type": "exceeded_current_quota_error"}),
        (429, {"code": "1113"}),
        (429, {"code": 1113}),
        (400, {"code": "Arrearage"}),
        (429, {"code": "insufficient_balance"}),
        (403, {"type": "insufficient_user_quota"}),
        (400, {"type": "billing_error"}),
    ],
)
def test_a_billing_refusal_in_other_makers_words_stops_the_run(status: int, fields: dict[str, Any]) -> None:
    reply = failed(error(**fields), status)
    assert (reply.kind, reply.stop, reply.message) == (ErrorClass.STOP, StopReason.QUOTA, "no")


def test_an_empty_account_without_a_code_of_its_own_is_known_by_its_first_words() -> None:
    words = "Your credit balance is too low to access the API."
    refused = failed({"error": {"type": "invalid_request_error", "message": words}}, 400)
    assert refused.stop is StopReason.QUOTA
    quoting = failed({"error": {"type": "invalid_request_error", "message": f"invalid prompt: {words}"}}, 400)
    assert quoting.kind is ErrorClass.ROW


CANARY = Secret("sk-canary-0123456789abcdef", "TEST")


@pytest.mark.parametrize("before", [0, 190, 195, 480, 490, 499])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_key_is_taken_out_before_a_text_is_cut(before: int, status: int) -> None:
    text = "x" * before + CANARY.reveal()
    bodies: list[Any] = [
        {"error": {"message": text, "code": text, "type": text, "param": text}},
        {"message": text},
        {"unknown": text},
        text,
        {**ANSWER, "model": text},
        answer(finish_reason=text),
        answer(message={"refusal": text}),
    ]
    for body in bodies:
        reply = read_reply(status, {"x-request-id": text}, orjson.dumps(body), secret=CANARY)
        assert "sk-canary" not in repr(reply)


NAMES = [
    *("choices", "message", "content", "error", "code", "usage", "x", "text", "finish_reason", "model", "tool_calls"),
    *("reasoning_details", "reasoning", "prompt_tokens", "cost", "errors", "detail", "details", "base_resp", "delta"),
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.sampled_from(["stop", "STOP", "tool_calls", "\ud800", "429", "insufficient_quota"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=12,
)
choices = st.fixed_dictionaries(
    {"message": st.dictionaries(st.sampled_from(NAMES), json_values) | json_values, "finish_reason": json_values}
)
bodies = json_values | st.fixed_dictionaries(
    {"choices": st.lists(choices, max_size=2), "usage": json_values, "model": json_values}
)


def check_outcome(reply: Answer | AttemptError) -> None:
    """It is one, and what it holds can be written to a line and read again."""
    grid = Record(
        key="0" * 32, index=0, repeat=0, variables={}, prompt="p", completion="c", model="m", finish_reason="",
        usage=Usage(), attempts=1, check_failures=[], latency_s=0.0, created=0,
    )  # fmt: skip
    if isinstance(reply, Answer):
        assert reply.text.strip() or reply.tool_calls
        record = msgspec.structs.replace(
            grid, completion=reply.text, model=reply.model, finish_reason=reply.finish_reason, usage=reply.usage,
            request_id=reply.request_id, reasoning=reply.reasoning, tool_calls=reply.tool_calls,
        )  # fmt: skip
        assert decode_record(encode_line(record)) == record
    else:
        orjson.dumps([reply.message, reply.code, reply.param, reply.request_id, reply.type])
        assert len(reply.message) <= 800


@given(bodies, st.sampled_from([200, 201, 302, 400, 404, 429, 500, 529]), st.text(max_size=9))
def test_whatever_json_comes_an_outcome_comes_of_it(body: Any, status: int, header: str) -> None:
    content = json.dumps(body).encode()
    headers = dict.fromkeys(("x-request-id", "retry-after", "x-ratelimit-limit-tokens", "content-type"), header)
    check_outcome(read_reply(status, headers, content))


@given(
    st.binary(max_size=60),
    st.integers(100, 700),
    st.sampled_from([b"", b"data: ", b"{", b'{"choices":[', b"\xef\xbb\xbf"]),
)
def test_whatever_bytes_come_an_outcome_comes_of_them(content: bytes, status: int, start: bytes) -> None:
    check_outcome(read_reply(status, {}, start + content))


@given(st.binary(min_size=1, max_size=4), st.integers(0, len(GOOD_BYTES)))
def test_whatever_breaks_a_good_answer_an_outcome_comes_of_it(noise: bytes, place: int) -> None:
    check_outcome(judge(GOOD_BYTES[:place] + noise + GOOD_BYTES[place + len(noise) :]))
    check_outcome(judge(GOOD_BYTES[:place]))


@pytest.mark.parametrize("depth", [20, 63, 200, 900, 100_000])
def test_calls_are_kept_only_as_deep_as_a_line_can_hold_them(depth: int) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    check_outcome(judge(b'{"choices":[{"message":{"content":"Buy it.","tool_calls":[%b]}}]}' % nested))
