"""Files become chat samples, and training lines are checked and mended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asyncgen.dataset.prepare_file import prepare_file
from asyncgen.errors import AsyncgenError
from asyncgen.job.model import DatasetSettings
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from pathlib import Path

OPENAI = PROFILES["openai"]


class Answers:
    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.heard: list[str] = []

    def found(self, text: str) -> None:
        self.heard.append(text)

    def necessary(self, text: str) -> None:
        self.heard.append(text)

    def accepts(self, question: str) -> bool:
        return not any(word in question for word in self.refused)

    def insists(self, question: str) -> bool:
        return self.accepts(question)


def csv(folder: Path, *rows: str) -> Path:
    path = folder / "a.csv"
    path.write_text("prompt,completion\n" + "".join(f"{row}\n" for row in rows))
    return path


def chats(folder: Path, *lines: Any, mark: bytes = b"") -> Path:
    path = folder / "a.jsonl"
    path.write_bytes(mark + "".join(json.dumps(line) + "\n" for line in lines).encode())
    return path


def chat(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Shop {number}"}, {"role": "assistant", "content": "Buy."}]}


TWELVE = [f"shop {number},Text {number}." for number in range(12)]


def test_pairs_become_chats_without_separators(tmp_path: Path) -> None:
    prepared = prepare_file(csv(tmp_path, *TWELVE), Answers(), DatasetSettings(system="Sell."), OPENAI)
    [path] = prepared.files
    assert path.name == "a_prepared.jsonl"
    assert json.loads(path.read_text().splitlines()[0]) == {
        "messages": [
            {"role": "system", "content": "Sell."},
            {"role": "user", "content": "shop 0"},
            {"role": "assistant", "content": "Text 0."},
        ]
    }
    assert prepared.samples == (12,)
    assert prepared.tokens.summary().count == 12


def test_duplicates_and_empty_answers_are_dropped_before(tmp_path: Path) -> None:
    answers = Answers()
    path = csv(tmp_path, *TWELVE, "shop 3,Text 3.", "shop 99,")
    assert prepare_file(path, answers, DatasetSettings(), OPENAI).samples == (12,)
    assert any("empty" in text for text in answers.heard)


def test_a_validation_share_splits_the_file_and_the_same_pair_never_stands_on_both_sides(tmp_path: Path) -> None:
    rows = [f"shop {number % 60},Text {number % 60}." for number in range(120)]
    path = csv(tmp_path, *rows)
    prepared = prepare_file(path, Answers("Drop"), DatasetSettings(validation=0.2), OPENAI)
    train, validation = (set(file.read_text().splitlines()) for file in prepared.files)
    assert [file.name for file in prepared.files] == ["a_prepared_train.jsonl", "a_prepared_valid.jsonl"]
    assert not train & validation
    assert sum(prepared.samples) == 120
    assert validation


def test_rows_without_a_prompt_or_an_answer_are_left_out_and_told_with_their_lines(tmp_path: Path) -> None:
    answers = Answers()
    prepared = prepare_file(
        csv(tmp_path, *TWELVE, ",Text.", "shop 99, ", " ,\u00a0"), answers, DatasetSettings(), OPENAI
    )
    assert (prepared.read, prepared.samples, prepared.left_out) == (15, (12,), {"empty": 3})
    for line in ("no prompt (required in a chat): line 14", "an empty completion: line 15", "nor completion: line 16"):
        assert any(line in text for text in answers.heard)


def test_of_thousands_of_unused_columns_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(5000)]
    path = tmp_path / "a.csv"
    lines = [",".join(["prompt", "completion", *names]), *(f"{row},{','.join(names)}" for row in TWELVE)]
    path.write_text("\n".join(lines) + "\n")
    answers = Answers()
    assert prepare_file(path, answers, DatasetSettings(), OPENAI).samples == (12,)
    [told] = [text for text in answers.heard if "`c0`" in text]
    assert "4,980 more" in told
    assert len(told) < 500


def test_one_pair_is_told_as_one(tmp_path: Path) -> None:
    answers = Answers()
    with pytest.raises(AsyncgenError):
        prepare_file(csv(tmp_path, TWELVE[0]), answers, DatasetSettings(), OPENAI)
    assert any(text.startswith("There is 1 pair of prompt and completion") for text in answers.heard)


def test_too_few_rows_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="would refuse") as raised:
        prepare_file(csv(tmp_path, *TWELVE[:9]), Answers(), DatasetSettings(), OPENAI)
    assert "at least 10" in str(raised.value.cause)
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_writing_can_be_declined(tmp_path: Path) -> None:
    prepared = prepare_file(csv(tmp_path, *TWELVE), Answers("Write"), DatasetSettings(), OPENAI)
    assert prepared.declined
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_good_training_lines_can_be_used_as_they_are(tmp_path: Path) -> None:
    path = chats(tmp_path, *map(chat, range(10)))
    prepared = prepare_file(path, Answers(), DatasetSettings(), OPENAI)
    assert (prepared.files, prepared.samples, prepared.format) == ((), (10,), "chat")
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_training_lines_are_refused_with_each_place(tmp_path: Path) -> None:
    path = chats(tmp_path, *map(chat, range(10)), {"messages": []}, 5)
    with pytest.raises(AsyncgenError, match="2 faults") as raised:
        prepare_file(path, Answers(), DatasetSettings(), OPENAI)
    assert f"{path}:11: " in str(raised.value.cause)
    assert f"{path}:12: " in str(raised.value.cause)


def test_only_the_first_twenty_faults_are_shown(tmp_path: Path) -> None:
    path = chats(tmp_path, *[{"messages": []}] * 50)
    with pytest.raises(AsyncgenError) as raised:
        prepare_file(path, Answers(), DatasetSettings(), OPENAI)
    assert str(raised.value.cause).count("\n") == 20
    assert str(raised.value.cause).endswith("... and 30 more")


def test_repeated_lines_are_dropped_when_that_is_accepted(tmp_path: Path) -> None:
    path = chats(tmp_path, *map(chat, range(10)), chat(3))
    [written] = prepare_file(path, Answers(), DatasetSettings(), OPENAI).files
    assert written.read_text().splitlines() == path.read_text().splitlines()[:10]
    kept = prepare_file(path, Answers("Drop"), DatasetSettings(), OPENAI)
    assert kept.files == ()


def test_a_byte_order_mark_is_added_and_taken_off_as_the_provider_wants_it(tmp_path: Path) -> None:
    plain = chats(tmp_path, *map(chat, range(10)))
    [marked] = prepare_file(plain, Answers(), DatasetSettings(), PROFILES["azure"]).files
    assert marked.read_bytes() == b"\xef\xbb\xbf" + plain.read_bytes()
    assert prepare_file(marked, Answers(), DatasetSettings(), PROFILES["azure"]).files == ()
    [without] = prepare_file(marked, Answers(), DatasetSettings(), OPENAI).files
    assert without.read_bytes() == plain.read_bytes()


def test_preferences_are_split_too(tmp_path: Path) -> None:
    lines = [
        {
            "input": {"messages": [{"role": "user", "content": f"Shop {number}"}]},
            "preferred_output": [{"role": "assistant", "content": "Buy here."}],
            "non_preferred_output": [{"role": "assistant", "content": "Buy."}],
        }
        for number in range(60)
    ]
    prepared = prepare_file(chats(tmp_path, *lines), Answers(), DatasetSettings(validation=0.2), OPENAI)
    assert prepared.format == "dpo"
    assert sum(prepared.samples) == 60
    assert len(prepared.files) == 2


def test_a_share_too_small_for_the_file_is_told_and_leaves_no_empty_file(tmp_path: Path) -> None:
    answers = Answers()
    path = chats(tmp_path, *map(chat, range(10)))
    prepared = prepare_file(path, answers, DatasetSettings(validation=0.0001), OPENAI)
    assert prepared.samples == (10,)
    assert any("validation" in text for text in answers.heard)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "a_prepared_train.jsonl"]
