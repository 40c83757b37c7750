"""TOML that a person wrote: errors in our own words, and the lines of keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import Problem
from asyncgen.toml_text import line_of, parse_toml

TEXT = '''name = "x"
[grid]
city = ["a"]  # [not.a.table]
[prompt]
user = """
city = 1
[grid]
"""
sample = "{city}"
[[prompt.examples]]
city = "b"
[[prompt.examples]]
city = "c"
[on.local.prompt]
user = "y"
'''


def test_keys_are_found_in_their_tables() -> None:
    keys = ["name", "grid.city", "prompt.user", "prompt.sample", "prompt.examples[2].city", "on.local.prompt.user"]
    assert [line_of(TEXT, key) for key in keys] == [1, 3, 5, 9, 13, 15]


def test_a_table_without_a_header_has_the_line_of_its_first_dotted_key() -> None:
    text = 'name = "x"\nsubset.seed = 7\ngrid.city.file = "a.csv"\ngrid.city.column = "b"\n'
    assert [line_of(text, key) for key in ("subset", "grid.city", "grid", "rows")] == [2, 3, 3, None]


def test_a_key_that_is_missing_has_the_line_of_its_table() -> None:
    assert line_of(TEXT, "grid.town") == 2
    assert line_of(TEXT, "prompt.examples[1].size") == 10
    assert line_of(TEXT, "prompt.openings[1]") == 4
    assert line_of(TEXT, "rows") is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('name = "x\n', 1, "no closing quote"),
        ('a = 1\ncity = [\n  "a",\nb = 3\n', 2, "a list that begins here is not closed"),
        ('city = [\n  "a",\n[prompt]\nuser = "b"\n', 1, "a list that begins here is not closed"),
        ("a = { x = 1\n", 1, "a table that begins here is not closed"),
        ('name = "x"\nother = 1\nname = "y"\n', 3, "`name` is set twice (lines 1 and 3)"),
        ("[a]\nx = 1\n[b]\n[a]\n", 4, "`a` is set twice (lines 1 and 4)"),
        ("[a]\nx = 1\nx = 2\n", 3, "`a.x` is set twice (lines 2 and 3)"),
        ("a = { x = 1, x = 2 }", 1, "is set twice"),
        ("flag = True\n", 1, "true and false are lower case"),
        ("city\n", 1, "a key needs ="),
        ("x = 1 2\n", 1, "unexpected text at the end of the line"),
        ("[table\n", 1, "needs a closing ]"),
        ('path = "C:\\data"\n', 1, "must be doubled"),
        ("x = '''abc\n", 2, "no closing quotes"),
        ("name = \u201cx\u201d\n", 1, "not a value"),
    ],
)
def test_what_is_no_toml_is_told_in_our_words_with_line_and_caret(text: str, line: int, words: str) -> None:
    problem = parse_toml(text)
    assert isinstance(problem, Problem)
    assert problem.line == line
    assert words in problem.message
    if "twice (" not in problem.message:
        shown, caret = problem.message.splitlines()[-2:]
        assert shown.startswith(f"  {line} | ")
        assert caret.strip() == "^"


@given(st.text())
def test_any_text_is_toml_or_one_problem(text: str) -> None:
    assert isinstance(parse_toml(text), dict | Problem)
