"""asyncgen.finetune.source: what all samples of a file share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.finetune.source import common_suffix, ending_in, example_prompt, separator_in, taught_form
from asyncgen.run.state import DatasetState

if TYPE_CHECKING:
    from pathlib import Path

    from asyncgen.run.directory import RunWriter


def written(path: Path, *samples: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    return path


def chat(system: str | None, prompt: str) -> dict[str, Any]:
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, {"role": "user", "content": prompt}, {"role": "assistant", "content": "x"}]}


@pytest.mark.parametrize(
    ("sample", "prompt"),
    [
        (chat("Be brief.", "Paris, dry"), "Paris, dry"),
        ({"prompt": "Paris, dry\n\n###\n\n", "completion": " Oui. END"}, "Paris, dry"),
        ({"input": {"messages": [{"role": "user", "content": "Paris"}]}, "preferred_output": []}, "Paris"),
        (chat(None, "two\nlines"), "YOUR PROMPT"),
        (chat(None, "long " * 50), "YOUR PROMPT"),
    ],
)
def test_the_example_of_a_question_is_a_short_prompt_of_the_dataset(
    run: RunWriter, sample: dict[str, Any], prompt: str
) -> None:
    written(run.directory.train, sample)
    form = DatasetState(files=[], format="completion", separator="\n\n###\n\n")
    run.update(lambda state: msgspec.structs.replace(state, dataset=form))
    assert example_prompt(run.directory) == prompt


def test_a_system_message_that_all_chats_have_is_taught(tmp_path: Path) -> None:
    form = taught_form(written(tmp_path / "f", chat("Be brief.", "a"), chat("Be brief.", "b")))
    assert (form.format, form.system) == ("chat", "Be brief.")


@pytest.mark.parametrize("second", [None, "Be long."])
def test_a_system_message_that_only_some_have_is_not(second: str | None, tmp_path: Path) -> None:
    assert taught_form(written(tmp_path / "f", chat("Be brief.", "a"), chat(second, "b"))).system is None


def test_a_preference_file_teaches_its_conversations_system_message(tmp_path: Path) -> None:
    sample = {"input": chat("Be brief.", "a"), "preferred_output": [], "non_preferred_output": []}
    assert taught_form(written(tmp_path / "f", sample)).system == "Be brief."


def test_separator_and_ending_of_prepared_pairs_are_found(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{city}, small -->", "completion": f" Come to {city}.\n"} for city in ("Rome", "Paris")]
    form = taught_form(written(tmp_path / "f", *pairs))
    assert (form.format, form.separator, form.ending) == ("completion", " -->", "\n")


@pytest.mark.parametrize(
    ("suffix", "separator"),
    [(", small -->", " -->"), ("\n\n###\n\n", "\n\n###\n\n"), (", small", ""), ("?", ""), (" ->", " ->"), ("", "")],
)
def test_words_that_happen_to_be_the_same_are_no_separator(suffix: str, separator: str) -> None:
    assert separator_in(suffix) == separator


@pytest.mark.parametrize(
    ("suffix", "ending"), [(".\n", "\n"), (".", ""), ("now! END", " END"), ("###", ""), ("", ""), ("\n\n", "\n\n")]
)
def test_a_full_stop_is_no_ending(suffix: str, ending: str) -> None:
    assert ending_in(suffix) == ending


@given(st.text(), st.text(), st.text())
def test_a_common_suffix_is_the_longest_one(first: str, second: str, shared: str) -> None:
    found = common_suffix(first + shared, second + shared)
    assert found.endswith(shared)
    assert (first + shared).endswith(found)
    assert (second + shared).endswith(found)
