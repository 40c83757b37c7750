"""Faults of real APIs and networks, drawn from a seed; and rate limits, enforced as the real API does.

The draw depends on the seed, the request's bytes and how often they came, not on the order of arrival: the same
rehearsal meets the same faults. Faults within an answer (a refusal, an empty text) are named here and made by the
engine.

Limits are two token buckets (requests and tokens a minute), the 429 answer, and the `x-ratelimit-*` headers. A bucket
holds a minute's allowance, may be spent in a burst, and refills steadily.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from aiohttp import web

from asyncgen.errors import UsageError
from asyncgen.json_text import NotJsonError, decode_loosely
from asyncgen.serve.simulation.values import Repetitions
from asyncgen.serve.wire import DISTURB, ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aiohttp.typedefs import Handler, Middleware

    from asyncgen.serve.wire import Disturb


_MINUTE_S = 60.0


class Bucket:
    """Token bucket.

    Args:
        noun: "requests" or "tokens", for headers and messages.
        per_minute: the limit.
        clock: monotonic seconds.
    """

    def __init__(self, noun: str, per_minute: float, clock: Callable[[], float]) -> None:
        self.noun = noun
        self.per_minute = per_minute
        self._rate = per_minute / _MINUTE_S
        self.capacity = max(1.0, per_minute)  # the allowance of a minute, as burst size
        self._level = self.capacity
        self._clock = clock
        self._filled_at = clock()

    def wait_for(self, amount: float) -> float:
        """Seconds until the amount is available; an amount larger than the bucket needs it full."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now
        missing = min(amount, self.capacity) - self._level
        return max(0.0, missing / self._rate)

    def spend(self, amount: float) -> None:
        """Take an amount. The level becomes negative if the amount is larger than the bucket."""
        self._level -= amount

    def headers(self) -> dict[str, str]:
        """Headers with the limit, what remains of it, and the time until the bucket is full."""
        missing = self.capacity - self._level
        return {
            f"x-ratelimit-limit-{self.noun}": f"{self.per_minute:.12g}",
            f"x-ratelimit-remaining-{self.noun}": str(max(0, int(self._level))),
            f"x-ratelimit-reset-{self.noun}": go_duration(missing / self._rate),
        }


class SimulatedLimits:
    """The limits of a server, over all models together.

    Args:
        requests_per_minute, tokens_per_minute: None for no such limit.
        clock: monotonic seconds.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable[[], float]
    ) -> None:
        self._requests = Bucket("requests", requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket("tokens", tokens_per_minute, clock) if tokens_per_minute else None

    def admit(self, model: str, tokens: int) -> dict[str, str]:
        """Count one request and its tokens (prompt and largest answer) against the limits.

        Returns:
            The headers for the answer.

        Raises:
            ApiError: 429, with the time to wait.
        """
        costs = [(bucket, cost) for bucket, cost in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        headers = {name: text for bucket, _ in costs for name, text in bucket.headers().items()}
        for bucket, cost in costs:
            wait_s = bucket.wait_for(cost)
            if cost > bucket.capacity or wait_s:
                raise _refusal(model, bucket, cost, wait_s, headers)
        for bucket, cost in costs:
            bucket.spend(cost)
        return {name: text for bucket, _ in costs for name, text in bucket.headers().items()}


def go_duration(seconds: float) -> str:
    """Format a duration as the API does: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, _MINUTE_S)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{int(minutes)}m{text}" if minutes else text


def _refusal(model: str, bucket: Bucket, cost: float, wait_s: float, headers: dict[str, str]) -> ApiError:
    limit = f"Limit {bucket.per_minute:.12g}, Requested {round(cost)}"
    if cost > bucket.capacity:
        message = f"Request too large for {model} (simulated) on {bucket.noun} per min: {limit}."
        return ApiError(429, message, kind=bucket.noun, code="rate_limit_exceeded", headers=headers)
    milliseconds = math.ceil(wait_s * 1000)
    message = (
        f"Rate limit reached for {model} (simulated) on {bucket.noun} per min: {limit}. "
        f"Please try again in {go_duration(milliseconds / 1000)}."
    )
    waiting = {"retry-after-ms": str(milliseconds), "retry-after": str(math.ceil(milliseconds / 1000))}
    return ApiError(429, message, kind=bucket.noun, code="rate_limit_exceeded", headers={**headers, **waiting})


_DRIP_S = 0.3
_FOREVER_S = 24 * 3600.0
_SPAN = 2.0**64


@dataclass(frozen=True, slots=True)
class _Status:
    status: int
    kind: str
    code: str | None
    message: str
    headers: Mapping[str, str]


_SOON = {"retry-after-ms": "50", "retry-after": "1"}
_STATUS = {
    "400": _Status(400, "invalid_request_error", "invalid_value", "a parameter has an invalid value", {}),
    "401": _Status(401, "invalid_request_error", "invalid_api_key", "the key is not valid", {}),
    "403": _Status(
        403, "invalid_request_error", "training_not_available", "this account is not allowed to do that", {}
    ),
    "404": _Status(404, "invalid_request_error", "model_not_found", "the model does not exist", {}),
    "408": _Status(408, "server_error", None, "the request took too long", {}),
    "409": _Status(409, "invalid_request_error", None, "another request is using the object", {}),
    "429": _Status(429, "requests", "rate_limit_exceeded", "too many requests per minute", _SOON),
    "500": _Status(500, "server_error", None, "the server had an error", {}),
    "502": _Status(502, "server_error", None, "the server behind the gateway returned a bad reply", {}),
    "503": _Status(503, "service_unavailable_error", "server_is_overloaded", "the engine is overloaded", {}),
    "504": _Status(504, "server_error", None, "the server behind the gateway took too long", {}),
    "529": _Status(529, "overloaded_error", None, "overloaded", {}),
    "quota": _Status(429, "insufficient_quota", "credit_balance_exhausted", "the balance is used up", {}),
    "slow-down": _Status(429, "rate_limit_error", "slow_down", "traffic rose too fast", {}),
}


async def _reset(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """The connection breaks before the request is handled."""
    return _drop(request)


async def _reset_after(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The request is answered, but the connection breaks before the client gets the answer."""
    await handler(request)
    return _drop(request)


async def _hang(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """No answer ever comes; the client must give up."""
    await asyncio.sleep(_FOREVER_S)
    return _drop(request)


async def _slow(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The answer is sent a byte at a time."""
    body = _body(await handler(request))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    for byte in body:
        await response.write(bytes([byte]))
        await asyncio.sleep(_DRIP_S)
    return response


async def _malformed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A 200 with half of the JSON, in an HTTP message that is whole."""
    body = _body(await handler(request))
    return web.Response(body=body[: len(body) // 2], content_type="application/json")


async def _truncated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The connection breaks in the middle of the answer's body."""
    body = _body(await handler(request))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _drop(request)


async def _html(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """An HTML page, as of a proxy, with the status 200."""
    return web.Response(
        text="<html><body>Simulated page of a proxy: please sign in.</body></html>", content_type="text/html"
    )


_WIRE: Mapping[str, Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]] = {
    "reset": _reset,
    "reset-after": _reset_after,
    "hang": _hang,
    "slow": _slow,
    "malformed": _malformed,
    "truncated": _truncated,
    "html": _html,
}
_STREAMED = frozenset({"reset-after", "slow", "malformed", "truncated"})
_WHOLE_EVENTS = 3  # of a stream that breaks off
ANSWER_FAULTS = ("empty", "refusal", "content-filter", "length")
FAULT_NAMES = (*_STATUS, *_WIRE, *ANSWER_FAULTS)


def parse_faults(texts: Iterable[str]) -> dict[str, float]:
    """Parse the values of --fault.

    Args:
        texts: in the form `NAME=PROBABILITY`.

    Returns:
        Name of the fault to its probability, from 0 to 1.

    Raises:
        UsageError: an unknown name, no probability, or a sum above 1.
    """
    chances = dict(_parsed(text) for text in texts)
    if sum(chances.values()) > 1:
        raise UsageError("the probabilities of the faults add up to more than 1", cause=f"found {chances}")
    return chances


def _parsed(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if name not in FAULT_NAMES:
        raise UsageError(f"there is no fault {name!r}", help_text="choose among " + ", ".join(FAULT_NAMES))
    try:
        chance = float(number)
    except ValueError:
        chance = -1.0
    if not 0 <= chance <= 1:
        found = f", and not {number}" if number else ""
        raise UsageError(f"a probability must be from 0 to 1{found}: --fault {text}", help_text=f"--fault {name}=0.05")
    return name, chance


class FaultDraw:
    """A seeded random choice of a fault, or of none.

    Args:
        chances: name to probability.
        seed: another seed gives other faults.
    """

    def __init__(self, chances: Mapping[str, float], seed: int) -> None:
        self._chances = dict(chances)
        self._seed = seed
        self._repetitions = Repetitions()

    def __bool__(self) -> bool:
        return any(self._chances.values())

    def fault(self, question: bytes) -> str | None:
        """Draw the fault for a request; the same request can get another one when it is repeated."""
        key = blake2b(question, digest_size=16, salt=self._seed.to_bytes(8, "little", signed=True)).digest()
        repetition = self._repetitions.count(key)
        drawn = int.from_bytes(blake2b(b"%b%d" % (key, repetition), digest_size=8).digest(), "little") / _SPAN
        for name, chance in self._chances.items():
            if drawn < chance:
                return name
            drawn -= chance
        return None


def fault_middleware(chances: Mapping[str, float], seed: int) -> Middleware | None:
    """Make the middleware that causes faults of status and connection under `/v1`; None if there are none."""
    draw = FaultDraw({name: chance for name, chance in chances.items() if name not in ANSWER_FAULTS}, seed)
    if not draw:
        return None

    @web.middleware
    async def apply_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/v1/"):
            return await handler(request)
        name = draw.fault(await _question(request))
        if name is None:
            return await handler(request)
        if name in _STATUS:
            raise _status_error(_STATUS[name])
        if name in _STREAMED and await _is_streamed(request):
            request[DISTURB] = _disturbing(name, request)
            return await handler(request)
        return await _WIRE[name](request, handler)

    return apply_faults


async def _is_streamed(request: web.Request) -> bool:
    if request.content_type.startswith("multipart/"):
        return False
    try:
        body = decode_loosely(await request.read())
    except NotJsonError:
        return False
    return isinstance(body, dict) and bool(body.get("stream"))


def _disturbing(name: str, request: web.Request) -> Disturb:
    """Break off a stream after a few events, or in the middle of one."""

    async def disturb(response: web.StreamResponse, number: int, event: bytes) -> bool:
        if name == "slow":
            await asyncio.sleep(_DRIP_S)
            return True
        if number < (0 if name == "reset-after" else _WHOLE_EVENTS):
            return True
        if name == "reset-after":
            _drop(request)
            return False
        await response.write(event[: len(event) // 2])
        if name == "truncated":
            _drop(request)
        return False

    return disturb


async def _question(request: web.Request) -> bytes:
    line = f"{request.method} {request.path_qs}".encode()
    # A multipart body is streamed to disk by its route; reading it here would load it into memory.
    return line if request.content_type.startswith("multipart/") else line + await request.read()


def _status_error(fault: _Status) -> ApiError:
    return ApiError(
        fault.status,
        f"Simulated fault: {fault.message}.",
        kind=fault.kind,
        code=fault.code,
        headers=fault.headers,
    )


def _drop(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # is not sent


def _body(response: web.StreamResponse) -> bytes:
    body = response.body if isinstance(response, web.Response) else b""
    return body if isinstance(body, bytes) else b""
