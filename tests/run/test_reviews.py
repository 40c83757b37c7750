import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.run.jsonl import BadLineError
from asyncgen.run.reviews import REVIEWED_NAME, Review, add_review, answer_digest, current_reviews, read_reviews

ANSWER = {"k1": answer_digest("one"), "k2": answer_digest("two")}


def review(number: int, action: str, **fields: object) -> Review:
    return Review(id=str(number), created=number, action=action, **fields)  # type: ignore[arg-type]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    add_review(tmp_path, review(1, "reject", answers=ANSWER))
    found = read_reviews(tmp_path)
    assert found.is_rejected("k1", "one")
    assert not found.is_rejected("k3", "one")


def test_a_row_that_was_asked_for_again_is_judged_anew(tmp_path: Path) -> None:
    add_review(tmp_path, review(1, "reject", answers=ANSWER))
    assert not read_reviews(tmp_path).is_rejected("k1", "another answer")


def test_a_restored_answer_is_rejected_no_more() -> None:
    found = current_reviews([review(1, "reject", answers=ANSWER), review(2, "restore", answers={"k1": ANSWER["k1"]})])
    assert (found.is_rejected("k1", "one"), found.is_rejected("k2", "two")) == (False, True)


def test_undo_takes_back_one_decision_and_those_before_it_hold_again() -> None:
    lines = [
        review(1, "reject", answers=ANSWER),
        review(2, "restore", answers=ANSWER),
        review(3, "undo", of="2"),
    ]
    found = current_reviews(lines)
    assert found.is_rejected("k1", "one")
    assert found.undoable == ("1",)
    assert current_reviews([*lines, review(4, "undo", of="1")]).rejected == {}


def test_what_was_seen_is_no_decision_to_undo() -> None:
    found = current_reviews([review(1, "seen", answers=ANSWER)])
    assert (dict(found.seen), found.undoable) == (ANSWER, ())


def test_a_run_that_nobody_looked_at_has_no_reviews(tmp_path: Path) -> None:
    assert read_reviews(tmp_path).rejected == {}


def test_a_torn_line_is_put_aside_before_the_next_one(tmp_path: Path) -> None:
    add_review(tmp_path, review(1, "reject", answers=ANSWER))
    path = tmp_path / REVIEWED_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    add_review(tmp_path, review(2, "restore", answers={"k1": ANSWER["k1"]}))
    assert not read_reviews(tmp_path).is_rejected("k1", "one")
    assert path.with_name(path.name + ".torn").exists()


def test_a_line_that_is_no_review_is_told(tmp_path: Path) -> None:
    (tmp_path / REVIEWED_NAME).write_text(json.dumps({"id": "1", "created": 1, "action": "burn"}) + "\n")
    with pytest.raises(BadLineError):
        read_reviews(tmp_path)


@given(st.text())
def test_every_answer_has_a_digest(text: str) -> None:
    assert len(answer_digest(text)) == 16
