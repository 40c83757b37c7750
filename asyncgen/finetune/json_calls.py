"""JSON API calls through the official SDK, with typed answers and our errors.

Decodes answers, whatever a proxy put in their place, and classifies errors. Retries are left to `openai_client`, paths
to the callers. Importing this module imports the SDK.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin
from urllib.parse import quote

import httpx2
import msgspec
import openai

from asyncgen.errors import UsageError
from asyncgen.finetune.api import AbsentError, OutageError, as_kind
from asyncgen.json_text import NotJsonError, decode_json, what_is_wrong
from asyncgen.providers.endpoint import redacted
from asyncgen.providers.openai_client import api_error, is_transient, retrying, secret_of
from asyncgen.providers.reply_body import is_error, read_reported_error
from asyncgen.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openai import AsyncOpenAI, RequestOptions

    from asyncgen.providers.openai_client import Pacing

Answer = TypeVar("Answer")
_SHOWN = 120
_NEEDED = frozenset({"id", "status"})  # of a job; without them nothing can be said of it
# After a laptop's sleep the connection is dead without notice; detect that soon.
_QUICK_S = 60.0


class JsonCalls:
    """Calls of an API through an open client.

    Every method may raise OutageError (no answer, a transient error, or an unexpected form), AbsentError (404), and
    AuthError, QuotaError and AsyncgenError as `openai_client.api_error`. `doing` completes the "could not ..." of the
    message.

    Args:
        client: of the endpoint.
        pacing: retry settings.
    """

    def __init__(self, client: AsyncOpenAI, pacing: Pacing) -> None:
        self.client = client
        self.pacing = pacing

    async def get(self, path: str, kind: type[Answer], doing: str, query: Mapping[str, Any] | None = None) -> Answer:
        """GET an object; transient errors are retried.

        Args:
            path: of the API call.
            kind: type of the answer.
            doing: what is done, for the error message.
            query: parameters of the URL; None for none.

        Returns:
            The decoded answer.
        """
        options: RequestOptions = {"params": dict(query or {}), "timeout": _QUICK_S}
        return self.decoded(await self._got(path, doing, options), kind, doing)

    async def content(self, path: str, doing: str) -> bytes:
        """GET a file, without a short timeout; transient errors are retried.

        Args:
            path: of the API call.
            doing: what is done, for the error message.

        Returns:
            The file's content.
        """
        return await self._got(path, doing, {})

    async def _got(self, path: str, doing: str, options: RequestOptions) -> bytes:
        async def once() -> httpx2.Response:
            return await self.client.get(path, cast_to=httpx2.Response, options=options)

        with translated_errors(doing):
            return (await retrying(once, self.pacing)).content

    async def post(self, path: str, kind: type[Answer], doing: str, body: Mapping[str, Any] | None = None) -> Answer:
        """POST a JSON body; retried only if the server surely did nothing.

        Args:
            path: of the API call.
            kind: type of the answer.
            doing: what is done, for the error message.
            body: the JSON; None for an empty object.

        Returns:
            The decoded answer.
        """
        return self.decoded(await self.post_for_content(path, doing, body or {}), kind, doing)

    def decoded(self, content: bytes, kind: type[Answer], doing: str) -> Answer:
        """Decode the body of an answer, without the key that it may quote.

        Args:
            content: the body.
            kind: type of the answer.
            doing: what is done, for the error message.

        Returns:
            The decoded answer.
        """
        return decoded(self._without_key(content), kind, doing)

    def _without_key(self, content: bytes) -> bytes:
        secret = secret_of(self.client)
        if secret is None or secret.reveal().encode() not in content:
            return content
        return redacted(content.decode("utf-8", "replace"), secret).encode()

    async def post_for_content(self, path: str, doing: str, body: Mapping[str, Any]) -> bytes:
        """POST a JSON body, and leave decoding to the caller; retried only if the server surely did nothing.

        Args:
            path: of the API call.
            doing: what is done, for the error message.
            body: the JSON.

        Returns:
            The body of the answer.
        """

        async def once() -> httpx2.Response:
            return await self.client.post(path, cast_to=httpx2.Response, body=dict(body))

        with translated_errors(doing):
            return self._without_key((await retrying(once, self.pacing, unsafe=True)).content)

    async def delete(self, path: str, doing: str) -> None:
        """DELETE an object; transient errors are retried.

        Args:
            path: of the API call.
            doing: what is done, for the error message.
        """

        async def once() -> httpx2.Response:
            return await self.client.delete(path, cast_to=httpx2.Response)

        with translated_errors(doing):
            await retrying(once, self.pacing)


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Turn the SDK's errors in the block into ours.

    Args:
        doing: completes the "could not ..." of the message.

    Raises:
        OutageError: the error is transient.
        AbsentError: 404.
        AsyncgenError: any other error, of the kind of `openai_client.api_error`.
    """
    try:
        yield
    except (openai.APIError, httpx2.TransportError) as error:
        found = api_error(error, doing)
        if isinstance(error, openai.NotFoundError):
            raise as_kind(AbsentError, found) from error
        raise (as_kind(OutageError, found) if is_transient(error) else found) from error


def decoded(content: bytes, kind: type[Answer], doing: str) -> Answer:
    """An answer's body as the type that it should have; nulls count as left out.

    Raises:
        OutageError: it is something else.
    """
    try:
        value = _without_nulls(decode_json(content))
    except NotJsonError as error:
        raise _bad_answer(doing, _shown(content)) from error
    try:
        return parsed(value, kind, doing)
    except OutageError:
        words = read_reported_error(value) if isinstance(value, dict) and is_error(value.get("error")) else None
        if words is None or not words.message:
            raise
        raise _bad_answer(doing, one_line(words.message, _SHOWN)) from None


def parsed(value: Any, kind: type[Answer], doing: str) -> Answer:
    """Decoded JSON as the type that it should have; raises as `decoded` does.

    An optional field in another form counts as left out, and an odd item of a list is passed over: no side field keeps
    anybody from a job that was paid for.
    """
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(_without_odd_fields(value, kind), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _bad_answer(doing, what_is_wrong(error, "")) from error


def _without_odd_fields(value: Any, kind: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = dict(value)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in found or _fits(found[name], field.type):
            continue
        if name == "id" and isinstance(found[name], int):
            found[name] = str(found[name])
        elif get_origin(field.type) is list and isinstance(found[name], list):
            found[name] = [item for item in found[name] if _fits(item, get_args(field.type)[0])]
        elif not field.required and name not in _NEEDED:
            del found[name]
    return found


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _bad_answer(doing: str, found: str) -> OutageError:
    return OutageError(
        f"could not {doing}",
        cause=f"the server's reply does not match its API: {found}",
        help_text="check the address (--base-url), and whether this server has this API",
        code="bad_answer",
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _shown(content: bytes) -> str:
    return one_line(content[: 4 * _SHOWN].decode("utf-8", "replace"), _SHOWN) or "nothing"


def segment(identifier: str) -> str:
    """A user's id or name as one part of a path.

    Raises:
        UsageError: it would lead to another path.
    """
    if not identifier.strip("."):
        raise UsageError(f"{identifier!r} is not an ID or a name")
    return quote(identifier, safe=":")
