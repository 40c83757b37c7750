"""asyncgen.providers.endpoint: where a key is found, and which can be sent."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import AuthError
from asyncgen.providers.endpoint import checked_key, key_file_warning, key_from_file, key_from_variable, missing_key
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from pathlib import Path

OPENAI = PROFILES["openai"]
KEY = "sk-canary-3141592653589793"


def shown(error: AuthError) -> str:
    return f"{error.what} {error.cause} {error.help_text}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (f"{KEY}\u2014x", "'\u2014' at position 27"),
        (f"{KEY}\nx", "a line break at position 27"),
        (f"{KEY} x", "a blank at position 27"),
        (f"{KEY}\x00", "U+0000"),
        (f"{KEY}\u200b", "U+200B"),
        (f"{KEY}\u00e9", "'\u00e9'"),
        (f'"{KEY}"', "quotation marks"),
        (f"'{KEY}'", "quotation marks"),
        (f"\u201c{KEY}\u201d", "quotation marks"),
        (f"OPENAI_API_KEY={KEY}", "NAME="),
        (f"export OPENAI_API_KEY={KEY}", "NAME="),
        (f"Bearer {KEY}", "Bearer"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_unseen(value: str, told: str) -> None:
    with pytest.raises(AuthError) as caught:
        key_from_variable(OPENAI, {"OPENAI_API_KEY": value})
    assert caught.value.exit_code == 4
    assert told in shown(caught.value)
    assert "31415" not in shown(caught.value)


@given(st.text(min_size=1))
def test_any_key_is_refused_or_fits_into_a_header(value: str) -> None:
    try:
        key = checked_key(value.strip() or "x", "HERE")
    except AuthError:
        return
    assert key.reveal().isascii()
    assert not any(character.isspace() or not character.isprintable() for character in key.reveal())


@pytest.mark.parametrize(
    "content", [f"{KEY}\n".encode(), codecs.BOM_UTF8 + KEY.encode() + b"\r\n", f" {KEY} ".encode()]
)
def test_a_key_file_may_have_blanks_and_a_byte_order_mark(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert key_from_file(path).reveal() == KEY


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"two words", b"two\nlines", b"\xff", KEY.encode("utf-16"), f"KEY={KEY}".encode(), b"k" * 70_000],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(AuthError) as caught:
        key_from_file(path)
    assert "31415" not in shown(caught.value)


def test_a_key_file_that_is_none_is_told_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(AuthError) as caught:
            key_from_file(path)
        assert "Errno" not in shown(caught.value)
        assert caught.value.help_text


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY, encoding="utf-8")
    path.chmod(0o644)
    assert "chmod 600" in (key_file_warning(path) or "")
    path.chmod(0o600)
    assert key_file_warning(path) is None


@pytest.mark.parametrize(
    "near", ["OPENAI_KEY", "OPENAI_APIKEY", "OPENAI_API_TOKEN", "OPEN_AI_API_KEY", "openai_api_key"]
)
def test_a_variable_that_is_nearly_right_is_named(near: str) -> None:
    error = missing_key(OPENAI, {near: KEY, "NEBIUS_API_KEY": "k", "PATH": "/bin"})
    assert f"{near} is set: did you mean it?" in (error.help_text or "")
    assert "31415" not in shown(error)
    assert "did you mean" not in (missing_key(OPENAI, {"NEBIUS_API_KEY": "k"}).help_text or "")
