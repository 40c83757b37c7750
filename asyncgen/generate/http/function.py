"""A completer made from the user's own async function: vLLM offline, another API, a fake in a test.

Retries and limits are left to the pool, as with every completer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.http.reply import read_reply
from asyncgen.json_text import decode_json
from asyncgen.run.records import Usage
from asyncgen.terminal import one_line

UserCompleter = Callable[[Mapping[str, Any]], Awaitable[str | Mapping[str, Any]]]
_MESSAGE_WIDTH = 500


class FunctionCompleter:
    """A completer that calls a function instead of a server.

    Args:
        function: takes the request body as in the API; returns the answer's text, or a whole chat completion.
    """

    def __init__(self, function: UserCompleter) -> None:
        self._function = function

    async def complete(self, body: bytes) -> Answer | AttemptError:
        """Call the function once; an exception of the function is an error of the attempt, which is retried."""
        request = decode_json(body)
        began_s = time.monotonic()
        try:
            answer = await self._function(request)
        except Exception as error:  # noqa: BLE001 - it is the user's, and fails the row, not the run
            message = one_line(f"{type(error).__name__}: {error}", _MESSAGE_WIDTH)
            return AttemptError(kind=ErrorClass.RETRY, type="completer", message=message)
        latency_s = time.monotonic() - began_s
        if isinstance(answer, str):
            return Answer(answer, "stop", str(request.get("model", "")), Usage(), latency_s=latency_s)
        return read_reply(200, {}, orjson.dumps(answer), latency_s=latency_s)
