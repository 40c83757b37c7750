"""Find a provider's API key in its variable or in a file, and check that it can be sent in a header.

No message shows a key, or more of it than one character that no key may contain.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from asyncgen.errors import AuthError
from asyncgen.providers.endpoint import Secret
from asyncgen.providers.profiles import PROFILES, Profile

_MOST_BYTES = 65_536
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_NAMED = re.compile(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*\S")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def key_from_variable(profile: Profile, environment: Mapping[str, str]) -> Secret | None:
    """The key in the provider's variable; None where there is none.

    Raises:
        AuthError: what is there cannot be sent.
    """
    variable = profile.key_variable
    value = environment.get(variable, "").strip() if variable else ""
    return checked_key(value, variable) if value and variable else None


def key_from_file(path: Path) -> Secret:
    """The key in a file, alone or with blanks around it.

    Raises:
        AuthError: it cannot be read, or holds no key.
    """
    help_text = "a key file holds the key alone, on one line"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        what = f"there is no key file {path}" if isinstance(error, FileNotFoundError) else f"{path} cannot be read"
        cause = None if isinstance(error, FileNotFoundError) else error.strerror
        raise AuthError(what, cause=cause, help_text=help_text, code="no_key") from error
    if content.startswith(_UTF16):
        raise _no_key(str(path), "does not hold a key: it is UTF-16", "save it as UTF-8")
    try:
        value = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        value = ""
    if not value or len(content) > _MOST_BYTES:
        raise AuthError(f"{path} does not hold a key", help_text=help_text, code="no_key")
    return checked_key(value, str(path))


def key_file_warning(path: Path) -> str | None:
    """What is to be said of a key file that others on this machine can read; None where they cannot."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"warning: others on this machine can read {path}; `chmod 600 {path}`"
    return None


def checked_key(value: str, source: str) -> Secret:
    """A key that a header can carry.

    Args:
        value: without blanks around it.
        source: where it was found, for messages.

    Raises:
        AuthError: a header cannot carry it, or it is plainly more than a key.
    """
    value = value.removeprefix("\ufeff")
    if value[:1] in _QUOTES or value[-1:] in _QUOTES:
        raise _no_key(source, "holds quotation marks around the key", "leave them out")
    if _NAMED.match(value):
        raise _no_key(source, "holds NAME= before the key", "leave the key alone there")
    if value.lower().startswith("bearer "):
        raise _no_key(source, "holds the word Bearer before the key", "leave the key alone there")
    for place, character in enumerate(value, 1):
        if not "!" <= character <= "~":
            name = f"'{character}'" if character.isprintable() and character != " " else _name_of(character)
            raise _no_key(source, f"holds a character that no key has: {name} at place {place}", "copy the key again")
    return Secret(value, source)


def _name_of(character: str) -> str:
    names = {" ": "a blank", "\n": "a line break", "\r": "a line break", "\t": "a tab"}
    return names.get(character, f"U+{ord(character):04X}")


def _no_key(source: str, what: str, help_text: str) -> AuthError:
    return AuthError(f"{source} {what}", help_text=help_text, code="no_key")


def missing_key(profile: Profile, environment: Mapping[str, str] = os.environ) -> AuthError:
    """The error for a key that is needed and not there, with the variable that was probably meant for it."""
    variable = profile.key_variable
    near = nearly_named(profile, environment)
    hint = f"{near} is set: did you mean it? export {variable}=${near}" if near else f"export {variable}=..."
    return AuthError(
        f"there is no key for {profile.name}: {variable} is not set",
        help_text=f"{hint}, or name a file with --api-key-file",
        code="no_key",
    )


def nearly_named(profile: Profile, environment: Mapping[str, str]) -> str | None:
    """A variable that is set and named nearly as the provider's key variable; None where there is none."""
    known = {each.key_variable for each in PROFILES.values()}
    others = [name for name, value in environment.items() if value.strip() and name not in known]
    telling = [name for name in others if re.search(r"KEY|TOKEN|SECRET", name.upper())]
    by_capitals = {name.upper(): name for name in telling}
    found = get_close_matches(profile.key_variable or "", by_capitals, 1, 0.8)
    return by_capitals[found[0]] if found else None
