"""What is asked and told, and what follows from the answers."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.pairs.facts import count_cases, gather
from asyncgen.dataset.pairs.prepare import PreparedPairs, permutation, prepare_pairs
from asyncgen.dataset.pairs.table import PairRow
from asyncgen.errors import AsyncgenError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "prompt,completion\n"


class Answers:
    """Says yes, but to questions that hold one of these words."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.asked: list[str] = []
        self.heard: list[str] = []

    def found(self, text: str) -> None:
        self.heard.append(text)

    def necessary(self, text: str) -> None:
        self.heard.append(text)

    def accepts(self, question: str) -> bool:
        self.asked.append(question)
        return not any(word in question for word in self.refused)

    def insists(self, question: str) -> bool:
        return self.accepts(question)


def write(folder: Path, *rows: tuple[str, str], name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": left, "completion": right}) + "\n" for left, right in rows))
    return path


def pairs(prepared: PreparedPairs) -> list[tuple[str, str]]:
    [path] = prepared.files
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["prompt"], row["completion"]) for row in rows]


ROWS = [("one", "x y"), ("two", "x z"), ("one", "x y")]


def test_each_remedy_is_asked_for_in_the_order_of_the_checks(tmp_path: Path) -> None:
    answers = Answers()
    prepare_pairs(write(tmp_path, *ROWS), answers)
    assert answers.asked == [
        "Drop the 1 duplicates",
        "End all prompts with ` ->`",
        "End all completions with `\\n`",
        "Begin all completions with a space",
        "Write the result to a new JSONL file?",
    ]


@pytest.mark.parametrize(
    ("refused", "first", "count"),
    [
        ("nothing", ("one ->", " x y\n"), 2),
        ("duplicates", ("one ->", " x y\n"), 3),
        ("prompts", ("one", " x y\n"), 2),
        ("End all completions", ("one ->", " x y"), 2),
        ("space", ("one ->", "x y\n"), 2),
    ],
)
def test_a_refused_remedy_is_left_out_and_the_others_are_applied(
    tmp_path: Path, refused: str, first: tuple[str, str], count: int
) -> None:
    rows = pairs(prepare_pairs(write(tmp_path, *ROWS), Answers(refused)))
    assert rows[0] == first
    assert len(rows) == count


def test_with_every_remedy_refused_there_is_nothing_to_write(tmp_path: Path) -> None:
    prepared = prepare_pairs(write(tmp_path, *ROWS), Answers("Drop", "End", "Begin"))
    assert (prepared.outcome, prepared.files) == ("fits", ())


def test_nothing_is_written_when_that_is_refused(tmp_path: Path) -> None:
    prepared = prepare_pairs(write(tmp_path, *ROWS), Answers("Write"))
    assert prepared.outcome == "declined"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_files_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    names = [prepare_pairs(path, Answers()).files[0].name for _ in range(3)]
    assert names == ["a_prepared.jsonl", "a_prepared (1).jsonl", "a_prepared (2).jsonl"]


def test_a_number_in_the_results_name_is_told(tmp_path: Path) -> None:
    path, answers = write(tmp_path, *ROWS), Answers()
    prepare_pairs(path, Answers())
    prepare_pairs(path, answers)
    assert any("a_prepared (1).jsonl" in text for text in answers.heard)


def test_shifted_columns_are_taken_for_labels_only_where_somebody_insists(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "hotel 1,Stay with us, offer!\nhotel 2,Stay, too, long!\n")
    with pytest.raises(AsyncgenError, match=r"columns of .* are shifted") as raised:
        prepare_pairs(path, Answers("row labels"))
    assert "line 2" in str(raised.value.cause)
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_columns_of_other_names_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\na,b c\nd,e f\n")
    prepared = prepare_pairs(path, Answers(), columns={"prompt": "question", "completion": "answer"})
    assert pairs(prepared) == [("a ->", " b c\n"), ("d ->", " e f\n")]


def test_one_half_of_an_earlier_split_is_enough_to_take_another_name(tmp_path: Path) -> None:
    path = write(tmp_path, *((f"{number} ->", f" {number % 2}") for number in range(20)))
    (tmp_path / "a_prepared_valid.jsonl").touch()
    prepared = prepare_pairs(path, Answers())
    assert [file.name for file in prepared.files] == ["a_prepared_train (1).jsonl", "a_prepared_valid (1).jsonl"]


def test_a_split_has_the_legacy_sizes_and_loses_no_row(tmp_path: Path) -> None:
    rows = [(f"{number} ->", f" {number % 3}") for number in range(57)]
    prepared = prepare_pairs(write(tmp_path, *rows), Answers())
    assert prepared.rows == (45, 12)
    lines = [line for path in prepared.files for line in path.read_text().splitlines()]
    assert Counter((row["prompt"], row["completion"]) for row in map(json.loads, lines)) == Counter(rows)
    assert prepared.classes == 3


def test_a_separator_and_an_ending_of_the_users_own_are_added_where_they_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path, ("one -->", " x\n"), ("two", " y"))
    prepared = prepare_pairs(path, Answers(), separator=" -->", ending="\n")
    assert pairs(prepared) == [("one -->", " x\n"), ("two -->", " y\n")]
    assert (prepared.separator, prepared.ending) == (" -->", "\n")


def test_the_users_own_are_not_added_again(tmp_path: Path) -> None:
    path = write(tmp_path, ("one -->", " x\n"), ("two -->", " y\n"))
    assert prepare_pairs(path, Answers(), separator=" -->", ending="\n").outcome == "fits"


def test_an_empty_separator_means_none(tmp_path: Path) -> None:
    prepared = prepare_pairs(write(tmp_path, ("one", "x"), ("two", "y")), Answers(), separator="", ending="")
    assert pairs(prepared) == [("one", " x"), ("two", " y")]


def test_words_that_were_taken_as_empty_or_null_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt":null,"completion":"b"}\n{"prompt":"c","completion":"d"}\n')
    answers = Answers()
    prepare_pairs(path, answers)
    assert any("null or missing" in text and '"None"' in text for text in answers.heard)


def test_rows_that_the_legacy_tool_drops_by_mistake_are_warned_of(tmp_path: Path) -> None:
    answers = Answers()
    path = write(tmp_path, ("a", ""), ("b", "y"), ("c", "z" * 10_001), ("d", "u"), ("e", "v"))
    prepare_pairs(path, answers)
    assert any("the legacy tool drops other rows" in text for text in answers.heard)


@pytest.mark.parametrize("count", [1, 2, 5, 100, 1500])
def test_the_shuffle_is_numpys(count: int) -> None:
    numpy = pytest.importorskip("numpy")
    assert permutation(count, 42) == numpy.random.RandomState(42).permutation(count).tolist()


letters = st.text(st.sampled_from("aBcÄöİǅ1 ->\n.#"), max_size=5)


@given(st.lists(st.tuples(letters, letters), max_size=12))
def test_facts_are_those_of_looking_at_all_rows_at_once(rows: list[Any]) -> None:
    facts = gather(PairRow(label, *row) for label, row in enumerate(rows))
    filled = [(label, *row) for label, row in enumerate(rows) if row[1]]
    assert facts.rows == len(filled)
    assert list(facts.empty) == [label for label, row in enumerate(rows) if not row[1]]
    assert facts.classes == len({completion for _, _, completion in filled})
    for column, cells in ((facts.prompt, [row[1] for row in filled]), (facts.completion, [row[2] for row in filled])):
        assert column.prefix == common(cells)
        assert column.suffix == common([cell[::-1] for cell in cells])[::-1]
        assert column.line_breaks == any("\n" in cell for cell in cells)
        assert column.all_start_with_space == all(cell.startswith(" ") for cell in cells)
        assert (column.upper, column.lower) == count_one_by_one("".join(cells))


def common(cells: list[str]) -> str:
    prefix = ""
    while cells and all(cell.startswith(cells[0][: len(prefix) + 1]) for cell in cells) and prefix != cells[0]:
        prefix = cells[0][: len(prefix) + 1]
    return prefix


def count_one_by_one(text: str) -> tuple[int, int]:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter.isupper() for letter in letters), sum(letter.islower() for letter in letters)


@given(st.text())
def test_cases_are_counted_as_one_by_one(text: str) -> None:
    assert count_cases(text) == count_one_by_one(text)
