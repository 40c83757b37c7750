import pytest

from asyncgen.job.checks import AnswerChecks, count_sentences
from asyncgen.job.model import Checks


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One.", 1),
        ("One. Two!", 2),
        ("One? Two", 2),
        ("Pay 3.5 less at shop.example today.", 1),
        ('He said "go." Then he went...', 2),
        ("Wait… what?!", 2),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert count_sentences(text) == count


def test_every_check_that_fails_is_named_in_order() -> None:
    checks = AnswerChecks(
        Checks(max_sentences=1, max_words=3, max_characters=10, must_match=["[.]$"], must_not_match=[r"\d", "z"])
    )
    assert checks.failures("One two 3. Four five") == [
        "max_sentences",
        "max_words",
        "max_characters",
        "must_match: [.]$",
        r"must_not_match: \d",
    ]
    assert checks.failures("Fine it.") == []


def test_without_checks_everything_passes() -> None:
    assert AnswerChecks(Checks()).failures("x " * 10_000) == []
