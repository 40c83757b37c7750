"""A key that cannot be printed by accident.

Owns the wrapping of secrets, and taking them out of texts that came from outside. Does not know where they come from or
whom they are shown to.

Where requests go: a provider's profile with an address, a key and a model.

Owns the rules for an address: https unless it is this machine, no user name, no query. Reads no environment:
what it is given was found by the command line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Never
from urllib.parse import quote, quote_plus, urlsplit, urlunsplit

from asyncgen.errors import UsageError
from asyncgen.loopback import is_loopback_host
from asyncgen.providers.profiles import Profile

_REDACTED = "***"


class Secret:
    """A string whose repr and str never show it; `reveal` is called where it goes on the wire, nowhere else.

    Args:
        value: the secret itself.
        source: where it was found, such as "OPENAI_API_KEY", for messages.
    """

    __slots__ = ("_forms", "_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        # As it is, percent-encoded as an address holds it, and escaped as JSON holds it; mostly they are one.
        self._forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]} if value else set()
        self.source = source

    def reveal(self) -> str:
        return self._value

    def hint(self) -> str:
        """Enough to tell two keys apart: the last four characters of a long one."""
        return f"…{self._value[-4:]}" if len(self._value) >= 12 else "(short)"  # noqa: PLR2004 - shorter keys would be half shown

    def __repr__(self) -> str:
        return f"Secret(*** from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a Secret is not to be written anywhere")


def redacted(text: str, secret: Secret | None) -> str:
    """A text from outside without the secret that it may quote.

    To be called on the whole text, before it is cut: a part of a secret that a cut leaves would not be found any more.

    Args:
        text: of a reply or a header, as it came.
        secret: None where none was sent.

    Returns:
        The text, the secret replaced as it is, percent-encoded (as an address holds it) and escaped (as JSON holds it).
    """
    if secret is not None:
        for form in secret._forms:  # noqa: SLF001 - no other module is to see them
            text = text.replace(form, _REDACTED)
    return text


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that answers.

    Attributes:
        base_url: up to and including the version, without a trailing slash.
        key: None where none is needed.
        why: how it was chosen, for the first line on stderr.
        remarks: what the user should hear of address and key, each a sentence.
    """

    profile: Profile
    base_url: str
    key: Secret | None
    model: str
    why: str
    remarks: tuple[str, ...] = ()


def is_loopback(base_url: str) -> bool:
    """Does the address name this machine? Only the literal forms do: a name that resolves to it may move."""
    return is_loopback_host(urlsplit(base_url).hostname or "")


def checked_base_url(base_url: str, *, sends_key: bool) -> str:
    """The address in the form that `Endpoint` holds.

    Args:
        base_url: as the user gave it.
        sends_key: a key will be sent there.

    Raises:
        UsageError: it is no address, carries a user name or a query, or would carry the key in the clear.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            f"{base_url!r} is not an address of an API",
            help_text="give it in full, such as https://api.openai.com/v1 or http://127.0.0.1:8080/v1",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"the address of {parts.hostname} must have no user name, password, query or fragment",
            help_text="a key belongs in the provider's environment variable or in --api-key-file",
        )
    if sends_key and parts.scheme == "http" and not is_loopback(base_url):
        raise UsageError(
            f"http://{parts.netloc} would carry the key unencrypted",
            help_text="use https, or an address of this machine",
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
