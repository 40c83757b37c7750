"""An endpoint: a provider's profile with address, key, headers and model.

Validates and normalises addresses, finds a key in its variable or in a file, decides whether a key may be sent to an
address, and wraps keys so that none is printed or stays in a text that came from outside. No message shows a key, or
more of it than one character that no key may contain, nor the user name, password or query of an address. Which
provider is meant is left to `choose`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Never
from urllib.parse import SplitResult, quote, quote_plus, urlsplit

from asyncgen.errors import AuthError, UsageError
from asyncgen.local_http import is_address, is_loopback_host
from asyncgen.providers.profiles import LOCAL, PROFILES, Profile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REDACTED = "***"
_all_forms: set[str] = set()  # of every secret of this process, for texts whose secret is not known


class Secret:
    """A string that its repr and str never show.

    Args:
        value: the secret itself.
        source: where it was found, such as "OPENAI_API_KEY", for messages.
    """

    __slots__ = ("_forms", "_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        # Plain, percent-encoded as in URLs, and escaped as in JSON; usually all the same.
        self._forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]} if value else set()
        _all_forms.update(self._forms)
        self.source = source

    def reveal(self) -> str:
        """The secret itself. Called only where it is put into a request."""
        return self._value

    def hint(self) -> str:
        """The last four characters of a long secret, to tell two keys apart; "(short)" for a short one."""
        return f"…{self._value[-4:]}" if len(self._value) >= 12 else "(short)"  # noqa: PLR2004 - shorter keys would be half shown

    def __repr__(self) -> str:
        return f"Secret(*** from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a Secret is not to be written anywhere")


def redacted(text: str, secret: Secret | None) -> str:
    """Remove a secret from a text from outside, which may quote it.

    Call it on the whole text before shortening it: a secret that was cut in two would not be found.

    Args:
        text: a reply or a header.
        secret: the secret that was sent; None if none was.

    Returns:
        The text with the secret replaced, whether plain, percent-encoded (as in URLs) or escaped (as in JSON).
    """
    if secret is not None:
        for form in secret._forms:  # noqa: SLF001 - no other module is to see them
            text = text.replace(form, _REDACTED)
    return text


def _is_long(form: str) -> bool:
    return len(form) >= 8  # noqa: PLR2004 - keys are longer


def without_secrets(text: str) -> str:
    """Remove every secret that this process has read from a text, such as a traceback.

    A placeholder of a few letters, as some servers take it for a key, stays.

    Args:
        text: of whatever origin.

    Returns:
        The text with the secrets replaced.
    """
    for form in filter(_is_long, _all_forms):
        text = text.replace(form, _REDACTED)
    return text


_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w.-]+", re.UNICODE)
_PATH = re.compile(r"[!$%&'()*+,./0-9:;=@A-Z_a-z~-]*")
_UNSPECIFIED = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nothing listens here; who connects there reaches this machine
_BARE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*[.][\w.-]*|localhost|[\w-]+(?=:\d))(:\d+)?(/[\w./-]*)?")
_SHOWN = 200
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADERS_OF_THE_BODY = frozenset({"host", "content-length", "content-type", "content-encoding", "transfer-encoding"})
# Paths that users paste with an address; each call appends its own.
_ENDPOINTS = re.compile(r"(/chat/completions|/completions|/responses|/embeddings|/models|/files|/batches)+/*$")
_AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address with everything that a request to it needs.

    Attributes:
        profile: of the provider.
        base_url: up to and including the version, without a trailing slash.
        key: the API key; None if none is sent.
        model: the model to ask; "" if none is asked.
        why: the reason for the choice, for the first line on stderr.
        remarks: sentences for the user about address and key.
        headers: sent with every request, in addition to the key's.
        others: further addresses of the same provider, among which requests of a generation are balanced.
    """

    profile: Profile
    base_url: str
    key: Secret | None
    model: str
    why: str
    remarks: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Name of the provider, or of the host, for questions and messages."""
        return provider_or_host(self.profile, self.base_url)


@dataclass(frozen=True, slots=True)
class Address:
    """A normalised address, and a remark on what was changed."""

    base_url: str
    remarks: tuple[str, ...] = ()


def provider_or_host(profile: Profile, base_url: str | None) -> str:
    """Name the server that is asked, for messages.

    Args:
        profile: of the provider.
        base_url: its address; None for that of the profile.

    Returns:
        The provider's title if the address is its own, else the host.
    """
    if base_url is None or profile.name == LOCAL:
        return profile.title
    if profile.base_url and host_and_port(profile.base_url) == host_and_port(base_url):
        return profile.title
    return urlsplit(base_url).netloc.rpartition("@")[2]


def host_and_port(address: str) -> tuple[str, int | None]:
    """Host and port of an address, normalised for comparison; the host is "" if there is none."""
    try:
        parts = urlsplit(address)
        return (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", None


def is_loopback(base_url: str) -> bool:
    """Check whether an address is this machine's, without resolving names, which may change.

    Args:
        base_url: the address.

    Returns:
        Whether its host is `localhost`, a loopback address, or unspecified (`0.0.0.0`, `::`).
    """
    host, _ = host_and_port(base_url)
    return is_loopback_host(host) or host in _UNSPECIFIED


def read_address(text: str, given_by: str = "--base-url") -> Address:
    """Parse and normalise an address that a user typed.

    Args:
        text: the address; blanks, a trailing slash and a pasted endpoint such as `/chat/completions` are removed.
        given_by: the flag, variable or file that it is from, for messages.

    Returns:
        The address, and a remark if it was changed.

    Raises:
        UsageError: it is not the address of an API, or has a user name, a password or a query.
    """
    text = text.strip()
    parts = _split(text, given_by)
    _refuse_secrets(parts)
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    remarks = []
    if shorter := _ENDPOINTS.sub("", path):
        endpoint = path[len(shorter) :]
    else:
        endpoint, shorter = path, ""
    if endpoint:
        remarks.append(
            f"removed {endpoint} from the address: --base-url is the address without the endpoint, "
            "usually ending in /v1"
        )
        path = shorter
    if (parts.hostname or "").endswith(_AZURE_HOSTS) and not path.endswith("/openai/v1"):
        remarks += [f"addresses at Azure end in /openai/v1, not in {path}"] if path else []
        path = "/openai/v1"
    return Address(f"{parts.scheme}://{parts.netloc}{path}", tuple(remarks))


def _split(text: str, given_by: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # Without the @, a password is where the port should be.
        raise _no_address("", given_by, "its host or port is not valid") from None
    if parts.scheme not in _DEFAULT_PORTS:
        if _looks_bare(text):
            raise _no_address(text, given_by, "it has no http:// or https://", f"http://{text} or https://{text}")
        raise _no_address(text, given_by)
    if not host or port == 0 or any(each.isspace() or not each.isprintable() for each in text):
        raise _no_address(text, given_by)
    is_host = is_address(host.partition("%")[0]) if ":" in host else bool(_HOST.fullmatch(host))
    if not is_host or not _PATH.fullmatch(parts.path):
        raise _no_address(text, given_by)
    if host.startswith((".", "-")) or ".." in host or not parts.netloc.isascii():
        raise _no_address(text, given_by)
    return parts


def _refuse_secrets(parts: SplitResult) -> None:
    host = parts.hostname
    if parts.query and not parts.username and not parts.password:
        is_version = parts.query.lower().startswith("api-version=")
        raise UsageError(
            f"the address of {host} must not have a query",
            help_text="leave the query out: https://NAME.openai.azure.com/openai/v1 needs none"
            if is_version
            else "remove the part after the question mark; a key belongs in the provider's environment variable",
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            f"the address of {host} must not have a user name, password, query or fragment",
            help_text="a key belongs in the provider's environment variable or in --api-key-file",
        )


def _no_address(text: str, given_by: str, cause: str | None = None, suggestion: str | None = None) -> UsageError:
    meant = suggestion or "https://api.openai.com/v1 or http://127.0.0.1:8080/v1"
    return UsageError(
        f"{given_by}: {_shown(text)} is not an address of an API",
        cause=cause,
        help_text=f"use the full address, such as {meant}",
    )


def _shown(text: str) -> str:
    """A text that is not an address, without what may be a secret in it."""
    if not re.search(r"[./:]", text):
        return "what is there"  # a single word may be a key in the wrong place
    without_user = re.sub(r"^.*@", "***@", text, flags=re.DOTALL)
    return repr(re.split(r"[?#]", without_user, maxsplit=1)[0][:_SHOWN])


def _looks_bare(text: str) -> bool:
    """Whether the text is a host, with or without port and path."""
    return bool(_BARE.fullmatch(text))


def near_address(base_url: str) -> str | None:
    """Guess the right address, for one that answers but is not that of an API.

    Args:
        base_url: the address that was used.

    Returns:
        A suggestion for the user; None without a good guess.
    """
    if not re.search(r"/v\d", base_url):  # as in nearly all API addresses
        return f"did you mean --base-url {base_url}/v1?"
    if _ENDPOINTS.search(base_url):
        return f"did you mean --base-url {without_endpoint(base_url)}?"
    return None


def without_endpoint(url: str) -> str:
    """Take the path of an endpoint, such as `/chat/completions`, off a URL.

    Args:
        url: of a request, or a base URL.

    Returns:
        The base URL.
    """
    return _ENDPOINTS.sub("", url)


def header_fault(name: str, value: str) -> str | None:
    """Why a header given by the user cannot be sent; None if it can."""
    if name.lower() == "authorization":
        return "this header is for the key, which belongs in the provider's environment variable or in --api-key-file"
    if name.lower() in _HEADERS_OF_THE_BODY or not _HEADER_NAME.fullmatch(name):
        return "this header cannot be set"
    if not all(character == "\t" or " " <= character <= "~" for character in value):
        return "its value contains a character that is not allowed in headers"
    return None


def refuse_clear_key(base_url: str, profile: Profile) -> None:
    """Check that a key does not leave this machine unencrypted, unless the user's profile allows it.

    Args:
        base_url: the address.
        profile: of the provider.

    Raises:
        UsageError: it would.
    """
    if urlsplit(base_url).scheme != "http" or is_loopback(base_url):
        return
    if profile.allow_http and (profile.base_url is None or is_loopback(profile.base_url)):
        return
    if profile.allow_http and host_and_port(base_url) in {host_and_port(each) for each in profile.addresses}:
        return
    host, port = host_and_port(base_url)
    key = profile.key_variable or "the key"
    raise UsageError(
        f"http://{urlsplit(base_url).netloc} would send {key} unencrypted",
        help_text=f"use https; or a tunnel, ssh -L 8000:localhost:{port} {host}, with --base-url "
        f"http://127.0.0.1:8000/v1; or unset {key} if the server needs no key; or set allow_http = true for it in "
        "providers.toml",
    )


_MOST_BYTES = 65_536
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_NAMED = re.compile(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*\S")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def key_from_variable(profile: Profile, environment: Mapping[str, str]) -> Secret | None:
    """Read the key from the provider's environment variable.

    Args:
        profile: of the provider.
        environment: environment variables.

    Returns:
        The key; None if the variable is not set.

    Raises:
        AuthError: the value cannot be a key.
    """
    variable = profile.key_variable
    value = environment.get(variable, "").strip() if variable else ""
    return checked_key(value, variable) if value and variable else None


def key_from_file(path: Path) -> Secret:
    """Read a key from a file that contains nothing else but blanks around it.

    Args:
        path: the file, in UTF-8.

    Returns:
        The key.

    Raises:
        AuthError: the file cannot be read, or does not contain a key.
    """
    help_text = "a key file contains only the key, on one line"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        what = f"there is no key file {path}" if isinstance(error, FileNotFoundError) else f"{path} cannot be read"
        cause = None if isinstance(error, FileNotFoundError) else error.strerror
        raise AuthError(what, cause=cause, help_text=help_text, code="no_key") from error
    if content.startswith(_UTF16):
        raise _no_key(str(path), "does not contain a key: it is UTF-16", "save it as UTF-8")
    try:
        value = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        value = ""
    if not value or len(content) > _MOST_BYTES:
        raise AuthError(f"{path} does not contain a key", help_text=help_text, code="no_key")
    return checked_key(value, str(path))


def key_file_warning(path: Path) -> str | None:
    """Check that only the user can read a key file.

    Args:
        path: the file.

    Returns:
        A warning for the user; None if nobody else can read the file.

    Raises:
        OSError: the file is missing.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"warning: other users of this machine can read {path}; run `chmod 600 {path}`"
    return None


def checked_key(value: str, source: str) -> Secret:
    """Check that a header can carry a key.

    Args:
        value: the key, without blanks around it.
        source: where it was found, for messages.

    Returns:
        The key.

    Raises:
        AuthError: a header cannot carry it, or it is plainly more than a key.
    """
    value = value.removeprefix("\ufeff")
    if value[:1] in _QUOTES or value[-1:] in _QUOTES:
        raise _no_key(source, "has quotation marks around the key", "remove them")
    if _NAMED.match(value):
        raise _no_key(source, "has NAME= before the key", "leave only the key there")
    if value.lower().startswith("bearer "):
        raise _no_key(source, "has the word Bearer before the key", "leave only the key there")
    for place, character in enumerate(value, 1):
        if not "!" <= character <= "~":
            name = f"'{character}'" if character.isprintable() and character != " " else _name_of(character)
            raise _no_key(source, f"has a character that no key has: {name} at position {place}", "copy the key again")
    return Secret(value, source)


def _name_of(character: str) -> str:
    names = {" ": "a blank", "\n": "a line break", "\r": "a line break", "\t": "a tab"}
    return names.get(character, f"U+{ord(character):04X}")


def _no_key(source: str, what: str, help_text: str) -> AuthError:
    return AuthError(f"{source} {what}", help_text=help_text, code="no_key")


def missing_key(profile: Profile, environment: Mapping[str, str] = os.environ) -> AuthError:
    """Make the error for a missing key. It names the variable that was probably misspelt.

    Args:
        profile: of the provider.
        environment: environment variables.

    Returns:
        The error, to be raised.
    """
    variable = profile.key_variable
    near = nearly_named(profile, environment)
    hint = f"{near} is set: did you mean it? export {variable}=${near}" if near else f"export {variable}=..."
    return AuthError(
        f"there is no API key for {profile.name}: {variable} is not set",
        help_text=f"{hint}, or use a file with --api-key-file",
        code="no_key",
    )


def nearly_named(profile: Profile, environment: Mapping[str, str]) -> str | None:
    """Find a variable whose name is nearly that of the provider's key variable.

    Args:
        profile: of the provider.
        environment: environment variables.

    Returns:
        Its name; None if there is none.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and needed without a key only

    known = {each.key_variable for each in PROFILES.values()}
    others = [name for name, value in environment.items() if value.strip() and name not in known]
    telling = [name for name in others if re.search(r"KEY|TOKEN|SECRET", name.upper())]
    by_capitals = {name.upper(): name for name in telling}
    found = get_close_matches(profile.key_variable or "", by_capitals, 1, 0.8)
    return by_capitals[found[0]] if found else None
