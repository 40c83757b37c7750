"""The lines of a batch's files: requests as they go in, answers and errors as they come out.

Owns the wire form. Judges an answer as the online way does, by `reply`. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from asyncgen.generate.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.reply import read_reply
from asyncgen.json_text import NotJsonError, decoder
from asyncgen.terminal import one_line

URL: Final = "/v1/chat/completions"
_MESSAGE_WIDTH = 500
_NOTHING: dict[str, str] = {}


def input_line(key: bytes, body: bytes) -> bytes:
    """The line that asks for one request; its key comes back with the answer."""
    return b'{"custom_id":"%s","method":"POST","url":"%s","body":%s}\n' % (key.hex().encode(), URL.encode(), body)


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")
    request_id: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    message: str | None = None


class _OutputLine(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


class _Id(msgspec.Struct):
    custom_id: str


_decode = decoder(_OutputLine)
_decode_id = decoder(_Id)


def key_of_line(line: bytes) -> bytes | None:
    """The key of the request that a line of an output or error file answers; None when it is no such line."""
    try:
        return bytes.fromhex(_decode_id(line).custom_id)
    except ValueError:
        return None


def read_output_line(line: bytes) -> Answer | AttemptError:
    """What became of the request; `ErrorClass.RETRY` without `maybe_paid` for one that was never done."""
    try:
        found = _decode(line)
    except NotJsonError as error:
        text = one_line(f"the line is no answer: {error}", _MESSAGE_WIDTH)
        return AttemptError(kind=ErrorClass.RETRY, type="bad_json", message=text, maybe_paid=True)
    response = found.response
    if response is None or not response.status_code:
        return _not_done(found.error or _Error())
    headers = {"x-request-id": response.request_id} if response.request_id else _NOTHING
    return read_reply(response.status_code, headers, bytes(response.body))


def _not_done(error: _Error) -> AttemptError:
    """Expired, cancelled, or lost by the provider."""
    code = str(error.code) if error.code is not None else None
    message = one_line(error.message or "", _MESSAGE_WIDTH)
    return AttemptError(kind=ErrorClass.RETRY, type=code or "not_done", code=code, message=message)
