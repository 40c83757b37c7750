"""Read a server's reply as an answer or an error: the one place where replies are judged.

Covers what makes an answer, its token counts, the rate limits in `x-ratelimit-*` headers, and the class of an error
(retry, wait, row, stop), from two tables. An error's code decides before its HTTP status. Its message does not decide,
as messages change, and may quote the prompt; `reply_body` names the one exception. Absent, zero and negative limits
mean that the server tells none. The remaining counts are not used, because they are shared by all clients of an
account; the reset only serves to tell a daily limit from one per minute.

Pure: status, headers and bytes in, an outcome out, whatever the bytes are. Connections and retries are left to others.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from multidict import istr

from asyncgen.backoff import server_wait_s
from asyncgen.generate.http.completer import (
    NO_LIMITS,
    RAISE_LIMIT,
    Answer,
    AttemptError,
    ErrorClass,
    RateLimits,
    StopReason,
)
from asyncgen.providers.endpoint import Secret, redacted
from asyncgen.providers.reply_body import (
    ReportedError,
    UnreadableBodyError,
    is_error,
    read_body,
    read_reported_error,
    without_surrogates,
)
from asyncgen.run.records import NO_USAGE, SIMULATED_FINGERPRINT, Usage, finish_reason_of
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

# Looked up for every answer: `istr` takes half the time of a plain string.
_REQUESTS = istr("x-ratelimit-limit-requests")
_TOKENS = istr("x-ratelimit-limit-tokens")
# Some accounts have a limit per project, or by usage, besides the account's or instead of it; the smallest one counts.
_PROJECT_TOKENS = istr("x-ratelimit-limit-project-tokens")
_TOKENS_BY_USAGE = istr("x-ratelimit-limit-tokens_usage_based")
# Groq's limit of requests is daily. A limit whose reset takes longer than a minute is not one per minute, and says
# nothing about how many requests may be sent at once.
_RESET_REQUESTS = istr("x-ratelimit-reset-requests")
_MINUTE_S = 61.0  # one second more, for clocks that differ
_DURATION = re.compile(r"(\d{1,9}(\.\d{1,9})?(ms|[dhms]))+")
_PART = re.compile(r"(?P<count>\d+(\.\d+)?)(?P<unit>ms|[dhms])")


def read_limits(headers: Mapping[str, str]) -> RateLimits:
    """Rate limits per minute from the headers.

    Args:
        headers: with lower-case names, or a case-insensitive mapping.
    """
    requests, tokens = headers.get(_REQUESTS), headers.get(_TOKENS)
    if requests is tokens is None and _PROJECT_TOKENS not in headers and _TOKENS_BY_USAGE not in headers:
        return NO_LIMITS  # as of most servers
    limits = map(_positive, (tokens, headers.get(_PROJECT_TOKENS), headers.get(_TOKENS_BY_USAGE)))
    a_minute = None if _reset_s(headers.get(_RESET_REQUESTS, "")) > _MINUTE_S else _positive(requests)
    return RateLimits(a_minute, min((limit for limit in limits if limit is not None), default=None))


def _reset_s(value: str) -> float:
    """Seconds of a duration as Go writes it, "2m59.56s", or of a plain number; 0 for anything else."""
    parts = _DURATION.fullmatch(value)
    if parts is None:
        return _positive(value) or 0.0
    sizes = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(part["count"]) * sizes[part["unit"]] for part in _PART.finditer(value))


def _positive(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


class Verdict(NamedTuple):
    """The class of an error, the reason if the run stops for it, and our name for it."""

    kind: ErrorClass
    type: str
    stop: StopReason | None = None


_QUOTA = Verdict(ErrorClass.STOP, "quota", StopReason.QUOTA)
_AUTH = Verdict(ErrorClass.STOP, "auth", StopReason.AUTH)
_MODEL = Verdict(ErrorClass.STOP, "not_found", StopReason.AUTH)
_PARAMETER = Verdict(ErrorClass.STOP, "parameter")
_RATE = Verdict(ErrorClass.WAIT, "rate_limit")
_OVERLOADED = Verdict(ErrorClass.WAIT, "overloaded")
_DAILY = Verdict(ErrorClass.STOP, "daily_limit", StopReason.QUOTA)
_LOADING = Verdict(ErrorClass.RETRY, "loading")

# Codes and types, in lower case, of OpenAI and of those who copied its errors, of Google (API_KEY_INVALID), MiniMax
# (2049), and llama.cpp's server (unavailable_error: it loads its model). A refused parameter is in every request of the
# job. The billing codes, which come with status 429 as a passing rate limit does, are those of `backoff`.
_BY_NAME = {
    **dict.fromkeys(("invalid_api_key", "api_key_invalid", "account_deactivated", "unauthenticated", "2049"), _AUTH),
    "unsupported_country_region_territory": Verdict(ErrorClass.STOP, "permission", StopReason.AUTH),
    **dict.fromkeys(("model_not_found", "model_not_available", "deployment_not_found", "deploymentnotfound"), _MODEL),
    **dict.fromkeys(("unsupported_parameter", "unsupported_value", "unknown_parameter"), _PARAMETER),
    **dict.fromkeys(("rate_limit_exceeded", "slow_down", "resource_exhausted"), _RATE),
    **dict.fromkeys(("server_is_overloaded", "overloaded_error"), _OVERLOADED),
    "unavailable_error": _LOADING,
    "context_length_exceeded": Verdict(ErrorClass.ROW, "context_length_exceeded"),
    "invalid_prompt": Verdict(ErrorClass.ROW, "invalid_prompt"),
    "content_filter": Verdict(ErrorClass.ROW, "content_filter"),
    "content_policy_violation": Verdict(ErrorClass.ROW, "content_policy_violation"),
}

_BY_STATUS = {
    400: Verdict(ErrorClass.ROW, "bad_request"),
    401: _AUTH,
    402: _QUOTA,
    403: Verdict(ErrorClass.STOP, "permission", StopReason.AUTH),
    404: _MODEL,
    408: Verdict(ErrorClass.RETRY, "timeout"),
    409: Verdict(ErrorClass.RETRY, "conflict"),
    413: Verdict(ErrorClass.ROW, "too_large"),
    425: Verdict(ErrorClass.RETRY, "too_early"),
    429: _RATE,
    529: _OVERLOADED,
}

# The server, or a gateway before it, stopped waiting; the work may have been finished nevertheless.
_MAYBE_PAID = frozenset({408, 504, 524})


def verdict_on(status: int, words: ReportedError) -> Verdict:
    """Classify an error.

    Args:
        status: HTTP status, or the one that the error itself names.
        words: the error in the server's words.
    """
    if words.is_daily:
        return _DAILY
    if words.is_billing:
        return _QUOTA
    named = next((verdict for name in words.names if (verdict := _BY_NAME.get(name.casefold()))), None)
    if named is not None:
        return named
    if words.is_moderated:
        return Verdict(ErrorClass.ROW, "moderation")
    return _BY_STATUS.get(status) or _by_range(status)


def is_maybe_paid(status: int) -> bool:
    """True if the provider may have charged for a request that ended with this status."""
    return status in _MAYBE_PAID


def _by_range(status: int) -> Verdict:
    if 300 <= status < 400:  # noqa: PLR2004 - redirects; they are never followed
        return Verdict(ErrorClass.STOP, "redirect")
    if 500 <= status < 600:  # noqa: PLR2004 - the server's own failures
        return Verdict(ErrorClass.RETRY, "server_error")
    return Verdict(ErrorClass.ROW, "http_error")


_MESSAGE_WIDTH = 500
_NAME_WIDTH = 200  # maximum characters of ids, codes and model names
_RAW_WIDTH = 200  # maximum characters of a raw body that has no message
_OK, _NO_LONGER_OK = 200, 300
_UNSAID = frozenset({400, 500})  # unspecific statuses, which the status in the error body overrides
_REQUEST_ID = istr("x-request-id")  # looked up in half the time of a string
_SERVER_ERROR = 500
_MOST_TOKENS = 100_000_000  # a larger count is nonsense, and must not distort the sums
_MOST_USD = 10_000.0  # the same, for one answer
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]
_Nothing = Annotated[str, msgspec.Meta(max_length=0)] | Annotated[list[Any], msgspec.Meta(max_length=0)] | None
_DEEPEST_CALL = 64
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?")
_WITHHELD = frozenset(
    {"content_filter", "error", "refusal"}
)  # finish reasons of unusable answers, with or without text
_ERROR_NAMES = frozenset({"code", "message", "msg", "type", "detail", "error_code", "error_msg", "Message"})


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = 0
    reasoning_tokens: _Tokens = 0


_NO_DETAILS = _Details()


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: Literal[0] | None = None
    cached_tokens: Literal[0] | None = None
    cost: None = None


class _PlainMessage(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: _Nothing = None
    thinking_blocks: _Nothing = None
    tool_calls: _Nothing = None
    function_call: None = None


class _PlainChoice(msgspec.Struct, gc=False):
    message: _PlainMessage
    finish_reason: Literal["stop", "length"]
    error: None = None


class _PlainReply(msgspec.Struct, gc=False):
    """A regular answer, as nearly all are: decoded in one step."""

    choices: Annotated[list[_PlainChoice], msgspec.Meta(min_length=1)]
    model: str
    usage: _Usage
    error: None = None
    system_fingerprint: str | None = None


_decode_plain = msgspec.json.Decoder(_PlainReply).decode


def read_reply(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    latency_s: float = 0.0,
    secret: Secret | None = None,
    sends_tools: bool = True,
) -> Answer | AttemptError:
    """Read a whole reply of `/chat/completions` or `/completions`.

    Args:
        status: HTTP status.
        headers: with lower-case names, or a case-insensitive mapping.
        content: the body, decompressed.
        latency_s: seconds that the reply took, for the answer.
        secret: removed from everything that is kept of the reply except the model's own words.
        sends_tools: the request offers tools, so that a tool call is an answer.

    Returns:
        The answer, or the classified error. Never raises, whatever the bytes are.
    """
    answer = read_regular(status, headers, content, latency_s, secret)
    return answer or read_irregular(status, headers, content, latency_s, secret, sends_tools=sends_tools)


def read_regular(
    status: int, headers: Mapping[str, str], content: bytes, latency_s: float, secret: Secret | None
) -> Answer | None:
    """Read a reply that is an answer of the usual form, as nearly all are; the arguments are those of `read_reply`.

    Returns:
        The answer; None if the reply is anything else, which is left to `read_irregular`.
    """
    if not _OK <= status < _NO_LONGER_OK:
        return None
    try:
        plain = _decode_plain(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choice, usage = plain.choices[0], plain.usage
    message = choice.message
    if message.content.isspace():
        return None
    request_id = headers.get(_REQUEST_ID)
    return Answer(
        message.content,
        choice.finish_reason,
        _shown_model(plain.model, secret),
        Usage(
            usage.prompt_tokens,
            (usage.prompt_tokens_details or _NO_DETAILS).cached_tokens,
            usage.completion_tokens,
            (usage.completion_tokens_details or _NO_DETAILS).reasoning_tokens,
        ),
        _shown(request_id, secret) if request_id else None,
        latency_s,
        read_limits(headers),
        message.reasoning_content or message.reasoning or None,
        None,
        plain.system_fingerprint == SIMULATED_FINGERPRINT,
    )


def read_irregular(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    latency_s: float,
    secret: Secret | None,
    *,
    sends_tools: bool,
) -> Answer | AttemptError:
    """Read a reply that `read_regular` did not take; the arguments are those of `read_reply`."""
    reply = _Reply(status, headers, content, latency_s, secret, sends_tools)
    return reply.read_closely() if _OK <= status < _NO_LONGER_OK else reply.read_error()


def _shown(text: str, secret: Secret | None, width: int = _NAME_WIDTH) -> str:
    """Clean a text of the reply that will be kept: without the secret, on one line, and then shortened."""
    text = redacted(text, secret)
    is_plain = len(text) <= width and text.isascii() and text.isprintable()  # as nearly all ids and names are
    return text if is_plain else one_line(text, width)


_shown_model = lru_cache(maxsize=64)(_shown)  # all replies name the same one or two models


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply being read; its fields are the arguments of `read_reply`."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    latency_s: float
    secret: Secret | None
    sends_tools: bool

    def shown(self, text: str, width: int = _NAME_WIDTH) -> str:
        return _shown(text, self.secret, width)

    @property
    def request_id(self) -> str | None:
        given = self.headers.get(_REQUEST_ID)
        return self.shown(given) if given else None

    def read_closely(self) -> Answer | AttemptError:
        """Read a reply of status 200 that is not regular."""
        try:
            body = read_body(self.content, self.headers.get("content-type", ""))
        except UnreadableBodyError as unreadable:
            return self._not_json(str(unreadable))
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        error = body.get("error") if isinstance(body, dict) else None
        choices = body.get("choices") if isinstance(body, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, dict) and not is_error(error) and not is_error(choice.get("error")):
            return self._read_choice(body, choice) or self._malformed("the reply is neither an answer nor an error")
        if isinstance(choice, dict) and not is_error(error):
            return self._error_within(choice["error"], is_part_paid=True)
        if not _tells_of_an_error(body):
            return self._malformed("the reply is neither an answer nor an error")
        return self._error_within(body, is_part_paid=isinstance(choice, dict))

    def read_error(self) -> AttemptError:
        """Read a reply with an error status."""
        try:
            body: Any = read_body(self.content, self.headers.get("content-type", ""))
        except UnreadableBodyError:
            body = "a web page" if self._is_page else self.content.decode("utf-8", "replace")
        return self._named(self.status, body)

    def _read_choice(self, body: Mapping[str, Any], choice: Mapping[str, Any]) -> Answer | AttemptError | None:
        """Read the first choice; None if it has no message."""
        message = choice.get("message")
        if not isinstance(message, dict):
            if not isinstance(choice.get("text"), str):
                return None
            message = {"content": choice["text"]}  # of `/completions`
        given, refusal = choice.get("finish_reason"), message.get("refusal")
        finish = finish_reason_of(given) if isinstance(given, str) else ""
        text, thoughts = _text_and_thoughts(message.get("content"))
        reasoning, calls = _reasoning(message) or thoughts, _calls(message)
        usage = read_usage(body.get("usage"))
        has_text = bool(text) and not text.isspace()
        if refusal or finish in _WITHHELD or not (has_text or (calls and self.sends_tools)):
            return self._unusable(refusal, finish, usage, has_calls=calls is not None, has_reasoning=bool(reasoning))
        model = body.get("model")
        return Answer(
            text if has_text else "",
            self.shown(finish),
            self.shown(model) if isinstance(model, str) else "",
            usage,
            self.request_id,
            self.latency_s,
            read_limits(self.headers),
            reasoning,
            calls,
            simulated=body.get("system_fingerprint") == SIMULATED_FINGERPRINT,
        )

    def _unusable(
        self, refusal: Any, finish: str, usage: Usage, *, has_calls: bool, has_reasoning: bool
    ) -> AttemptError:
        """The error for an answer that was paid for but is unusable.

        Usually the same prompt would give the same answer.
        """
        kind, remedy = ErrorClass.ROW, None
        if refusal or finish == "refusal":
            name, message = "refusal", refusal if isinstance(refusal, str) else "the model refused"
        elif finish == "content_filter":
            name, message = "content_filter", "the provider's content filter withheld the answer"
        elif finish == "error":
            kind, name, message = ErrorClass.RETRY, "server_error", "the server cut its answer off"
        elif finish == "length":
            name, message = "empty", "the token limit was reached before the first word"
            remedy = f"{RAISE_LIMIT}: hidden reasoning counts too"
        elif has_calls:
            name, message = "tool_calls", "the model called a tool that the job does not define, and wrote no text"
            remedy = "ask for a text answer in the prompt"
        elif has_reasoning:
            name, message = "only_reasoning", "the reply has reasoning but no answer"
            remedy = f"{RAISE_LIMIT}, or lower reasoning_effort"
        else:
            kind, name, message = ErrorClass.RETRY, "empty", "the answer is empty"
        return AttemptError(
            kind=kind,
            type=name,
            status=self.status,
            message=self.shown(message, _MESSAGE_WIDTH),
            maybe_paid=True,
            usage=usage,
            request_id=self.request_id,
            remedy=remedy,
        )

    def _error_within(self, error: Any, *, is_part_paid: bool) -> AttemptError:
        """The error within a reply of status 200, classified by the status that it names.

        A refusal costs nothing. An incomplete answer, or an unspecific failure, may have been charged.
        """
        inner = read_reported_error(error).status
        return self._named(inner or _SERVER_ERROR, error, is_within=True, is_part_paid=is_part_paid)

    def _named(self, status: int, body: Any, *, is_within: bool = False, is_part_paid: bool = False) -> AttemptError:
        words = read_reported_error(body)
        if status in _UNSAID and words.status is not None:
            status = words.status
        kind, name, stop = verdict_on(status, words)
        if kind is ErrorClass.RETRY and self.headers.get("x-should-retry") == "false":
            kind = ErrorClass.ROW
        wait_s = server_wait_s(self.headers, now=time.time())
        message = self.shown(words.message, _MESSAGE_WIDTH) or self._raw_body()
        is_untold = is_within and words.status is None
        return AttemptError(
            kind=kind,
            type=name,
            code=self.shown(words.code) if words.code is not None else None,
            status=self.status if is_untold else status,
            message=message,
            param=self.shown(words.param) if words.param else None,
            retry_after_s=words.wait_s if wait_s is None else wait_s,
            maybe_paid=is_part_paid or (is_within and kind is ErrorClass.RETRY) or is_maybe_paid(status),
            request_id=self.request_id,
            stop=stop,
            limits=read_limits(self.headers),
        )

    def _not_json(self, where: str) -> AttemptError:
        """The error for a body that is not JSON: a proxy's page, a torn body, or an address that is not an API."""
        if not self._is_page:
            return self._malformed(f"the reply is not JSON, {where}")
        return AttemptError(
            kind=ErrorClass.STOP,
            type="not_an_api",
            status=self.status,
            message="the reply is a web page, not an answer",
            request_id=self.request_id,
            remedy="this is not the address of an API; --base-url should end in /v1",
        )

    def _malformed(self, what: str) -> AttemptError:
        return AttemptError(
            kind=ErrorClass.RETRY,
            type="bad_json",
            status=self.status,
            message=f"{what}: {self._raw_body() or 'nothing'}",
            maybe_paid=True,
            request_id=self.request_id,
        )

    def _raw_body(self) -> str:
        return self.shown(self.content.decode("utf-8", "replace"), _RAW_WIDTH)

    @property
    def _is_page(self) -> bool:
        return "html" in self.headers.get("content-type", "").lower() or self.content.lstrip()[:1] == b"<"


def _tells_of_an_error(body: Any) -> bool:
    if isinstance(body, str):
        return bool(body.strip())
    if not isinstance(body, dict):
        return False
    within = body.get("base_resp")
    told = any(is_error(body.get(name)) for name in ("error", "errors", "Error", "fault"))
    return told or bool(_ERROR_NAMES & body.keys()) or (isinstance(within, dict) and bool(within.get("status_code")))


def _text_and_thoughts(content: Any) -> tuple[str, str | None]:
    """The text of a message's `content`, and the reasoning that some servers put among its parts."""
    if isinstance(content, str):
        return without_surrogates(content), None
    if not isinstance(content, list):
        return "", None
    parts = [part for part in content if isinstance(part, dict)]
    thoughts = [part for part in parts if part.get("type") in {"thinking", "reasoning"}]
    text = "".join(_joined_text(part.get("text")) for part in parts if part not in thoughts)
    thought = "".join(_joined_text(part.get("thinking") or part.get("text")) for part in thoughts)
    return text, thought or None


def _joined_text(value: Any) -> str:
    """A text, or the texts of a list of parts, as Mistral sends reasoning."""
    if isinstance(value, list):
        return "".join(_joined_text(part.get("text")) for part in value if isinstance(part, dict))
    return without_surrogates(value) if isinstance(value, str) else ""


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """The reasoning next to the content, by the names of DeepSeek, vLLM and OpenRouter, and Anthropic's blocks."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return without_surrogates(value)
    details = message.get("reasoning_details") or message.get("thinking_blocks")
    if not isinstance(details, list):
        return None
    names = ("text", "summary", "thinking")
    texts = [_joined_text(part.get(name)) for part in details if isinstance(part, dict) for name in names]
    return "".join(texts) or None


def _calls(message: Mapping[str, Any]) -> list[Any] | None:
    """Tool calls as the API has them; the older form, a single call of a function, as one of them."""
    calls, function = message.get("tool_calls"), message.get("function_call")
    if not calls and isinstance(function, dict) and function:
        calls = [{"type": "function", "function": function}]
    return calls if isinstance(calls, list) and calls and _is_plain_json(calls, _DEEPEST_CALL) else None


def _is_plain_json(value: Any, deepest: int) -> bool:
    """Whether a value can be written to a line and read again. Infinite numbers and endless nesting cannot."""
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, dict | list):
        return True
    items = value.values() if isinstance(value, dict) else value
    return deepest > 0 and all(_is_plain_json(item, deepest - 1) for item in items)


def read_usage(raw: Any) -> Usage:
    """Read the token counts of an answer, by the names of several providers.

    Args:
        raw: the decoded `usage`.

    Returns:
        The counts; a missing, negative or absurd one is 0.
    """
    if not isinstance(raw, dict):
        return NO_USAGE
    prompt, completion = raw.get("prompt_tokens_details"), raw.get("completion_tokens_details")
    cached = _count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else 0
    return Usage(
        _count(raw.get("prompt_tokens")),
        cached or _count(raw.get("prompt_cache_hit_tokens")) or _count(raw.get("cached_tokens")),
        _count(raw.get("completion_tokens")),
        _count(completion.get("reasoning_tokens")) if isinstance(completion, dict) else 0,
        _cost_usd(raw.get("cost")),
    )


def _number(value: Any) -> float | None:
    """A count in any numeric type that servers use; None for a boolean."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= _MOST_TOKENS else None  # NaN is not


def _count(value: Any) -> int:
    number = _number(value)
    return 0 if number is None or number > _MOST_TOKENS else math.ceil(number)


def _cost_usd(value: Any) -> float | UnsetType:
    """USD, as OpenRouter and others report it next to the counts."""
    number = _number(value)
    return UNSET if number is None or number > _MOST_USD else float(number)
