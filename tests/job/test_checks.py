import pytest

from asyncgen.job.answers import AnswerChecks, AnswerReader, count_sentences
from asyncgen.job.model import AnswerSettings, Checks


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
    assert checks.failures("One two 3. Four five", {}) == [
        "max_sentences",
        "max_words",
        "max_characters",
        "must_match: [.]$",
        r"must_not_match: \d",
    ]
    assert checks.failures("Fine it.", {}) == []


def test_without_checks_everything_passes() -> None:
    assert AnswerChecks(Checks()).failures("x " * 10_000, {}) == []


def test_places_of_must_contain_are_the_rows_variables() -> None:
    checks = AnswerChecks(Checks(min_words=2, must_contain=["{city}", "100 %"]))
    assert checks.failures("Bonn: 100 %", {"city": "Bonn"}) == []
    assert checks.failures("Oslo", {"city": "Bonn"}) == ["min_words", "must_contain: {city}", "must_contain: 100 %"]
    assert checks.failures("Oslo 100 %", {}) == ["must_contain: {city}"], "a row of an earlier form of the job"


def test_an_answer_that_is_not_of_the_jobs_form_fails_a_check() -> None:
    reader = AnswerReader(AnswerSettings(format="json"), {"required": ["a"]})
    checks = AnswerChecks(Checks(max_words=1), reader)
    assert checks.failures("no json", {}) == ["json", "max_words"]
    assert checks.failures("{}", {}) == ["schema"]
    assert checks.failures('{"a":1}', {}) == []
