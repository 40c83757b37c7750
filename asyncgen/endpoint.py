"""Where requests go: a provider's profile with an address, a key and a model.

Owns the rules for an address: https unless it is this machine, no user name, no query. Reads no environment:
what it is given was found by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from asyncgen.errors import UsageError
from asyncgen.loopback import is_loopback_host
from asyncgen.providers import Profile
from asyncgen.secret import Secret


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
