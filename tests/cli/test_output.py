"""What is printed: folded at words on a terminal, as it is in a pipe; colour by meaning; tables that become blocks."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.cli.output import result, say, show_error, table
from asyncgen.errors import UsageError
from asyncgen.terminal import cells, counted, in_units, wrapped

LONG = "the local server fetched its model and its licence, and put both of them in a folder of the user's cache " * 2


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal of 60 columns in the place of the streams; within a test, for pytest sets its own before it."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


def test_lines_are_folded_at_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    say(LONG)
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(terminal.getvalue().split()) == LONG.strip()


def test_nothing_is_folded_or_coloured_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"warning: {LONG}")
    result(LONG)
    shown = capsys.readouterr()
    assert shown.err == f"warning: {LONG}\n"
    assert shown.out == f"{LONG}\n"


def test_a_command_to_be_copied_is_left_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    command = (
        "next: asyncgen generate campaign.toml --provider custom --base-url http://127.0.0.1:9777/v1 --model simulated"
    )
    say(command)
    assert terminal.getvalue().endswith(command.removeprefix("next:") + "\n")


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_is_off_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    terminal = as_terminal(monkeypatch)
    show_error(UsageError("wrong"), as_json=False)
    assert "\x1b[" in terminal.getvalue()
    terminal.truncate(0)
    monkeypatch.setenv(variable, value)
    show_error(UsageError("wrong"), as_json=False)
    assert "\x1b[" not in terminal.getvalue()


def test_text_from_elsewhere_cannot_colour_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    say("\x1b[31mred\x1b[0m")
    assert "\x1b" not in terminal.getvalue()


def test_a_table_that_is_too_wide_becomes_blocks() -> None:
    rows = [("ftjob-1", "2026-11-29 10:08", "succeeded", "a-model-with-a-long-name"), ("ftjob-2", "", "failed", "m")]
    headers = ("job", "created", "state", "model")
    assert list(table(headers, rows, 0)) == list(table(headers, rows, 200))
    blocks = list(table(headers, rows, 40))
    assert blocks[0] == "ftjob-1"
    assert blocks[1] == "  created  2026-11-29 10:08"
    assert "  created  " not in blocks[-2:]
    assert all(cells(line) <= 40 for text in blocks for line in text.split("\n"))


@given(st.text(alphabet="ab 漢\n", max_size=300), st.integers(20, 80), st.integers(0, 10))
def test_folding_loses_no_word_and_keeps_within_the_width(text: str, width: int, hang: int) -> None:
    shown = wrapped(text, width, hang)
    assert shown.split() == text.split()
    widest = max(map(cells, text.split()), default=0)
    for line in shown.split("\n"):
        assert cells(line.rstrip()) <= max(width, widest + 10 + len(line) - len(line.lstrip()))


def test_numbers_have_the_noun_that_they_need() -> None:
    assert (counted(1, "answer"), counted(2000, "answer"), counted(0, "row")) == ("1 answer", "2,000 answers", "0 rows")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (1, "1 byte"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (150_880_000, "151 MB"),
        (999_900, "1.0 MB"),
        (2e13, "20 TB"),
    ],
)
def test_sizes_are_told_in_their_unit(size: float, words: str) -> None:
    assert in_units(size) == words
